"""The benchmark's rows of both streams in one network: time and peak memory of a training step on one sample.

A sample is a clip of 64 frames for the Coarse stream and its window of 128 for the Fine one, at 224 px.
"""

from dataclasses import dataclass

import torch

from configs.schema import Coarse
from engine.step import make_optimizer
from models import CoarseFineNet, CoarseNet, FineNet, cpu_kernels
from models.losses import detection_loss
from tools.benchmark.networks import CLASSES, FINE_PER_COARSE, FRAMES, LABELS_PER_FRAME, SIZE, VARIANT
from tools.benchmark.timing import Result, Setting, median_seconds, peak_gigabytes, reset_peak


@dataclass(frozen=True, kw_only=True)
class Case:
    """What one row runs."""

    fine_frozen: bool
    checkpointed: bool


ROWS = {
    "both_trained": Case(fine_frozen=False, checkpointed=False),
    "both_trained_checkpointed": Case(fine_frozen=False, checkpointed=True),
    "both_frozen": Case(fine_frozen=True, checkpointed=False),
    "both_frozen_checkpointed": Case(fine_frozen=True, checkpointed=True),
}


def measure(case: Case, setting: Setting) -> Result:
    """One row. A single step is timed, since one takes many seconds on a CPU."""
    cpu_kernels.ask_for_huge_pages()
    torch.manual_seed(0)
    reset_peak(setting.device)
    (seconds,) = median_seconds(setting, Step(case, setting.device, frames=FRAMES), least=1, most=1)
    return {"seconds": seconds, "gigabytes": peak_gigabytes(setting.device)}


class Step:
    """An optimizer step on random frames and labels, both heads trained unless the Fine stream is frozen."""

    def __init__(self, case: Case, device: torch.device, *, frames: int) -> None:
        options = {"num_classes": CLASSES, "variant": VARIANT, "checkpoint_activations": case.checkpointed}
        with device:
            self.net = CoarseFineNet(fine=FineNet(**options), coarse=CoarseNet(**options), fine_frozen=case.fine_frozen)
            cpu_kernels.install(self.net)
            window = FINE_PER_COARSE * frames
            clip, fine_clip = (torch.randn(1, T, SIZE, SIZE, 3).permute(0, 4, 1, 2, 3) for T in (frames, window))
            self.inputs = clip, fine_clip, torch.ones(1, window), torch.zeros(1, dtype=torch.long)
            lengths = LABELS_PER_FRAME * frames, LABELS_PER_FRAME * window
            self.labels = [(torch.rand(1, CLASSES, L) < 0.05).float() for L in lengths]
        self.optimizer = make_optimizer(self.net, Coarse(), fusion_lr_factor=Coarse().fusion_lr_factor)

    def __call__(self) -> None:
        heads = zip(self.net(*self.inputs), self.labels, (False, True), strict=True)
        losses = [
            detection_loss(logits, labels, torch.ones_like(labels[:, 0]), align_corners=align)["loss"]
            for logits, labels, align in heads
        ]
        self.optimizer.zero_grad(set_to_none=True)
        sum(losses).backward()
        self.optimizer.step()
