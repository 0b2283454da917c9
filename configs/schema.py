"""Every option of an experiment: its type, its default and, in the line below each, its meaning and unit.

One experiment is one `Config`: `data` and `model` are shared, `fine` is stage 1, `features` stage 2, `coarse` stage 3.
The defaults are the published setting (Charades, X3D-M). `configs.cli` turns these classes into command-line
options (`data.stride` becomes `--data.stride`) and shows the docstrings in `--help`. An option's type holds its bounds
and whether a run that continues may change it: where the type says nothing, it may, and the run says so. A value that
is wrong by itself is refused here, in one line that names its option; what depends on files or devices is checked where
these are opened.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError

from common.errors import InputError

KINETICS_WEIGHTS = "weights/x3d_multigrid_kinetics_fb_pretrained.pt"
PUBLISHED = "github.com/kkahatapitiya/Coarse-Fine-Networks, models/"
FROM_SCRATCH = "none"  # as fine.init or coarse.init: start from random weights


Whole = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Pixels = Annotated[int, Field(ge=64)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Factor = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]

T = TypeVar("T")
FIXED, NO_EFFECT, STAGE_3_ONLY = "fixed", "no effect", "stage 3 only"
Fixed = Annotated[T, FIXED]  # it makes the network or what that is shown: changed, a run does not continue
NoEffect = Annotated[T, NO_EFFECT]  # on a run that continues
Stage3 = Annotated[T, STAGE_3_ONLY]  # of no effect on stage 1


def _require(holds: bool, option: str, rule: str, value: object) -> None:
    """Raises a one-line ValueError unless `holds`; `rule` completes the sentence "option must be ..."."""
    if not holds:
        raise ValueError(f"{option} must be {rule}, not {value!r}")


class Section:
    """A section of options, each of which is checked against its type."""

    def __post_init__(self) -> None:
        section = type(self).__name__.lower()
        for name, check in _checks(section).items():
            try:
                check.validate_python(getattr(self, name), strict=True)
            except ValidationError as error:
                rule = error.errors()[0]["msg"].replace("Input should", "must")
                raise ValueError(f"{section}.{name} {rule}, not {getattr(self, name)!r}") from None


@cache
def _checks(section: str) -> dict[str, TypeAdapter[Any]]:
    """What checks each option of a section."""
    hints = get_type_hints(SECTIONS[section], include_extras=True)
    return {name: TypeAdapter(kind) for name, kind in hints.items()}


@dataclass(kw_only=True)
class Data(Section):
    """the dataset, and how clips are cut from its videos"""

    kind: Fixed[Literal["charades", "multithumos", "generic"]] = "charades"
    """which dataset the annotations describe; generic: an own one"""
    frames: str = "data/Charades_v1_rgb"
    """folder of the video frames: FRAMES/ID/ID-000001.jpg and so on"""
    annotations: str = "data/Charades"
    """annotations: a JSON file, or a folder that holds both official CSV files"""
    ground_truth: str | None = None
    """official CSV of the test videos; without it, actions and durations come from the annotations"""
    num_classes: Fixed[Count] = 157
    """number of activity classes"""
    class_names: str | None = None
    """text file with a class name a line; null: Charades' own file beside the annotations, else "class 0" and so on"""
    stride: Fixed[Count] = 10
    """video frames from one clip frame to the next (published: 12 for variant S, 10 for M and XL)"""
    clip_span: int = 640
    """length of a training clip, in video frames (64 clip frames at stride 10)"""
    fine_frames: Stage3[Count] = 128
    """most fine features that stage 3 sees of a video, in clip frames"""
    fine_window: Stage3[Literal["first", "centred"]] = "first"
    """which of a longer video's fine features these are: its first, or those around the clip"""
    min_frames: Whole = 162
    """shorter videos (in video frames) are left out of training and of rule "released" """
    size: Fixed[Pixels | None] = None
    """side of the square network input, in pixels; null: the variant's (S 160, M 224, XL 312, tiny 64)"""
    image_backend: Literal["auto", "simplejpeg", "torchcodec", "torchvision", "accimage", "pil"] = "auto"
    """what decodes JPEG files, to the same pixels; auto takes the fastest of these that pip has installed"""
    workers: Whole = 4
    """processes that load data; 0 loads in the main process"""
    allow_missing: bool = False
    """continue when more than 1% of the videos have no frames folder"""
    on_bad_sample: Literal["error", "skip"] = "error"
    """a video with missing or unreadable frames: an error, or skipped and named (at most 1% of them, or one)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        shortest = 4 * self.stride
        _require(self.clip_span >= shortest, "data.clip_span", f"at least {shortest}, 4 strides", self.clip_span)


@dataclass(kw_only=True)
class Model(Section):
    """the networks of both streams"""

    variant: Fixed[Literal["S", "M", "XL", "tiny"]] = "M"
    """size of X3D; tiny is for the demo and tests"""
    pool: Fixed[Stage3[Literal["grid", "avg", "max", "stride", "none"]]] = "grid"
    """temporal pooling of the Coarse stream; none is the paper's Fine-Fine"""
    fusion: Fixed[Stage3[Literal["multistage", "per_stage", "lateral", "none"]]] = "multistage"
    """how fine features enter the Coarse stream: all into every stage, each into its own, as SlowFast's, or not"""
    alignment: Fixed[Stage3[Literal["gaussian", "uniform"]]] = "gaussian"
    """how fine frames weigh for a coarse frame: by Gaussians around it, or all alike"""
    gaussian_scale: Fixed[Stage3[Positive]] = 0.125
    """sigma of the Gaussians, relative to the number of fine frames"""
    bn_splits: Fixed[Count] = 1
    """groups of the batch that are normalised separately in training; the batch must be divisible by it"""
    dropout: Share = 0.5
    """probability with which training drops a feature before the classifier"""
    checkpoint_activations: bool = False
    """train in less memory: compute each block's activations again in the backward pass instead of keeping them"""


@dataclass(kw_only=True)
class Stage(Section):
    """Training by SGD, common to stages 1 and 3 (see `Fine` and `Coarse` for the published values)."""

    init: NoEffect[str] = KINETICS_WEIGHTS
    """checkpoint to start from or to evaluate, ours or a published one; none: random weights"""
    batch_size: Count
    """videos in a training batch, over all GPUs together"""
    lr: Positive
    """learning rate at the start"""
    momentum: Share = 0.9
    """momentum of SGD"""
    weight_decay: NotNegative = 1e-5
    """weight decay, on every parameter"""
    epochs: Count = 200
    """most passes over the training videos"""
    round_epochs: Count
    """epochs in a round; after each round comes a validation"""
    milestones: list[Count]
    """the learning rate falls after these rounds, in ascending order"""
    lr_decay: Factor = 0.1
    """factor of the learning rate at each milestone"""
    drop_last: bool
    """leave an incomplete last batch of an epoch out"""
    max_steps: Count | None = None
    """stop after this many optimizer steps; null: no such limit"""
    accumulate: Count = 1
    """parts in which a process works through its share of a batch, for less memory; each is normalised on its own"""
    clip_grad: Positive | None = None
    """largest norm of the gradient; null: not limited, as published"""

    def __post_init__(self) -> None:
        super().__post_init__()
        section = type(self).__name__.lower()
        if self.init.lower() in ("none", "null"):
            self.init = FROM_SCRATCH
        _require(self.init.strip() != "", f"{section}.init", "a file or none", self.init)
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
    """learning rate of the fusion layers, relative to the others'"""
    fine_source: Fixed[Literal["store", "network"]] = "store"
    """where fine features come from: stage 2's store, or the Fine stream at once, from the frames of the fine window"""
    fine_init: str | None = None
    """with network: checkpoint of stage 1 that the Fine stream starts from; null: this run's best.pt; none: random"""
    fine_frozen: Fixed[bool] = True
    """with network: the Fine stream stays as it is; otherwise both streams are trained"""
    fine_loss_weight: NotNegative = 1.0
    """with network, both trained: the Fine stream's loss, on the labels of its window, relative to the Coarse one's"""

    def __post_init__(self) -> None:
        super().__post_init__()
        usable = self.fine_source == "store" or not self.fine_frozen or self.fine_init != FROM_SCRATCH
        _require(usable, "coarse.fine_init", "a checkpoint where the Fine stream is frozen", self.fine_init)


@dataclass(kw_only=True)
class Features(Section):
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
class Eval(Section):
    """evaluation, also during training"""

    batch_size: Count = 1
    """most videos evaluated together; they are always of equal length, so results do not depend on it"""
    window: Count | None = None
    """clip frames of a video that a network sees at a time, also in extraction; null: whole videos, as published"""
    overlap: Whole | None = None
    """clip frames that one window has in common with the next, where they are blended; null: a quarter of a window"""
    save_frames: bool = False
    """also write predictions/dense.npz: the scores of every frame, for rule "dense" of tools.compare (4 bytes each)"""

    def __post_init__(self) -> None:
        super().__post_init__()
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
class Run(Section):
    """where results go, and how a run repeats"""

    name: NoEffect[str] = "charades"
    """name of the experiment; all three stages share it"""
    dir: NoEffect[str | None] = None
    """folder of the run's results; null: runs/NAME"""
    seed: Whole = 0
    """seed of every random draw"""
    resume: NoEffect[Literal["auto", "never"]] = "auto"
    """auto continues from last.pt where there is one; never starts again"""
    threads: Count | None = None
    """CPU threads for PyTorch; null: its own choice"""
    processes: Count | None = None
    """processes that train together on this machine; null: one for each GPU of -gpu"""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """of training: full, or half by autocast; losses, sampling locations and Gaussian weights stay in float32"""
    compile: bool = False
    """train through torch.compile"""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.name.strip() != "", "run.name", "a name", self.name)


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
        """The reverse of `to_dict`; options that are left out take their defaults."""
        return cls(**{name: section(**values.get(name, {})) for name, section in SECTIONS.items()})


SECTIONS: dict[str, type[Any]] = get_type_hints(Config)


def diff(old: Config | Mapping[str, Any], new: Config | Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Returns {dotted option: (old value, new value)} of all that differ; None stands for an option that is absent."""
    before, after = _flat(old), _flat(new)
    pairs = {option: (before.get(option), after.get(option)) for option in before | after}
    return {option: pair for option, pair in pairs.items() if pair[0] != pair[1]}


def _flat(config: Config | Mapping[str, Any]) -> dict[str, Any]:
    values = config.to_dict() if isinstance(config, Config) else config
    return {f"{section}.{name}": value for section, options in values.items() for name, value in options.items()}
