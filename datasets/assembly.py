"""A configuration becomes what the stages read: annotations, found videos, the feature store, loaders.

The only file of this package that sees a configuration; the rank of this process and their number are arguments.
"""

import sys
from typing import Any

import torch

from common.errors import InputError
from configs.schema import Config, Stage
from datasets import KINDS
from datasets.annotations import Annotations, Video, read_class_names
from datasets.batch import EpochBatches, Loader, equal_length_batches, make_loader, window_batches
from datasets.clips import MISSING_LIMIT, Found, TestVideos, TrainClips, VideoFrames, find_videos, video_length
from datasets.features import FeatureStore, file_sha256
from datasets.frames import Listing, get_decoder
from datasets.index import list_with_index
from models.x3d import VARIANTS


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
    rank: int = 0,
    processes: int = 1,
) -> Loader:
    """Random clips of the training videos, in an order that the seed fixes; see `TrainClips`."""
    name = type(stage).__name__.lower()
    parts = processes * stage.accumulate * config.model.bn_splits
    if stage.batch_size % parts:
        factors = {
            "processes": processes,
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
            rank=rank,
            world_size=processes,
        )
    except InputError as error:
        raise InputError(f"--{name}.batch_size: {error}") from None
    return make_loader(clips, batches, **loader_options(config, device))


def video_loader(
    config: Config,
    found: Found,
    device: torch.device,
    store: FeatureStore | None = None,
    *,
    fine_clips: bool = False,
    rank: int = 0,
    processes: int = 1,
) -> Loader:
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
    share = equal_length_batches(lengths, evaluation.batch_size)[rank::processes]
    batches = window_batches(share, videos.windows, evaluation.batch_size)
    return make_loader(videos, batches, **loader_options(config, device))
