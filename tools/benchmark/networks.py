"""Measures the networks: seconds, times the floor, and peak memory of one forward pass or one optimizer step.

The floor of a pass is what its multiply-adds would take at the rate of a large matrix product, measured beside it; a
training step counts as three forward passes. The multiply-adds are those of the published networks, so that a way of
needing fewer counts as speed.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from configs.schema import Coarse, Config, Fine
from engine.step import make_optimizer
from models import CoarseFineNet, CoarseNet, FineNet, cpu_kernels, prepare_for_inference
from models.losses import detection_loss
from models.x3d import VARIANTS
from tools.benchmark.timing import Result, Setting, matrix_rate, median_seconds, peak_gigabytes, reset_peak

VARIANT, SIZE, CLASSES = "M", 224, 157
FRAMES = 64
FINE_PER_COARSE = 2  # T' = 128 feature frames beside a clip of T = 64
LABELS_PER_FRAME = 10
MULTIPLY_ADDS = {"fine": 19.0e9, "coarse": 12.7e9}  # of one clip of 64 frames, as published; `count` has ours
QUICK = 4  # a quick row has this many times fewer frames
Stream = TypeVar("Stream", FineNet, CoarseNet)
Inputs = tuple[Any, ...]  # a network's arguments: tensors, and a dict of them


@dataclass(frozen=True, kw_only=True)
class Case:
    """A forward pass in evaluation, or an optimizer step.

    Attributes:
        stream: "both" is the network that holds both streams; its Fine stream sees 2 `frames`.
        fine_frozen: of both streams, train the Coarse one alone.
        checkpointed: with activation checkpointing.
        plain: by PyTorch's own kernels, in its own memory layout, norms not folded.
        least, most, budget: how often it is repeated, see `median_seconds`.
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

    def __call__(self, setting: Setting) -> Result:
        """Measure it."""
        case = replace(self, frames=self.frames // QUICK) if setting.quick else self
        if not case.plain:
            cpu_kernels.ask_for_huge_pages()
        torch.manual_seed(0)
        if case.stream == "both":  # in one network, of which nothing is published
            return _seconds_and_gigabytes(case, setting)
        rates = [matrix_rate(setting)]
        measured = _seconds_and_gigabytes(case, setting)
        rates.append(matrix_rate(setting))
        rate = sum(rates) / 2
        passes = 3 if case.training else 1
        floor = 2 * MULTIPLY_ADDS[case.stream] * case.batch * case.frames / FRAMES * passes / rate
        return measured | {
            "frames": case.frames,
            "batch": case.batch,
            "matrix_rate": rate,
            "floor_seconds": floor,
            "times_floor": measured["seconds"] / floor,
        }


def _seconds_and_gigabytes(case: Case, setting: Setting) -> Result:
    reset_peak(setting.device)
    net, inputs = network_and_inputs(case, setting.device)
    if not case.plain:
        cpu_kernels.install(net)
    work = training_step(case, net, inputs) if case.training else _evaluation(case, net, inputs)
    (seconds,) = median_seconds(setting, work, least=case.least, most=case.most, budget=case.budget)
    return {"seconds": seconds, "gigabytes": peak_gigabytes(setting.device)}


def count(setting: Setting) -> Result:
    """Multiply-adds of one evaluated clip of 64 frames as our networks do it, counted without computing any."""
    from tools.complexity.count import count_coarse, count_fine  # not at the top: memory that would count as theirs

    return {
        "fine": count_fine(Config(), FRAMES).total,
        "coarse": count_coarse(Config(), FRAMES, FINE_PER_COARSE * FRAMES).total,
    }


def network_and_inputs(case: Case, device: torch.device) -> tuple[nn.Module, Inputs]:
    """The network, and what it takes, in the memory that `datasets.batch.prepare` leaves clips in: (B,T,H,W,3)."""
    B, T, window = case.batch, case.frames, FINE_PER_COARSE * case.frames
    with device:
        net = _network(case)
        clip = _clip(B, T)
        if case.stream == "fine":
            return net, (clip,)
        if case.stream == "coarse":
            channels = VARIANTS[VARIANT].feature_channels
            fine: Tensor | dict[str, Tensor] = {name: torch.rand(B, C, window, 7, 7) for name, C in channels.items()}
        else:
            fine = _clip(B, window)
        return net, (clip, fine, torch.ones(B, window), torch.zeros(B, dtype=torch.long))


def _network(case: Case) -> nn.Module:
    if case.stream == "both":
        fine, coarse = _stream(FineNet, case), _stream(CoarseNet, case)
        return CoarseFineNet(fine=fine, coarse=coarse, fine_frozen=case.fine_frozen)
    return _stream(FineNet, case) if case.stream == "fine" else _stream(CoarseNet, case)


def _stream(kind: type[Stream], case: Case) -> Stream:
    return kind(num_classes=CLASSES, variant=VARIANT, checkpoint_activations=case.checkpointed)


def _clip(B: int, T: int) -> Tensor:
    return torch.randn(B, T, SIZE, SIZE, 3).permute(0, 4, 1, 2, 3)


def _evaluation(case: Case, net: nn.Module, inputs: Inputs) -> Callable[[], Tensor]:
    net = net.eval() if case.plain else prepare_for_inference(net)
    forward: Callable[..., Tensor] = torch.compile(net) if case.compiled else net

    @torch.no_grad()
    def evaluate() -> Tensor:
        with torch.autocast(inputs[0].device.type, torch.bfloat16, enabled=case.bf16):
            return forward(*inputs)

    return evaluate


def training_step(case: Case, net: nn.Module, inputs: Inputs) -> Callable[[], None]:
    """An optimizer step on random labels; of both streams, each has its loss."""
    stage: Fine | Coarse = Fine() if case.stream == "fine" else Coarse()
    factor = stage.fusion_lr_factor if isinstance(stage, Coarse) else 1.0
    optimizer = make_optimizer(net, stage, fusion_lr_factor=factor)
    forward: Callable[..., Any] = torch.compile(net.train()) if case.compiled else net.train()
    device = inputs[0].device
    heads = [(case.frames, case.stream == "fine")]  # of each its frames, and whether its logits align with the corners
    if case.stream == "both":
        heads.append((FINE_PER_COARSE * case.frames, True))
    with device:
        labels = [(torch.rand(case.batch, CLASSES, LABELS_PER_FRAME * T) < 0.05).float() for T, _ in heads]
        masks = [torch.ones(case.batch, LABELS_PER_FRAME * T) for T, _ in heads]

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=case.bf16):
            output = forward(*inputs)
        logits = output if isinstance(output, tuple) else (output,)
        losses = [
            detection_loss(x, y, mask, align_corners=align)["loss"]
            for x, y, mask, (_, align) in zip(logits, labels, masks, heads, strict=True)
        ]
        optimizer.zero_grad(set_to_none=True)
        torch.stack(losses).sum().backward()
        optimizer.step()

    return step
