"""Build the inputs of the stages from a configuration: annotations, videos, feature store and loaders.

No other module of the loading code depends on the configuration. Rank and number of processes are arguments.
"""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from common.errors import InputError
from configs.schema import Config, Stage
from datasets.annotations import Annotations, Video, read_class_names
from datasets.batch import EpochBatches, Loader, evaluation_batches
from datasets.clips import MISSING_LIMIT, TestVideos, TrainClips, VideoFrames, find_videos, video_length
from datasets.features import FeatureStore, file_sha256
from datasets.frames import get_decoder
from datasets.index import list_with_index
from datasets.kinds import KINDS
from eval.charades_localize import Truth, read_ground_truth
from models.x3d import VARIANTS

Dataset = TypeVar("Dataset", TrainClips, TestVideos)


def input_size(config: Config) -> int:
    """Return the side of the network's square input in pixels."""
    return config.data.size or VARIANTS[config.model.variant].size


def read_annotations(config: Config) -> Annotations:
    """Read the annotations of the dataset and print a summary."""
    data = config.data
    annotations = KINDS[data.kind].load(data.annotations, data.num_classes)
    print(annotations.report())
    class_names(config)  # fail early if the file does not match
    return annotations


def read_truth(config: Config, annotations: Annotations | None = None) -> dict[str, Truth]:
    """What the metrics take of the test videos: the ground truth's CSV, else the annotations (None: read here)."""
    data = config.data
    if data.ground_truth:
        if not Path(data.ground_truth).is_file():
            raise InputError(
                f"{data.ground_truth}: no such file",
                option="--data.ground_truth",
                remedy="set {option} to the official CSV, or to null",
            )
        return read_ground_truth(data.ground_truth, data.num_classes)
    return (annotations or KINDS[data.kind].load(data.annotations, data.num_classes)).truth()


def class_names(config: Config) -> list[str]:
    """Return class names from data.class_names, else from the list next to the annotations, else numbers."""
    data = config.data
    found = None if data.class_names else KINDS[data.kind].class_names(data.annotations)
    if found and len(found) == data.num_classes:
        return found
    return read_class_names(data.class_names, data.num_classes)


def class_names_or_numbers(config: Config) -> tuple[list[str], str]:
    """Return `class_names`, or numbers and the reason if they cannot be read (e.g. on another machine)."""
    try:
        return class_names(config), ""
    except InputError as error:
        return read_class_names(None, config.data.num_classes), f"No class names, using numbers: {error.what}"


def usable_videos(config: Config, videos: list[Video], what: str, *, min_frames: int = 1) -> list[VideoFrames]:
    """Return the listed videos that have frames, and print which are skipped."""
    if not videos:
        raise InputError(f"{config.data.annotations}: contains no {what.lower()}")
    found = find_videos(
        videos,
        config.data.frames,
        min_frames=min_frames,
        allow_missing=config.data.allow_missing,
        allow_gaps=config.data.on_bad_sample == "skip",
        listings=list_with_index(config.data.frames, [video.id for video in videos], spare=config.run_dir),
    )
    line = f"{what}: {len(found.videos)} videos"
    if found.short:
        line += f", {len(found.short)} skipped as too short"
    if found.missing:
        line += f", {len(found.missing)} without frames: {', '.join(found.missing)}"
    print(line)
    if not found.videos:
        raise InputError(f"no usable {what.lower()}; check --data.annotations, --data.frames and --data.min_frames")
    return found.videos


def open_features(config: Config) -> FeatureStore | None:
    """Open the feature store of stage 2 and check it against the configuration; None without fusion."""
    if config.model.fusion == "none":
        return None
    store = FeatureStore(config.features_dir)
    checkpoint = config.features_checkpoint
    if config.features.checkpoint and not checkpoint.is_file():
        raise InputError(f"{checkpoint}: no such checkpoint; correct or omit --features.checkpoint")
    store.check(
        stride=config.data.stride,
        size=input_size(config),
        checkpoint_sha256=file_sha256(checkpoint) if checkpoint.is_file() else None,
        layers=VARIANTS[config.model.variant].feature_channels,
    )
    return store


def train_loader(
    config: Config,
    stage: Stage,
    annotations: Annotations,
    device: torch.device,
    store: FeatureStore | None = None,
    *,
    fine_clips: bool = False,
    rank: int = 0,
    processes: int = 1,
) -> Loader:
    """Return a loader of random training clips in an order determined by the seed; see `TrainClips`."""
    data, seed = config.data, config.run.seed
    videos = usable_videos(config, annotations.subset("training"), "Training videos", min_frames=data.min_frames)
    check_batches(config, stage, len(videos), processes)
    clips = _dataset(TrainClips, config, videos, store, fine_clips=fine_clips, seed=seed, clip_span=data.clip_span)
    batches = EpochBatches(
        len(clips), stage.batch_size, seed=seed, drop_last=stage.drop_last, rank=rank, processes=processes
    )
    return Loader(clips, batches, workers=data.workers, pin_memory=device.type == "cuda")


def video_loader(
    config: Config,
    videos: list[VideoFrames],
    device: torch.device,
    store: FeatureStore | None = None,
    *,
    fine_clips: bool = False,
    rank: int = 0,
    processes: int = 1,
) -> Loader:
    """Return a loader of this process's videos in the test view, batched by equal length, or windows of one video."""
    stride, window, overlap = config.data.stride, config.eval.window, config.eval.common_frames
    tested = _dataset(TestVideos, config, videos, store, fine_clips=fine_clips, window=window, overlap=overlap)
    lengths = [(video_length(n, stride), min(n, stride)) for _, n in tested.videos]
    batches = evaluation_batches(lengths, tested.windows, config.eval.batch_size, rank=rank, processes=processes)
    return Loader(tested, batches, workers=config.data.workers, pin_memory=device.type == "cuda")


def _dataset(
    kind: Callable[..., Dataset], config: Config, videos: list[VideoFrames], store: FeatureStore | None, **own: object
) -> Dataset:
    """Build the training or test dataset; `own` are the options of its class.

    If unreadable videos may be skipped, a few videos skipped by stage 2 are excluded.
    """
    data, skip = config.data, config.data.on_bad_sample == "skip"
    lacking = store.missing([video.id for video, _ in videos]) if store is not None and skip else []
    if len(lacking) <= max(1, int(MISSING_LIMIT * len(videos))):  # otherwise the dataset raises
        for video in lacking:
            line = f"{config.features_dir}: no features for video {video}; skipping it"
            print(line, file=sys.stderr, flush=True)
        videos = [entry for entry in videos if entry.video.id not in lacking]
    return kind(
        videos,
        data.frames,
        num_classes=data.num_classes,
        size=input_size(config),
        stride=data.stride,
        decode=get_decoder(data.image_backend),
        store=store,
        fine_frames=data.fine_frames,
        fine_window=data.fine_window,
        skip_unreadable=skip,
        **own,
    )


def check_batches(config: Config, stage: Stage, videos: int, processes: int) -> None:
    """Raise if training batches cannot be divided into equal parts, or an epoch has no complete batch."""
    name, splits = type(stage).__name__.lower(), config.model.bn_splits
    factors = {
        "processes": processes,
        f"parts (--{name}.accumulate)": stage.accumulate,
        "equal groups (--model.bn_splits)": splits,
    }
    parts = math.prod(factors.values())
    if stage.batch_size % parts:
        among = " x ".join(f"{number} {what}" for what, number in factors.items() if number > 1)
        lower = stage.batch_size // parts * parts
        nearest = f"{lower} or {lower + parts}" if lower else parts
        raise InputError(
            f"--{name}.batch_size: {stage.batch_size} cannot be divided among {among}; nearest valid: {nearest}"
        )
    if stage.drop_last and videos < stage.batch_size:
        raise InputError(
            f"--{name}.batch_size: {videos} videos do not fill a batch of {stage.batch_size}; "
            f"lower the batch size, or keep incomplete batches with --{name}.drop_last false"
        )
    incomplete = 0 if stage.drop_last else videos % stage.batch_size
    if splits > 1 and incomplete % parts:
        raise InputError(
            f"the last batch of an epoch has only {incomplete} of {stage.batch_size} clips, which is not divisible "
            f"by --model.bn_splits {splits}; drop it with --{name}.drop_last true"
        )
