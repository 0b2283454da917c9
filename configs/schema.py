"""All options of an experiment, with types, defaults and, on the line below each, meaning and unit.

An experiment is one `Config`: `data` and `model` are shared, `fine` is stage 1, `features` stage 2, `coarse` stage 3.
The defaults are the published setting (Charades, X3D-M). `configs.cli` turns these classes into command-line
options (`data.stride` becomes `--data.stride`) and shows the docstrings in `--help`. The type of an option defines its
bounds and whether it may change when a run resumes. By default it may, and the run reports the change. Invalid values
raise a one-line error that names the option; files and devices are checked when they are opened.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_type_hints

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from common.errors import InputError

KINETICS_WEIGHTS = "weights/x3d_multigrid_kinetics_fb_pretrained.pt"
PUBLISHED = "github.com/kkahatapitiya/Coarse-Fine-Networks, models/"
FROM_SCRATCH = "none"  # value of fine.init or coarse.init for random weights

Whole = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]

T = TypeVar("T")
Values = Mapping[str, Mapping[str, Any]]  # a configuration as plain values of the options' types
FIXED, NO_EFFECT, STAGE_3_ONLY = "fixed", "no effect", "stage 3 only"
Fixed = Annotated[T, FIXED]  # defines the network or its input; a run does not resume if it changed
NoEffect = Annotated[T, NO_EFFECT]  # no effect on a resumed run
Stage3 = Annotated[T, STAGE_3_ONLY]  # no effect on stage 1


def _require(holds: bool, option: str, rule: str, value: object) -> None:
    """Raise InputError unless `holds`; `rule` completes the sentence "option must be ..."."""
    if not holds:
        raise InputError(f"{option} must be {rule}, not {value!r}", option=option)


class Section:
    """A section of options. Values are checked against their types."""

    def __post_init__(self) -> None:
        section = type(self).__name__.lower()
        for name, value in vars(self).items():
            setattr(self, name, checked(f"{section}.{name}", value))


@dataclass(kw_only=True)
class Data(Section):
    """the dataset, and how clips are sampled from its videos"""

    kind: Fixed[Literal["charades", "multithumos", "generic"]] = "charades"
    """dataset type; generic: your own dataset"""
    frames: str = "data/Charades_v1_rgb"
    """folder of video frames: FRAMES/ID/ID-000001.jpg and so on"""
    annotations: str = "data/Charades"
    """JSON file, or folder with both official CSV files"""
    ground_truth: str | None = None
    """official CSV of the test videos; null: actions and durations are taken from the annotations"""
    num_classes: Fixed[Count] = 157
    """number of activity classes"""
    class_names: str | None = None
    """text file with one class name per line; null: Charades' own next to the annotations, else "class 0" and so on"""
    stride: Fixed[Count] = 10
    """temporal stride of clip frames, in video frames (published: 12 for variant S, 10 for M and XL)"""
    clip_span: int = 640
    """length of a training clip, in video frames (64 clip frames at stride 10)"""
    fine_frames: Stage3[Count] = 128
    """maximum number of fine features per video in stage 3, in clip frames"""
    fine_window: Stage3[Literal["first", "centred"]] = "first"
    """fine features used if the video has more: the first ones, or those centred on the clip"""
    min_frames: Whole = 162
    """minimum length in video frames; shorter videos are excluded from training and from rule "released" """
    size: Fixed[Annotated[int, Field(ge=64)] | None] = None
    """side of the square network input, in pixels; null: that of the variant (S 160, M 224, XL 312, tiny 64)"""
    image_backend: Literal["auto", "simplejpeg", "torchcodec", "torchvision", "accimage", "pil"] = "auto"
    """JPEG decoder, all with equal pixels; auto: the fastest one installed, except accimage"""
    workers: Whole = 4
    """number of data-loading processes; 0: load in the main process"""
    allow_missing: bool = False
    """continue even if more than 1% of the videos have no frames folder"""
    on_bad_sample: Literal["error", "skip"] = "error"
    """missing or unreadable frames: raise an error, or skip and report the video (at most 1% of videos, or one)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        shortest = 4 * self.stride
        _require(self.clip_span >= shortest, "data.clip_span", f"at least {shortest}, 4 strides", self.clip_span)


@dataclass(kw_only=True)
class Model(Section):
    """the networks of both streams"""

    variant: Fixed[Literal["S", "M", "XL", "tiny"]] = "M"
    """X3D variant; tiny is for the demo and tests"""
    pool: Fixed[Stage3[Literal["grid", "avg", "max", "stride", "none"]]] = "grid"
    """temporal pooling of the Coarse stream; none: the paper's Fine-Fine"""
    fusion: Fixed[Stage3[Literal["multistage", "per_stage", "lateral", "none"]]] = "multistage"
    """fusion of fine features: all levels into every stage, each level into its own stage, SlowFast's, or none"""
    alignment: Fixed[Stage3[Literal["gaussian", "uniform"]]] = "gaussian"
    """weights of fine frames for each coarse frame: Gaussian around it, or uniform"""
    gaussian_scale: Fixed[Stage3[Positive]] = 0.125
    """sigma of the Gaussians, as a fraction of the number of fine frames"""
    bn_splits: Fixed[Count] = 1
    """number of sub-batches normalised separately in training; must divide the batch size"""
    dropout: Share = 0.5
    """dropout probability before the classifier"""
    checkpoint_activations: bool = False
    """activation checkpointing: recompute each block's activations in the backward pass to save memory"""


@dataclass(kw_only=True)
class Stage(Section):
    """SGD training options of stages 1 and 3 (see `Fine` and `Coarse` for the published values)."""

    init: NoEffect[Name] = KINETICS_WEIGHTS
    """checkpoint to start from or evaluate, ours or published; none: random weights"""
    batch_size: Count
    """training batch size in videos, over all GPUs"""
    lr: Positive
    """initial learning rate"""
    momentum: Share = 0.9
    """SGD momentum"""
    weight_decay: NotNegative = 1e-5
    """weight decay, applied to every parameter"""
    epochs: Count = 200
    """maximum number of passes over the training videos"""
    round_epochs: Count
    """epochs per round; each round ends with a validation"""
    milestones: list[Count]
    """rounds after which the learning rate is multiplied by lr_decay, in ascending order"""
    lr_decay: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.1
    """learning rate factor at each milestone"""
    drop_last: bool
    """drop the last incomplete batch of each epoch"""
    max_steps: Count | None = None
    """maximum number of optimizer steps; null: no limit"""
    accumulate: Count = 1
    """gradient accumulation: parts of each process's batch, normalised separately; more parts need less memory"""
    clip_grad: Positive | None = None
    """maximum gradient norm; null: no clipping, as published"""

    def __post_init__(self) -> None:
        super().__post_init__()
        section = type(self).__name__.lower()
        if self.init.lower() in ("none", "null"):
            self.init = FROM_SCRATCH
        ascending = all(a < b for a, b in pairwise(self.milestones))
        _require(ascending, f"{section}.milestones", "ascending", self.milestones)


@dataclass(kw_only=True)
class Fine(Stage):
    """stage 1, train_fine.py: the Fine stream"""

    batch_size: Count = 8
    lr: Positive = 0.01
    round_epochs: Count = 4
    milestones: list[Count] = field(default_factory=lambda: [15, 20, 25])
    drop_last: bool = True


@dataclass(kw_only=True)
class Coarse(Stage):
    """stage 3, train_coarse_fineFEAT.py: the Coarse stream, fused with the fine features"""

    batch_size: Count = 6
    lr: Positive = 0.02
    round_epochs: Count = 2
    milestones: list[Count] = field(default_factory=lambda: [15, 25, 35])
    drop_last: bool = False
    fusion_lr_factor: Positive = 10.0
    """learning rate of the fusion layers, relative to that of the other layers"""
    fine_source: Fixed[Literal["store", "network"]] = "store"
    """source of fine features: stage 2's store, or the Fine stream itself, run on the frames of the fine window"""
    fine_init: str | None = None
    """with network: stage 1 checkpoint for the Fine stream; null: this run's best.pt; none: random weights"""
    fine_frozen: Fixed[bool] = True
    """with network: freeze the Fine stream; if false, both streams are trained"""
    fine_loss_weight: NotNegative = 1.0
    """with network, both trained: weight of the Fine stream's loss (on its window's labels), relative to Coarse's"""

    def __post_init__(self) -> None:
        super().__post_init__()
        usable = self.fine_source == "store" or not self.fine_frozen or self.fine_init != FROM_SCRATCH
        _require(usable, "coarse.fine_init", "a checkpoint if the Fine stream is frozen", self.fine_init)


@dataclass(kw_only=True)
class Features(Section):
    """stage 2, extract_fineFEAT.py: the store of fine features"""

    dir: str | None = None
    """folder of the feature store; null: features/ in the run's folder"""
    checkpoint: str | None = None
    """checkpoint of the Fine stream, ours or published; null: stage 1's best.pt of this run"""
    dtype: Literal["float16", "float32"] = "float16"
    """data type of stored features"""
    verify: bool = False
    """check the hash of every finished file when extraction resumes"""


@dataclass(kw_only=True)
class Eval(Section):
    """evaluation, including validation during training"""

    batch_size: Count = 1
    """maximum number of videos in a batch, all of equal length; results do not depend on it"""
    window: Count | None = None
    """window length in clip frames, for evaluation and extraction; null: whole videos, as published"""
    overlap: Whole | None = None
    """overlap of neighbouring windows in clip frames, in which results are blended; null: a quarter of a window"""
    save_frames: bool = False
    """also write predictions/dense.npz: the scores of every frame (4 bytes each), for rule "dense" of tools.compare"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window is not None and self.overlap is not None:
            _require(self.overlap < self.window, "eval.overlap", f"less than eval.window ({self.window})", self.overlap)

    @property
    def common_frames(self) -> int:
        """Overlap of neighbouring windows in clip frames; 0 for whole videos."""
        if self.window is None:
            return 0
        return self.window // 4 if self.overlap is None else self.overlap


@dataclass(kw_only=True)
class Run(Section):
    """output, reproducibility and devices"""

    name: NoEffect[Name] = "charades"
    """name of the experiment, shared by all three stages"""
    dir: NoEffect[str | None] = None
    """output folder; null: runs/NAME"""
    seed: Whole = 0
    """random seed"""
    resume: NoEffect[Literal["auto", "never"]] = "auto"
    """auto: continue from last.pt if it exists; never: start from the beginning"""
    threads: Count | None = None
    """number of CPU threads for PyTorch; null: PyTorch's default"""
    processes: Count | None = None
    """number of training processes on this machine; null: one per GPU of -gpu"""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """training precision: full or autocast; losses, sampling locations and Gaussian weights stay in float32"""
    compile: bool = False
    """train with torch.compile"""


@dataclass(kw_only=True)
class Config:
    """One experiment, all stages. The properties resolve paths whose defaults depend on other options."""

    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    fine: Fine = field(default_factory=Fine)
    features: Features = field(default_factory=Features)
    coarse: Coarse = field(default_factory=Coarse)
    eval: Eval = field(default_factory=Eval)
    run: Run = field(default_factory=Run)

    def __post_init__(self) -> None:
        usable = self.coarse.fine_source == "store" or self.model.fusion != "none"
        _require(usable, "coarse.fine_source", "store if model.fusion is none", self.coarse.fine_source)

    @property
    def run_dir(self) -> Path:
        """The run's folder. Stages 1 and 3 write to its subfolders `fine` and `coarse`."""
        return Path(self.run.dir or Path("runs") / self.run.name)

    @property
    def features_dir(self) -> Path:
        """The feature store, written by stage 2 and read by stage 3."""
        return Path(self.features.dir or self.run_dir / "features")

    @property
    def features_checkpoint(self) -> Path:
        """The checkpoint of the Fine stream used by stage 2."""
        return Path(self.features.checkpoint or self.run_dir / "fine" / "checkpoints" / "best.pt")

    @property
    def fine_init(self) -> Path:
        """The initial checkpoint of the Fine stream in joint training."""
        return Path(self.coarse.fine_init or self.run_dir / "fine" / "checkpoints" / "best.pt")

    def starting_checkpoint(self, stage: str) -> Path | None:
        """The initial checkpoint of a stage ("fine" or "coarse"); None for random weights."""
        init: str = getattr(self, stage).init
        if init == FROM_SCRATCH:
            return None
        if not Path(init).is_file():
            source = f" (download it from {PUBLISHED}{Path(init).name})" if init == KINETICS_WEIGHTS else ""
            raise InputError(
                f"{init}: no such checkpoint{source}",
                option=f"--{stage}.init",
                remedy="to train from random weights, use {option} none",
            )
        return Path(init)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Plain values by section and option, for checkpoints and YAML."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Values) -> Self:
        """The inverse of `to_dict`; missing options have their defaults."""
        return cls(**{name: section(**values.get(name, {})) for name, section in SECTIONS.items()})


SECTIONS: dict[str, type[Any]] = get_type_hints(Config)
OPTIONS: dict[str, Any] = {  # {dotted name: type, with bounds and marks}; Python has no type of such types
    f"{section}.{name}": kind
    for section, options in SECTIONS.items()
    for name, kind in get_type_hints(options, include_extras=True).items()
}
CHECKS: dict[str, TypeAdapter[Any]] = {option: TypeAdapter(kind) for option, kind in OPTIONS.items()}


def checked(option: str, value: object) -> Any:
    """Validate a value against its option's type. Raises InputError, naming the option.

    Returns `Any`, since the option is only known by name.
    """
    try:
        return CHECKS[option].validate_python(value, strict=True)
    except ValidationError as error:
        _, _, rule = error.errors()[0]["msg"].partition("should ")  # pydantic's "Input should be ..."
        raise InputError(f"{option} must {rule}, not {value!r}", option=option) from None


def diff(old: Values, new: Values) -> dict[str, tuple[Any, Any]]:
    """{dotted option: (old value, new value)} for all options that differ; None if an option is absent."""
    before, after = (
        {f"{section}.{name}": value for section, options in values.items() for name, value in options.items()}
        for values in (old, new)
    )
    pairs = {option: (before.get(option), after.get(option)) for option in before | after}
    return {option: pair for option, pair in pairs.items() if pair[0] != pair[1]}


def changed_settings(path: Path, saved: Values, present: Values, stage: str) -> list[str]:
    """One line for each option that differs between the checkpoint at `path` and the run that resumes it.

    Args:
        saved, present: {section: {option: value}}; options missing in either one are not compared.
        stage: "fine" or "coarse"; the other stage's section and the paths of results and features are ignored.

    Raises:
        InputError: if the network or its task changed.
    """
    lines = []
    for option, (before, now) in diff(saved, present).items():
        section, name = option.split(".")
        known = name in saved.get(section, {}) and name in present.get(section, {})
        if not known or section not in ("data", "model", "run", stage):
            continue
        marks = getattr(OPTIONS[option], "__metadata__", ())
        if NO_EFFECT in marks or (stage == "fine" and STAGE_3_ONLY in marks):
            continue
        if FIXED in marks:
            raise InputError(
                f"{path}: this run was started with {option} {before}, not {now}; continue with --{option} {before}, "
                "or start a new run with another --run.dir or --run.resume never"
            )
        lines.append(f"{option} was {before}, from here on it is {now}")
    return lines
