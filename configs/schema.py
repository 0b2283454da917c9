"""Every option of an experiment: its type, its default and, in the line below each, its meaning and unit.

One experiment is one `Config`: `data` and `model` are shared, `fine` is stage 1, `features` stage 2, `coarse` stage 3.
The defaults are the published setting (Charades, X3D-M). `configs.cli` turns these classes into command-line
options (`data.stride` becomes `--data.stride`) and shows the docstrings in `--help`. A value that is wrong by itself is
refused here, in one line that names its option; what depends on files or devices is checked where these are opened.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self

from common.errors import InputError

KINETICS_WEIGHTS = "weights/x3d_multigrid_kinetics_fb_pretrained.pt"
PUBLISHED = "github.com/kkahatapitiya/Coarse-Fine-Networks, models/"
FROM_SCRATCH = "none"  # as fine.init or coarse.init: start from random weights


def _require(holds: bool, option: str, rule: str, value: object) -> None:
    """Raises a one-line ValueError unless `holds`; `rule` completes the sentence "option must be ..."."""
    if not holds:
        raise ValueError(f"{option} must be {rule}, not {value!r}")


def _require_at_least(least: int, section: str, **values: int | None) -> None:
    """Checks whole numbers; None, where the type allows it, means "not set" and passes."""
    for name, value in values.items():
        _require(value is None or value >= least, f"{section}.{name}", f"at least {least}", value)


@dataclass(kw_only=True)
class Data:
    """the dataset, and how clips are cut from its videos"""

    kind: Literal["charades", "multithumos", "generic"] = "charades"
    """which dataset the annotations describe; generic: an own one"""
    frames: str = "data/Charades_v1_rgb"
    """folder of the video frames: FRAMES/ID/ID-000001.jpg and so on"""
    annotations: str = "data/Charades"
    """annotations: a JSON file, or a folder that holds both official CSV files"""
    ground_truth: str | None = None
    """official CSV of the test videos; without it, actions and durations come from the annotations"""
    num_classes: int = 157
    """number of activity classes"""
    class_names: str | None = None
    """text file with a class name a line; null: Charades' own file beside the annotations, else "class 0" and so on"""
    stride: int = 10
    """video frames from one clip frame to the next (published: 12 for variant S, 10 for M and XL)"""
    clip_span: int = 640
    """length of a training clip, in video frames (64 clip frames at stride 10)"""
    fine_frames: int = 128
    """most fine features that stage 3 sees of a video, in clip frames"""
    fine_window: Literal["first", "centred"] = "first"
    """which of a longer video's fine features these are: its first, or those around the clip"""
    min_frames: int = 162
    """shorter videos (in video frames) are left out of training and of rule "released" """
    size: int | None = None
    """side of the square network input, in pixels; null: the variant's (S 160, M 224, XL 312, tiny 64)"""
    image_backend: Literal["auto", "torchvision", "accimage", "pil"] = "auto"
    """what decodes JPEG files; auto takes torchvision"""
    workers: int = 4
    """processes that load data; 0 loads in the main process"""
    allow_missing: bool = False
    """continue when more than 1% of the videos have no frames folder"""
    on_bad_sample: Literal["error", "skip"] = "error"
    """a video with missing or unreadable frames: an error, or skipped and named (at most 1% of them, or one)"""

    def __post_init__(self) -> None:
        _require_at_least(1, "data", num_classes=self.num_classes, stride=self.stride, fine_frames=self.fine_frames)
        _require_at_least(0, "data", min_frames=self.min_frames, workers=self.workers)
        _require_at_least(64, "data", size=self.size)
        shortest = 4 * self.stride
        _require(self.clip_span >= shortest, "data.clip_span", f"at least {shortest}, 4 strides", self.clip_span)


@dataclass(kw_only=True)
class Model:
    """the networks of both streams"""

    variant: Literal["S", "M", "XL", "tiny"] = "M"
    """size of X3D; tiny is for the demo and tests"""
    pool: Literal["grid", "avg", "max", "stride", "none"] = "grid"
    """temporal pooling of the Coarse stream; none is the paper's Fine-Fine"""
    fusion: Literal["multistage", "per_stage", "lateral", "none"] = "multistage"
    """how fine features enter the Coarse stream: all into every stage, each into its own, as SlowFast's, or not"""
    alignment: Literal["gaussian", "uniform"] = "gaussian"
    """how fine frames weigh for a coarse frame: by Gaussians around it, or all alike"""
    gaussian_scale: float = 0.125
    """sigma of the Gaussians, relative to the number of fine frames"""
    bn_splits: int = 1
    """groups of the batch that are normalised separately in training; the batch must be divisible by it"""
    dropout: float = 0.5
    """probability with which training drops a feature before the classifier"""
    checkpoint_activations: bool = False
    """train in less memory: compute each block's activations again in the backward pass instead of keeping them"""

    def __post_init__(self) -> None:
        _require_at_least(1, "model", bn_splits=self.bn_splits)
        _require(0 <= self.dropout < 1, "model.dropout", "from 0 to below 1", self.dropout)
        _require(0 < self.gaussian_scale < math.inf, "model.gaussian_scale", "positive", self.gaussian_scale)


@dataclass(kw_only=True)
class Stage:
    """Training by SGD, common to stages 1 and 3 (see `Fine` and `Coarse` for the published values)."""

    init: str = KINETICS_WEIGHTS
    """checkpoint to start from or to evaluate, ours or a published one; none: random weights"""
    batch_size: int
    """videos in a training batch, over all GPUs together"""
    lr: float
    """learning rate at the start"""
    momentum: float = 0.9
    """momentum of SGD"""
    weight_decay: float = 1e-5
    """weight decay, on every parameter"""
    epochs: int = 200
    """most passes over the training videos"""
    round_epochs: int
    """epochs in a round; after each round comes a validation"""
    milestones: list[int]
    """the learning rate falls after these rounds, in ascending order"""
    lr_decay: float = 0.1
    """factor of the learning rate at each milestone"""
    drop_last: bool
    """leave an incomplete last batch of an epoch out"""
    max_steps: int | None = None
    """stop after this many optimizer steps; null: no such limit"""
    accumulate: int = 1
    """parts in which a process works through its share of a batch, for less memory; each is normalised on its own"""
    clip_grad: float | None = None
    """largest norm of the gradient; null: not limited, as published"""

    def __post_init__(self) -> None:
        section = type(self).__name__.lower()
        if self.init.lower() in ("none", "null"):
            self.init = FROM_SCRATCH
        _require(self.init.strip() != "", f"{section}.init", "a file or none", self.init)
        _require_at_least(
            1,
            section,
            batch_size=self.batch_size,
            epochs=self.epochs,
            round_epochs=self.round_epochs,
            max_steps=self.max_steps,
            accumulate=self.accumulate,
        )
        clip = self.clip_grad
        _require(clip is None or 0 < clip < math.inf, f"{section}.clip_grad", "positive", clip)
        _require(0 < self.lr < math.inf, f"{section}.lr", "positive", self.lr)
        _require(0 <= self.momentum < 1, f"{section}.momentum", "from 0 to below 1", self.momentum)
        _require(0 <= self.weight_decay < math.inf, f"{section}.weight_decay", "0 or positive", self.weight_decay)
        _require(0 < self.lr_decay <= 1, f"{section}.lr_decay", "above 0 and at most 1", self.lr_decay)
        ascending = all(a < b for a, b in zip([0, *self.milestones], self.milestones, strict=False))
        _require(ascending, f"{section}.milestones", "positive and ascending", self.milestones)


@dataclass(kw_only=True)
class Fine(Stage):
    """stage 1, train_fine.py: the Fine stream"""

    batch_size: int = 8
    lr: float = 0.01
    round_epochs: int = 4
    milestones: list[int] = field(default_factory=lambda: [15, 20, 25])
    drop_last: bool = True


@dataclass(kw_only=True)
class Coarse(Stage):
    """stage 3, train_coarse_fineFEAT.py: the Coarse stream, fused with the fine features"""

    batch_size: int = 6
    lr: float = 0.02
    round_epochs: int = 2
    milestones: list[int] = field(default_factory=lambda: [15, 25, 35])
    drop_last: bool = False
    fusion_lr_factor: float = 10.0
    """learning rate of the fusion layers, relative to the others'"""
    fine_source: Literal["store", "network"] = "store"
    """where fine features come from: stage 2's store, or the Fine stream at once, from the frames of the fine window"""
    fine_init: str | None = None
    """with network: checkpoint of stage 1 that the Fine stream starts from; null: this run's best.pt; none: random"""
    fine_frozen: bool = True
    """with network: the Fine stream stays as it is; otherwise both streams are trained"""
    fine_loss_weight: float = 1.0
    """with network, both trained: the Fine stream's loss, on the labels of its window, relative to the Coarse one's"""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(0 < self.fusion_lr_factor < math.inf, "coarse.fusion_lr_factor", "positive", self.fusion_lr_factor)
        weight = self.fine_loss_weight
        _require(0 <= weight < math.inf, "coarse.fine_loss_weight", "0 or positive", weight)
        usable = self.fine_source == "store" or not self.fine_frozen or self.fine_init != FROM_SCRATCH
        _require(usable, "coarse.fine_init", "a checkpoint where the Fine stream is frozen", self.fine_init)


@dataclass(kw_only=True)
class Features:
    """stage 2, extract_fineFEAT.py: the store of fine features"""

    dir: str | None = None
    """folder of the store; null: features/ in the run's folder"""
    checkpoint: str | None = None
    """Fine stream that extracts, ours or a published one; null: stage 1's best.pt of this run"""
    dtype: Literal["float16", "float32"] = "float16"
    """precision in which features are stored"""
    verify: bool = False
    """hash every finished file again when an extraction is resumed"""


@dataclass(kw_only=True)
class Eval:
    """evaluation, also during training"""

    batch_size: int = 1
    """most videos evaluated together; they are always of equal length, so results do not depend on it"""
    window: int | None = None
    """clip frames of a video that a network sees at a time, also in extraction; null: whole videos, as published"""
    overlap: int | None = None
    """clip frames that one window has in common with the next, where they are blended; null: a quarter of a window"""
    save_frames: bool = False
    """also write predictions/dense.npz: the scores of every frame, for rule "dense" of tools.compare (4 bytes each)"""

    def __post_init__(self) -> None:
        _require_at_least(1, "eval", batch_size=self.batch_size, window=self.window)
        _require_at_least(0, "eval", overlap=self.overlap)
        if self.window is not None and self.overlap is not None:
            below = f"below eval.window ({self.window})"
            _require(self.overlap < self.window, "eval.overlap", below, self.overlap)

    @property
    def common_frames(self) -> int:
        """Clip frames that neighbouring windows have in common; 0 for whole videos."""
        if self.window is None:
            return 0
        return self.window // 4 if self.overlap is None else self.overlap


@dataclass(kw_only=True)
class Run:
    """where results go, and how a run repeats"""

    name: str = "charades"
    """name of the experiment; all three stages share it"""
    dir: str | None = None
    """folder of the run's results; null: runs/NAME"""
    seed: int = 0
    """seed of every random draw"""
    resume: Literal["auto", "never"] = "auto"
    """auto continues from last.pt where there is one; never starts again"""
    threads: int | None = None
    """CPU threads for PyTorch; null: its own choice"""
    processes: int | None = None
    """processes that train together on this machine; null: one for each GPU of -gpu"""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """of training: full, or half by autocast; losses, sampling locations and Gaussian weights stay in float32"""
    compile: bool = False
    """train through torch.compile"""

    def __post_init__(self) -> None:
        _require(self.name.strip() != "", "run.name", "a name", self.name)
        _require_at_least(0, "run", seed=self.seed)
        _require_at_least(1, "run", threads=self.threads, processes=self.processes)


@dataclass(kw_only=True)
class Config:
    """One experiment, all stages. The properties resolve the paths whose default depends on another option."""

    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    fine: Fine = field(default_factory=Fine)
    features: Features = field(default_factory=Features)
    coarse: Coarse = field(default_factory=Coarse)
    eval: Eval = field(default_factory=Eval)
    run: Run = field(default_factory=Run)

    def __post_init__(self) -> None:
        usable = self.coarse.fine_source == "store" or self.model.fusion != "none"
        _require(usable, "coarse.fine_source", "store where model.fusion is none", self.coarse.fine_source)

    @property
    def run_dir(self) -> Path:
        """The run's folder; stages 1 and 3 write to `fine` and `coarse` in it."""
        return Path(self.run.dir or Path("runs") / self.run.name)

    @property
    def features_dir(self) -> Path:
        """The folder that stage 2 writes and stage 3 reads."""
        return Path(self.features.dir or self.run_dir / "features")

    @property
    def features_checkpoint(self) -> Path:
        """The Fine stream's checkpoint that stage 2 extracts with."""
        return Path(self.features.checkpoint or self.run_dir / "fine" / "checkpoints" / "best.pt")

    @property
    def fine_init(self) -> Path:
        """The checkpoint that the Fine stream of both streams' network starts from."""
        return Path(self.coarse.fine_init or self.run_dir / "fine" / "checkpoints" / "best.pt")

    def starting_checkpoint(self, stage: str) -> Path | None:
        """The checkpoint that a training of the stage ("fine" or "coarse") starts from; None for random weights."""
        init: str = getattr(self, stage).init
        if init == FROM_SCRATCH:
            return None
        if not Path(init).is_file():
            source = f" (it comes from {PUBLISHED}{Path(init).name})" if init == KINETICS_WEIGHTS else ""
            raise InputError(
                f"{init}: no such checkpoint{source}",
                option=f"--{stage}.init",
                remedy="or train from random weights with {option} none",
            )
        return Path(init)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Plain values by section and option, for checkpoints and YAML."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Mapping[str, Any]]) -> Self:
        """The reverse of `to_dict`; options that are left out take their defaults. Types are not checked here."""
        return cls(**{section.name: section.type(**values.get(section.name, {})) for section in fields(cls)})


def diff(old: Config | Mapping[str, Any], new: Config | Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Returns {dotted option: (old value, new value)} of all that differ; None stands for an option that is absent."""
    before, after = _flat(old), _flat(new)
    pairs = {option: (before.get(option), after.get(option)) for option in before | after}
    return {option: pair for option, pair in pairs.items() if pair[0] != pair[1]}


def _flat(config: Config | Mapping[str, Any]) -> dict[str, Any]:
    values = config.to_dict() if isinstance(config, Config) else config
    return {f"{section}.{name}": value for section, options in values.items() for name, value in options.items()}
