"""The benchmark's rows of the two networks: seconds, times the floor, and peak memory of one forward pass or one step.

The floor of a row is what its multiply-adds would take at the rate of a large matrix product, measured beside it; a
training step counts as three forward passes. The multiply-adds are those of the published networks, so that a way of
needing fewer counts as speed.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from configs.schema import Coarse, Fine
from engine.step import make_optimizer
from models import CoarseNet, FineNet, cpu_kernels, prepare_for_inference
from models.losses import detection_loss
from models.x3d import VARIANTS
from tools.benchmark.timing import Result, Setting, matrix_rate, median_seconds, peak_gigabytes, reset_peak

VARIANT, SIZE, CLASSES = "M", 224, 157
FRAMES = 64
FINE_PER_COARSE = 2  # T' = 128 feature frames beside a clip of T = 64
LABELS_PER_FRAME = 10
MULTIPLY_ADDS = {"fine": 19.0e9, "coarse": 12.7e9}  # of one clip of 64 frames, as published; `count` has ours
EVALUATION_LENGTHS = (16, 32, 64, 128, 256, 512)
TRAINING_LENGTHS = (16, 32, 64, 128)


@dataclass(frozen=True, kw_only=True)
class Case:
    """What one row runs. `plain`: by PyTorch's own kernels, in its own layout, norms not folded; `brief`: with fewer
    repetitions, as one of a series."""

    stream: str
    training: bool
    batch: int = 1
    frames: int = FRAMES
    checkpointed: bool = False
    plain: bool = False
    bf16: bool = False
    compiled: bool = False
    brief: bool = False

    @property
    def cuda_only(self) -> bool:
        return self.bf16 or self.compiled

    @property
    def multiply_adds(self) -> float:
        """Of the whole row; both networks' are proportional to the frames."""
        passes = 3 if self.training else 1
        return MULTIPLY_ADDS[self.stream] * self.batch * self.frames / FRAMES * passes


def cases(*, quick: bool) -> dict[str, Case]:
    """All rows by name. Quick ones have a quarter of the frames, and no series of lengths."""
    shrink = 4 if quick else 1
    evaluation = {f"{stream}_eval": Case(stream=stream, training=False) for stream in MULTIPLY_ADDS}
    training = {
        "fine_train": Case(stream="fine", training=True),
        "coarse_train": Case(stream="coarse", training=True, batch=2),
    }
    rows = {}
    for name, case in (evaluation | training).items():
        case = replace(case, frames=case.frames // shrink)
        rows[name] = case
        if case.training:
            rows[f"{name}_checkpointed"] = replace(case, checkpointed=True)
        rows[f"{name}_plain"] = replace(case, plain=True)
        for suffix, options in CUDA_OPTIONS.items():
            rows[f"{name}_{suffix}"] = replace(case, **options)
    if not quick:
        for name, lengths in series().items():
            brief = replace(rows[name], batch=1, brief=True)
            for T in lengths:
                rows.setdefault(length_row(name, T), replace(brief, frames=T))
    return rows


CUDA_OPTIONS = {
    "bf16": {"bf16": True},
    "compiled": {"compiled": True},
    "bf16_compiled": {"bf16": True, "compiled": True},
}


def series() -> dict[str, tuple[int, ...]]:
    """The lengths T at which a row's growth is looked at, one clip at a time."""
    return {
        f"{stream}_{work}": lengths
        for work, lengths in (("eval", EVALUATION_LENGTHS), ("train", TRAINING_LENGTHS))
        for stream in MULTIPLY_ADDS
    }


def length_row(name: str, frames: int) -> str:
    """The row of a series; the one of 64 frames stands in the main table already, but for that of a batch of 2."""
    return name if frames == FRAMES and name != "coarse_train" else f"{name}_{frames}"


def measure(case: Case, setting: Setting) -> Result:
    """One row."""
    if not case.plain:
        cpu_kernels.ask_for_huge_pages()
    torch.manual_seed(0)
    rates = [matrix_rate(setting)]
    reset_peak(setting.device)
    repetitions = {"least": 2, "budget": 3.0} if case.brief else {}
    (seconds,) = median_seconds(setting, _work(case, setting.device), **repetitions)
    gigabytes = peak_gigabytes(setting.device)
    rates.append(matrix_rate(setting))
    floor = 2 * case.multiply_adds / (sum(rates) / 2)
    return {
        "seconds": seconds,
        "frames": case.frames,
        "batch": case.batch,
        "matrix_rate": sum(rates) / 2,
        "floor_seconds": floor,
        "times_floor": seconds / floor,
        "gigabytes": gigabytes,
    }


def count() -> Result:
    """Multiply-adds of one evaluated clip of 64 frames as our networks do it, counted without computing any."""
    # Not at the top: 0.1 GB that would count as the networks'.
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    result = {}
    for stream in MULTIPLY_ADDS:
        with FakeTensorMode(), FlopCounterMode(display=False) as counter:
            _work(Case(stream=stream, training=False, plain=True), torch.device("cpu"))()
        result[stream] = counter.get_total_flops() / 2
    return result


def _work(case: Case, device: torch.device) -> Callable[[], object]:
    """The function to be timed."""
    build = {"fine": FineNet, "coarse": CoarseNet}[case.stream]
    with device:
        net = build(num_classes=CLASSES, variant=VARIANT, checkpoint_activations=case.checkpointed)
    if not case.plain:
        cpu_kernels.install(net)
    inputs = _inputs(case, device)
    return _training_step(net, inputs, case) if case.training else _evaluation(net, inputs, case)


def _inputs(case: Case, device: torch.device) -> tuple:
    """What the network takes, in the memory that `datasets.batch.prepare` leaves it in: clips (B,T,H,W,3)."""
    B, T = case.batch, case.frames
    clip = torch.randn(B, T, SIZE, SIZE, 3, device=device).permute(0, 4, 1, 2, 3)
    if case.stream == "fine":
        return (clip,)
    length = FINE_PER_COARSE * T
    channels = VARIANTS[VARIANT].feature_channels
    features = {level: torch.rand(B, C, length, 7, 7, device=device) for level, C in channels.items()}
    return clip, features, torch.ones(B, length, device=device), torch.zeros(B, dtype=torch.long, device=device)


def _evaluation(net: nn.Module, inputs: tuple, case: Case) -> Callable[[], Tensor]:
    net = net.eval() if case.plain else prepare_for_inference(net)
    net = torch.compile(net) if case.compiled else net

    @torch.no_grad()
    def evaluate() -> Tensor:
        with torch.autocast(inputs[0].device.type, torch.bfloat16, enabled=case.bf16):
            return net(*inputs)

    return evaluate


def _training_step(net: nn.Module, inputs: tuple, case: Case) -> Callable[[], None]:
    stage, factor = (Fine(), 1.0) if case.stream == "fine" else (Coarse(), Coarse().fusion_lr_factor)
    optimizer = make_optimizer(net, stage, fusion_lr_factor=factor)
    net = torch.compile(net.train()) if case.compiled else net.train()
    B, device = case.batch, inputs[0].device
    labels = (torch.rand(B, CLASSES, LABELS_PER_FRAME * case.frames, device=device) < 0.05).float()
    mask = torch.ones(B, labels.shape[2], device=device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=case.bf16):
            logits = net(*inputs)
        loss = detection_loss(logits, labels, mask, align_corners=case.stream == "fine")["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step
