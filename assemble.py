"""The one place where a configuration becomes data, networks and weights; parts never see it."""

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from configs.cli import Command
from configs.schema import FROM_SCRATCH, KINETICS_WEIGHTS, Config, Stage
from datasets import KINDS
from datasets.annotations import Annotations, Video, read_class_names
from datasets.batch import EpochBatches, equal_length_batches, make_loader, window_batches
from datasets.clips import MISSING_LIMIT, Found, TestVideos, TrainClips, VideoFrames, find_videos, video_length
from datasets.features import FeatureStore, file_sha256
from datasets.frames import Listing, get_decoder
from datasets.index import list_with_index
from engine import distributed
from engine.checkpoint import FORMAT, read_weights, verified
from eval.errors import InputError
from models import CheckpointError, CoarseFineNet, CoarseNet, FineNet, load_official
from models.official import load_matching, read_checkpoint
from models.x3d import VARIANTS

PUBLISHED = "github.com/kkahatapitiya/Coarse-Fine-Networks, models/"


def writable(folder: Path, option: str) -> Path:
    """The folder of results, made where it is missing: an unwritable one is found before the work, not after."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise InputError(f"{folder}: cannot be written to ({error.strerror}); choose another {option}") from None


# --- data -------------------------------------------------------------------------------------------------------------


def input_size(config: Config) -> int:
    """Side of the network's square input in pixels."""
    return config.data.size or VARIANTS[config.model.variant].size


def read_annotations(config: Config) -> Annotations:
    data = config.data
    annotations = KINDS[data.kind].load(data.annotations, data.num_classes)
    print(annotations.report())
    class_names(config)  # a file of other classes is found now
    return annotations


def class_names(config: Config) -> list[str]:
    """A name for each class: of data.class_names, else those beside the annotations, else numbers."""
    data = config.data
    found = None if data.class_names else KINDS[data.kind].class_names(data.annotations)
    if found and len(found) == data.num_classes:
        return found
    return read_class_names(data.class_names, data.num_classes)


def find(config: Config, videos: list[Video], what: str, *, min_frames: int = 1) -> Found:
    """Those of the listed videos that have frames; says what is left out."""
    if not videos:
        raise InputError(f"{config.data.annotations}: lists no {what.lower()}")
    found = find_videos(
        videos,
        config.data.frames,
        min_frames=min_frames,
        allow_missing=config.data.allow_missing,
        allow_gaps=config.data.on_bad_sample == "skip",
        listings=frame_listings(config, videos),
    )
    print(f"{what}: {found.report()}")
    if not found.videos:
        raise InputError(f"no usable {what.lower()}; check --data.annotations, --data.frames and --data.min_frames")
    return found


def frame_listings(config: Config, videos: list[Video]) -> dict[str, Listing]:
    """What the videos' folders hold; those that have not changed since the last start are not listed again."""
    return list_with_index(config.data.frames, [video.id for video in videos], spare=config.run_dir)


def open_features(config: Config) -> FeatureStore | None:
    """The store that stage 2 wrote, checked against the configuration; None without fusion."""
    if config.model.fusion == "none":
        return None
    store = FeatureStore(config.features_dir)
    checkpoint = config.features_checkpoint
    if config.features.checkpoint and not checkpoint.is_file():
        raise InputError(f"{checkpoint}: no such checkpoint; correct --features.checkpoint, or leave it out")
    store.check(
        stride=config.data.stride,
        size=input_size(config),
        checkpoint_sha256=file_sha256(checkpoint) if checkpoint.is_file() else None,
        layers=VARIANTS[config.model.variant].feature_channels,
    )
    return store


def with_features(config: Config, found: Found, store: FeatureStore | None) -> list[VideoFrames]:
    """The videos; where unreadable ones may be skipped, without those that stage 2 has skipped."""
    if store is None or config.data.on_bad_sample == "error":
        return found.videos
    lacking = store.missing([video.id for video, _ in found.videos])
    if len(lacking) > max(1, int(MISSING_LIMIT * len(found.videos))):
        return found.videos  # not a few: the datasets refuse them
    for video in lacking:
        complain(f"{store.folder}: no features of video {video}; skipped")
    return [entry for entry in found.videos if entry.video.id not in lacking]


def dataset_options(config: Config, store: FeatureStore | None = None, *, fine_clips: bool = False) -> dict[str, Any]:
    data = config.data
    return {
        "num_classes": data.num_classes,
        "size": input_size(config),
        "stride": data.stride,
        "decode": get_decoder(data.image_backend),
        "store": store,
        "fine_frames": data.fine_frames,
        "fine_window": data.fine_window,
        "fine_clips": fine_clips,
        "skip_unreadable": data.on_bad_sample == "skip",
    }


def loader_options(config: Config, device: torch.device) -> dict[str, Any]:
    return {"workers": config.data.workers, "pin_memory": device.type == "cuda", "report": complain}


def complain(line: str) -> None:
    """A line on stderr, where that of any process is seen."""
    print(line, file=sys.stderr, flush=True)


def train_loader(
    config: Config,
    stage: Stage,
    annotations: Annotations,
    device: torch.device,
    store: FeatureStore | None = None,
    *,
    fine_clips: bool = False,
) -> DataLoader:
    """Random clips of the training videos, in an order that the seed fixes; see `TrainClips`."""
    name = type(stage).__name__.lower()
    parts = distributed.size() * stage.accumulate * config.model.bn_splits
    if stage.batch_size % parts:
        factors = {
            "processes": distributed.size(),
            f"parts (--{name}.accumulate)": stage.accumulate,
            "equal groups (--model.bn_splits)": config.model.bn_splits,
        }
        among = " x ".join(f"{number} {what}" for what, number in factors.items() if number > 1)
        lower = stage.batch_size // parts * parts
        nearest = f"{lower} or {lower + parts}" if lower else parts
        raise InputError(
            f"--{name}.batch_size: a batch of {stage.batch_size} cannot be divided among {among}; nearest: {nearest}"
        )
    found = find(config, annotations.subset("training"), "Training videos", min_frames=config.data.min_frames)
    incomplete = 0 if stage.drop_last else len(found.videos) % stage.batch_size
    if config.model.bn_splits > 1 and incomplete % parts:
        raise InputError(
            f"the last batch of an epoch has {incomplete} of {stage.batch_size} clips, which --model.bn_splits "
            f"{config.model.bn_splits} cannot divide; leave it out with --{name}.drop_last true"
        )
    clips = TrainClips(
        with_features(config, found, store),
        config.data.frames,
        seed=config.run.seed,
        clip_span=config.data.clip_span,
        **dataset_options(config, store, fine_clips=fine_clips),
    )
    try:
        batches = EpochBatches(
            len(clips),
            stage.batch_size,
            seed=config.run.seed,
            drop_last=stage.drop_last,
            rank=distributed.rank(),
            world_size=distributed.size(),
        )
    except InputError as error:
        raise InputError(f"--{name}.batch_size: {error}") from None
    return make_loader(clips, batches, **loader_options(config, device))


def video_loader(
    config: Config, found: Found, device: torch.device, store: FeatureStore | None = None, *, fine_clips: bool = False
) -> DataLoader:
    """Videos in the test view, this process's share; those of one length, or one's windows, may share a batch."""
    evaluation = config.eval
    videos = TestVideos(
        with_features(config, found, store),
        config.data.frames,
        window=evaluation.window,
        overlap=evaluation.common_frames,
        **dataset_options(config, store, fine_clips=fine_clips),
    )
    lengths = [(video_length(n, config.data.stride), min(n, config.data.stride)) for _, n in videos.videos]
    share = equal_length_batches(lengths, evaluation.batch_size)[distributed.rank() :: distributed.size()]
    batches = window_batches(share, videos.windows, evaluation.batch_size)
    return make_loader(videos, batches, **loader_options(config, device))


# --- networks ---------------------------------------------------------------------------------------------------------


def build_fine(config: Config) -> FineNet:
    return FineNet(**_network_options(config))


def build_coarse(config: Config) -> CoarseNet:
    model = config.model
    return CoarseNet(
        pool=model.pool,
        fusion=model.fusion,
        alignment=model.alignment,
        gaussian_scale=model.gaussian_scale,
        **_network_options(config),
    )


def build_coarse_fine(config: Config) -> CoarseFineNet:
    return CoarseFineNet(fine=build_fine(config), coarse=build_coarse(config), fine_frozen=config.coarse.fine_frozen)


def _network_options(config: Config) -> dict[str, Any]:
    """What both streams have in common."""
    model = config.model
    return {
        "num_classes": config.data.num_classes,
        "variant": model.variant,
        "bn_splits": model.bn_splits,
        "dropout": model.dropout,
        "checkpoint_activations": model.checkpoint_activations,
    }


def load_streams(net: nn.Module, path: Path, config: Config, *, complete: bool) -> None:
    """`load_weights` for a network of one stream or of both; of both, the file may hold the Coarse one alone."""
    if not isinstance(net, CoarseFineNet):
        load_weights(net, path, complete=complete)
        return
    ours = read_ours(path)
    _load_stream(net.coarse, path, ours, complete=complete)
    if ours is not None and _stream_of_both(ours["model"], "fine"):
        _load_stream(net.fine, path, ours, complete=complete)
    else:
        load_fine_stream(net.fine, config, complete=complete)


def load_fine_stream(net: FineNet, config: Config, *, complete: bool) -> None:
    """The weights that `coarse.fine_init` names, for the Fine stream of a network of both."""
    path = config.fine_init
    if config.coarse.fine_init == FROM_SCRATCH and not complete:
        print("fine: starting from random weights")
    elif path.is_file():
        load_weights(net, path, complete=complete)
    else:
        raise InputError(f"{path}: no such checkpoint of the Fine stream; run train_fine.py or set --coarse.fine_init")


def _stream_of_both(state: Mapping[str, Tensor], stage: str) -> dict[str, Tensor]:
    """One stream's weights by its own names, where the state is of a network of both; else none."""
    return {name.removeprefix(f"{stage}."): x for name, x in state.items() if name.startswith(f"{stage}.")}


def load_weights(net: nn.Module, path: Path, *, complete: bool) -> None:
    """Load a checkpoint of ours, also this stream's part of one that holds both, or a published one.

    Args:
        complete: every weight must come from the file, as for evaluation; otherwise a Fine stream or a Kinetics
            file may start a Coarse stream.
    """
    _load_stream(net, path, read_ours(path), complete=complete)


def _load_stream(net: nn.Module, path: Path, ours: Mapping[str, Any] | None, *, complete: bool) -> None:
    """`load_weights` from what `read_ours` has found."""
    stage = {FineNet: "fine", CoarseNet: "coarse"}[type(net)]
    if ours is None:
        report = load_official(net, path)
    elif part := _stream_of_both(ours["model"], stage):
        report = load_matching(net, part, path=path)
    elif ours["stage"] == stage:
        report = load_matching(net, ours["model"], path=path)
    elif (ours["stage"], stage) == ("fine", "coarse"):
        report = load_matching(
            net, ours["model"], path=path, may_be_fresh=lambda name: name.startswith(("fusion", "logit_", "grid_"))
        )
    else:
        raise CheckpointError(f"{path}: of stage {ours['stage']}, where a checkpoint of stage {stage} is needed")
    if complete and report.fresh:
        raise CheckpointError(
            f"{path}: holds no {report.fresh[0]} and {len(report.fresh) - 1} others, so it can start a training "
            "but not be evaluated; give a checkpoint of this network"
        )
    fresh = f", {len(report.fresh)} tensors start fresh" if report.fresh else ""
    neutral = f", {len(report.neutral)} that the file does without start neutral" if report.neutral else ""
    left = f", {len(report.left)} of the file not used" if report.left else ""
    print(f"{path}: {len(report.loaded)} tensors loaded{fresh}{neutral}{left}")


def read_ours(path: Path) -> dict[str, Any] | None:
    """Stage and weights ("stage", "model") of a file that a training wrote, verified; None for any other file."""
    if path.suffix == ".safetensors":
        return read_weights(path)
    contents = read_checkpoint(path)
    return verified(path, contents) if contents.get("format") == FORMAT else None


def initialise(net: nn.Module, config: Config, name: str) -> None:
    """Starting weights of a training."""
    path = starting_checkpoint(config, name)
    if path is not None:
        load_streams(net, path, config, complete=False)
        return
    print(f"{name}: starting from random weights")
    if isinstance(net, CoarseFineNet):
        load_fine_stream(net.fine, config, complete=False)


def starting_checkpoint(config: Config, name: str) -> Path | None:
    """The checkpoint that the configuration starts a training from; None for random weights."""
    stage: Stage = getattr(config, name)
    path = Path(stage.init)
    if stage.init == FROM_SCRATCH:
        return None
    if not path.is_file():
        source = f" (it comes from {PUBLISHED}{path.name})" if stage.init == KINETICS_WEIGHTS else ""
        raise InputError(f"{path}: no such checkpoint{source}; or train from random weights with --{name}.init none")
    return path


def weights_to_evaluate(command: Command, stage: Stage, name: str) -> Path:
    """The checkpoint of --eval_only: the one typed as init, else the run's best, else the configured init."""
    best = command.config.run_dir / name / "checkpoints" / "best.pt"
    configured = stage.init not in (FROM_SCRATCH, KINETICS_WEIGHTS) and not best.is_file()
    typed = stage.init != FROM_SCRATCH and f"{name}.init" in command.given
    if typed or configured:
        return Path(stage.init)
    if not best.is_file():
        raise InputError(f"{best}: no such checkpoint; train first, or name one with --{name}.init")
    return best
