"""Run a trained network on any video, window by window: the Fine stream, or the Coarse stream fused with it.

The steps are the same as in evaluation (test view, feature store, windows, blended logits), and so are the predictions.
Frames and features are stored on disk: memory does not grow with the video.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import InputError
from common.progress import progress
from configs.cli import DEFAULT_CONFIG, load
from configs.schema import Config
from datasets.assembly import input_size
from datasets.batch import collate, prepare
from datasets.clips import Sample, place_window, video_length
from datasets.features import FeatureStore, FeatureWriter, Settings
from datasets.transforms import centred_view, normalise, render
from datasets.windows import Joins, Part, Window, split
from engine.checkpoint import Weights, read_weights
from engine.evaluation import chosen_frames
from engine.networks import build_coarse, build_fine, load_weights, logits_at_labels
from models import FineNet, prepare_for_inference
from models.official import holds_coarse
from models.pooling import sampled_locations

CHUNK = 32  # frames that are cropped and resized together
LONGEST = 256  # default window in clip frames: 107 s at stride 10, about 2 GB
VIDEO = "video"  # id of the video in its temporary store

# --- which networks ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Networks:
    """Trained networks, ready to predict."""

    config: Config
    net: nn.Module  # the stream that predicts
    fine: FineNet | None  # the Fine stream that provides features for `net`, if any
    device: torch.device


def load_networks(
    checkpoint: Path, *, fine_checkpoint: Path | None, configs: Sequence[str | Path], device: torch.device
) -> Networks:
    """Build the networks of the checkpoints; our checkpoints contain their configuration.

    Args:
        checkpoint: Checkpoint of stage 1 or 3, ours or published.
        fine_checkpoint: Checkpoint of the Fine stream for a Coarse stream; None for that of the same run.
        configs: Configuration files of a published checkpoint, later ones override; empty for the default.
    """
    if checkpoint.is_dir():
        raise InputError(
            f"{checkpoint}: is a folder; --checkpoint must be a file, such as RUN/coarse/checkpoints/best.pt"
        )
    weights = read_weights(checkpoint)
    if weights.config is None:
        config = load(*configs or [DEFAULT_CONFIG])
    elif configs:
        raise InputError(f"{checkpoint}: has its own configuration; --config is only for published checkpoints")
    else:
        config = Config.from_dict(weights.config)
    if (weights.stage or ("coarse" if holds_coarse(weights.tensors) else "fine")) == "fine":
        if fine_checkpoint:
            raise InputError(f"{checkpoint}: is a Fine stream; --fine_checkpoint is only for Coarse stream checkpoints")
        return Networks(config=config, net=_ready(build_fine(config), weights, device), fine=None, device=device)
    fine = None
    if config.model.fusion != "none":  # without fusion, no features are needed
        path = fine_checkpoint or _fine_checkpoint(checkpoint, config)
        fine = _ready(build_fine(config), weights if path == checkpoint else read_weights(path), device)
    return Networks(config=config, net=_ready(build_coarse(config), weights, device), fine=fine, device=device)


Net = TypeVar("Net", bound=nn.Module)


def _ready(net: Net, weights: Weights, device: torch.device) -> Net:
    """Load the weights, which must be complete, and prepare the network for inference."""
    load_weights(net, weights, complete=True)
    return prepare_for_inference(net.to(device))


def _fine_checkpoint(checkpoint: Path, config: Config) -> Path:
    """Find the checkpoint of the Fine stream that the Coarse stream was trained with."""
    if config.coarse.fine_source == "network":  # the checkpoint holds both streams
        return checkpoint
    beside = checkpoint.resolve().parent.parent.parent / "fine" / "checkpoints" / "best.pt"
    for path in (beside, config.features_checkpoint):  # the run may have been moved
        if path.is_file():
            return path
    raise InputError(
        f"{checkpoint}: no Fine stream checkpoint found at {beside} or {config.features_checkpoint}; "
        "set --fine_checkpoint"
    )


def choose_windows(config: Config, *, window: int | None, overlap: int | None) -> tuple[int, int]:
    """Return window and overlap in clip frames: the given values, else those of the run's evaluation, else defaults."""
    run = config.eval
    window = window or run.window or LONGEST
    if overlap is None:
        return window, run.common_frames if window == run.window else window // 4
    if overlap >= window:
        raise InputError(f"--overlap {overlap}: must be less than the window of {window} clip frames")
    return window, overlap


# --- one video --------------------------------------------------------------------------------------------------------


class ClipFile:
    """A video in the test view, stored as uint8 on disk, written in order and read in windows."""

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size, self.frames = path, size, 0

    def fill(self, images: Iterable[Tensor]) -> None:
        """Append the resized centre squares of frames (H,W,3) uint8 of one size."""
        images = iter(images)
        with self.path.open("ab") as file:
            while chunk := list(islice(images, CHUNK)):
                height, width, _ = chunk[0].shape
                file.write(render(chunk, centred_view(width, height), self.size).numpy().data)
                self.frames += len(chunk)

    def read(self, window: Window) -> Tensor:
        """Read frames start..stop-1 as a clip (t,size,size,3) uint8."""
        shape = (self.frames, self.size, self.size, 3)
        frames = np.memmap(self.path, np.uint8, "r", shape=shape)[window.start : window.stop]
        return torch.from_numpy(np.array(frames))


@torch.no_grad()
def predict(
    nets: Networks, clip: ClipFile, n: int, folder: Path, window: int, overlap: int
) -> tuple[np.ndarray, list[float]]:
    """Predict a video.

    Args:
        n: Number of frames of the video; `clip` has at least every stride-th of them.
        folder: Folder for temporary features.
        window, overlap: In clip frames, see `datasets.windows.split`.

    Returns:
        Probabilities (C,L), L = stride * (n // stride), or n for a video shorter than one stride; and the video frames
        selected by Grid Pool, from 1, ascending.
    """
    stride = nets.config.data.stride
    windows = split(video_length(n, stride), window, overlap)
    store = None if nets.fine is None else _extract(nets.fine, nets, clip, windows, folder)
    joins, logits, chosen = Joins(), [], []
    stream = "Fine stream" if isinstance(nets.net, FineNet) else "Coarse stream"
    for number in progress(range(len(windows)), len(windows), stream):
        part = Part(number, windows)
        batch = collate([_sample(nets.config, clip, n, windows[number], store)])
        with sampled_locations(nets.net) as passes:
            result, _ = logits_at_labels(nets.net, prepare(batch, nets.device))
        for (locations,) in passes:
            chosen += chosen_frames(part, locations.tolist(), stride)
        logits.append(joins.add(VIDEO, part, {"logits": result[0].float().cpu()})["logits"])
    return torch.sigmoid(torch.cat(logits, 1)).numpy(), chosen


def _sample(config: Config, clip: ClipFile, n: int, window: Window, store: FeatureStore | None) -> Sample:
    """Build the sample of a window, with the features for the Coarse stream and empty labels of the right length."""
    data, (start, stop) = config.data, window
    columns = min(n, stop * data.stride) - start * data.stride
    sample = Sample(video=VIDEO, clip=clip.read(window), labels=torch.empty(0, columns), num_frames=columns)
    if store is not None:
        first, sample["start"] = place_window(
            start, stop - start, store.frames(VIDEO), length=data.fine_frames, mode=data.fine_window
        )
        sample["fine_features"] = store.read(VIDEO, first, first + data.fine_frames)
    return sample


def _extract(fine: FineNet, nets: Networks, clip: ClipFile, windows: list[Window], folder: Path) -> FeatureStore:
    """Extract the Fine stream's features to a store, as in stage 2."""
    config, joins = nets.config, Joins()
    settings: Settings = {
        "checkpoint": "",
        "checkpoint_sha256": "",
        "stride": config.data.stride,
        "crop": input_size(config),
        "dtype": config.features.dtype,
    }
    with FeatureWriter(folder, settings) as writer:
        for number in progress(range(len(windows)), len(windows), "Fine stream"):
            seen = normalise(clip.read(windows[number])[None].to(nets.device))
            features = {level: f[0] for level, f in fine.features(seen).items()}
            final = joins.add(VIDEO, Part(number, windows), features)
            writer.write(VIDEO, final, frames=windows[-1].stop)
    return FeatureStore(folder)
