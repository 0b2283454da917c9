"""Measure the networks: seconds, times the floor, and peak memory of one forward pass or one optimizer step.

The floor of a pass is the time for its multiply-adds at the rate of a large matrix product, measured alongside. A
training step counts as three forward passes. Multiply-adds are those of the published networks, so that needing fewer
counts as speed.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from configs.schema import Coarse, Config, Model, Run
from datasets.batch import Batch
from engine.networks import Network, build, logits_at_labels
from engine.step import Step
from models import cpu_kernels, prepare_for_inference
from models.x3d import VARIANTS
from tools.benchmark.timing import Result, Setting, matrix_rate, median_seconds, peak_gigabytes
from tools.complexity.count import count_coarse, count_fine

MODEL, SIZE, CLASSES = Model(), 224, 157
FRAMES = 64
FINE_PER_COARSE = 2  # T' = 128 feature frames for a clip of T = 64
LABELS_PER_FRAME = 10
MULTIPLY_ADDS = {"fine": 19.0e9, "coarse": 12.7e9}  # for one clip of 64 frames, as published; see `count` for ours
QUICK = 4  # quick rows have this many times fewer frames


@dataclass(frozen=True, kw_only=True)
class Case:
    """A forward pass in evaluation, or an optimizer step.

    Attributes:
        stream: "both" is one network with both streams; its Fine stream sees 2 * `frames`.
        fine_frozen: With both streams, train only the Coarse stream.
        checkpointed: Use activation checkpointing.
        plain: Use PyTorch's kernels and default memory layout, norms not folded.
        least, most, budget: Number of repetitions, see `median_seconds`.
    """

    stream: Literal["fine", "coarse", "both"]
    training: bool = False
    batch: int = 1
    frames: int = FRAMES
    fine_frozen: bool = False
    checkpointed: bool = False
    plain: bool = False
    bf16: bool = False
    compiled: bool = False
    least: int = 3
    most: int = 25
    budget: float = 8.0

    @property
    def stage(self) -> str:
        return "fine" if self.stream == "fine" else "coarse"

    @property
    def config(self) -> Config:
        """The configuration of the network and optimizer."""
        source: Literal["network", "store"] = "network" if self.stream == "both" else "store"
        return Config(
            model=replace(MODEL, checkpoint_activations=self.checkpointed),
            coarse=Coarse(fine_source=source, fine_frozen=self.fine_frozen, fine_init="best.pt"),
            run=Run(precision="bf16" if self.bf16 else "fp32"),
        )

    def __call__(self, setting: Setting) -> Result:
        """Measure this case."""
        case = replace(self, frames=self.frames // QUICK) if setting.quick else self
        if not case.plain:
            cpu_kernels.ask_for_huge_pages()
        torch.manual_seed(0)
        rate_before = matrix_rate(setting)
        net, batch = network_and_batch(case, setting.device)
        work = training_step(case, net, batch) if case.training else _evaluation(case, net, batch)
        (seconds,) = median_seconds(setting, work, least=case.least, most=case.most, budget=case.budget)
        measured = {"seconds": seconds, "gigabytes": peak_gigabytes(setting.device)}
        if case.stream == "both":  # there is no published count
            return measured
        rate, passes = (rate_before + matrix_rate(setting)) / 2, 3 if case.training else 1
        floor = 2 * MULTIPLY_ADDS[case.stream] * case.batch * case.frames / FRAMES * passes / rate
        return measured | {
            "frames": case.frames,
            "batch": case.batch,
            "matrix_rate": rate,
            "floor_seconds": floor,
            "times_floor": seconds / floor,
        }


def count(setting: Setting) -> Result:
    """Multiply-adds of our networks for one evaluated clip of 64 frames, counted without running them."""
    return {
        "fine": count_fine(Config(), FRAMES).total,
        "coarse": count_coarse(Config(), FRAMES, FINE_PER_COARSE * FRAMES).total,
    }


def network_and_batch(case: Case, device: torch.device) -> tuple[Network, Batch]:
    """The network, and a random batch in the form that `datasets.batch.prepare` returns."""
    B, T, window = case.batch, case.frames, FINE_PER_COARSE * case.frames
    with device:
        net = build(case.config, case.stage)
        labels, mask = _labels(B, T)
        frames = torch.full((B,), T)
        batch = Batch(
            videos=["video"] * B, clip=_clip(B, T), frames=frames, labels=labels, mask=mask, num_frames=10 * frames
        )
        if case.stream != "fine":
            batch["fine_mask"], batch["start"] = torch.ones(B, window), torch.zeros(B, dtype=torch.long)
        if case.stream == "coarse":
            channels = VARIANTS[MODEL.variant].feature_channels
            batch["fine_features"] = {level: torch.rand(B, C, window, 7, 7) for level, C in channels.items()}
        if case.stream == "both":
            batch["fine_clip"] = _clip(B, window)
            batch["fine_labels"], batch["fine_labels_mask"] = _labels(B, window)
    return net, batch


def _clip(B: int, T: int) -> Tensor:
    """Clip (B,3,T,H,W), stored as (B,T,H,W,3)."""
    return torch.randn(B, T, SIZE, SIZE, 3).permute(0, 4, 1, 2, 3)


def _labels(B: int, T: int) -> tuple[Tensor, Tensor]:
    """Labels (B,C,L) and mask (B,L)."""
    L = LABELS_PER_FRAME * T
    return (torch.rand(B, CLASSES, L) < 0.05).float(), torch.ones(B, L)


def _evaluation(case: Case, net: Network, batch: Batch) -> Callable[[], Tensor]:
    net = net.eval() if case.plain else prepare_for_inference(net)
    if case.compiled:
        net.compile()

    @torch.no_grad()
    def evaluate() -> Tensor:
        with torch.autocast(batch["clip"].device.type, torch.bfloat16, enabled=case.bf16):
            return logits_at_labels(net, batch)[0]

    return evaluate


def training_step(case: Case, net: Network, batch: Batch) -> Callable[[], None]:
    """The engine's optimizer step on random labels. Each stream that is trained has its own loss."""
    if not case.plain:
        cpu_kernels.install(net)
    net.train()
    if case.compiled:
        net.compile()
    training = Step(net, case.config, case.stage, batch["clip"].device)

    def step() -> None:
        training.gradients(batch)
        training.update()

    return step
