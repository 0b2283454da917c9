"""A trained network on any video: the Fine stream, and the Coarse stream fused with it, a window at a time.

The steps are those of evaluation on a dataset (test view, feature store, windows, blended logits), so a video predicts
as it is evaluated. Frames and features wait on disk: memory does not grow with the video.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from configs.schema import Config
from datasets.assembly import input_size
from datasets.batch import Batch, prepare
from datasets.clips import place_window, video_length
from datasets.features import FeatureStore, FeatureWriter
from datasets.transforms import centred_view, render
from datasets.windows import Joins, Part, Window, split
from engine.checkpoint import Weights
from engine.evaluation import chosen_frames
from engine.networks import build_coarse, build_fine, load_weights, logits_at_labels
from models import prepare_for_inference
from models.pooling import sampled_locations

CHUNK = 32  # frames that are decoded, then cropped and resized together
Progress = Callable[[Iterable, int, str], Iterator]


@dataclass(frozen=True, kw_only=True)
class Networks:
    """A trained experiment, ready to predict. `coarse` is None where the Fine stream alone does, `fine` where the
    Coarse stream does without features."""

    config: Config
    fine: nn.Module | None
    coarse: nn.Module | None
    device: torch.device


def load_networks(config: Config, *, fine: Weights | None, coarse: Weights | None, device: torch.device) -> Networks:
    """Build what the checkpoints hold; each must hold all of its network."""

    def ready(net: nn.Module, weights: Weights) -> nn.Module:
        load_weights(net, weights, complete=True)
        return prepare_for_inference(net.to(device))

    return Networks(
        config=config,
        fine=ready(build_fine(config), fine) if fine else None,
        coarse=ready(build_coarse(config), coarse) if coarse else None,
        device=device,
    )


class Prediction(NamedTuple):
    """Of one video: probabilities (C,L) of its frames, and the frames that Grid Pool chose, from 1, ascending."""

    probabilities: np.ndarray
    chosen: list[float]


class ClipFile:
    """A video in the test view, uint8 on disk, written in order and read a window at a time."""

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size, self.frames = path, size, 0

    def fill(self, images: Iterable[Tensor]) -> None:
        """Append frames (3,H,W) uint8 of one size: their centred square, resized."""
        with self.path.open("ab") as file:
            for chunk in _chunks(images):
                height, width = chunk[0].shape[1:]
                clip = render(chunk, centred_view(width, height), self.size)  # (3,t,size,size), memory (t,size,size,3)
                file.write(clip.permute(1, 2, 3, 0).contiguous().numpy().data)
                self.frames += len(chunk)

    def read(self, window: Window) -> Tensor:
        """Clip (1,3,t,size,size) uint8 of frames start..stop-1."""
        shape = (self.frames, self.size, self.size, 3)
        frames = np.memmap(self.path, np.uint8, "r", shape=shape)[window.start : window.stop]
        return torch.from_numpy(np.array(frames)).permute(3, 0, 1, 2)[None]


def _chunks(images: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    chunk = []
    for image in images:
        chunk.append(image)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


@torch.no_grad()
def predict(
    nets: Networks, clip: ClipFile, n: int, folder: Path, *, window: int | None, overlap: int, progress: Progress
) -> Prediction:
    """What the networks say of a video; L = stride * (n // stride), or n for a video below one stride.

    Args:
        n: Frames of the video; `clip` has at least every stride-th of them.
        folder: For the features meanwhile.
        window, overlap: Clip frames, see `datasets.windows.split`; None for the video as a whole.
        progress: (items, their number, title) -> the items.
    """
    data = nets.config.data
    windows = split(video_length(n, data.stride), window, overlap)
    columns = [min(n, stop * data.stride) - start * data.stride for start, stop in windows]
    store = None
    if nets.coarse is not None and nets.fine is not None:
        store = _extract(nets, clip, windows, folder, progress)

    chosen: list[float] = []

    def logits(number: int) -> Tensor:
        batch = _batch(clip, windows[number], columns[number])
        if store is not None:
            batch |= _fine_window(store, windows[number], data.fine_frames, data.fine_window)
        net = nets.fine if nets.coarse is None else nets.coarse
        with sampled_locations(net) as passes:
            result, _ = logits_at_labels(net, prepare(batch, nets.device))
        for (locations,) in passes:
            chosen.extend(chosen_frames(Part(number, windows), locations.tolist(), data.stride))
        return result

    title = "Fine stream" if nets.coarse is None else "Coarse stream"
    passes = progress(range(len(windows)), len(windows), title)
    probabilities = torch.sigmoid(_joined(windows, data.stride, map(logits, passes))).numpy()
    return Prediction(probabilities, chosen)


def _batch(clip: ClipFile, window: Window, columns: int = 0) -> Batch:
    """One window as a batch; of its labels, only how many there would be."""
    frames = torch.tensor([window.stop - window.start])
    return Batch(clip=clip.read(window), frames=frames, labels=torch.empty(1, 0, columns))


def _joined(windows: list[Window], stride: int, logits: Iterable[Tensor]) -> Tensor:
    """The logits (1,C,L) of a video's windows as those (C,L) of the video, on the CPU in float32."""
    joins = Joins({"logits": stride})
    parts = [
        joins.add("", Part(number, windows), {"logits": one[0].float().cpu()})["logits"]
        for number, one in enumerate(logits)
    ]
    return torch.cat(parts, 1)


VIDEO = "video"  # its name in the store of its own


def _extract(nets: Networks, clip: ClipFile, windows: list[Window], folder: Path, progress: Progress) -> FeatureStore:
    """The Fine stream's features, as stage 2 stores them."""
    config, joins = nets.config, Joins()
    with FeatureWriter(
        folder, checkpoint="", checkpoint_sha256="", stride=config.data.stride, size=input_size(config),
        dtype=config.features.dtype,
    ) as writer:  # fmt: skip
        for number in progress(range(len(windows)), len(windows), "Fine stream"):
            features = nets.fine.features(prepare(_batch(clip, windows[number]), nets.device)["clip"])
            final = joins.add(VIDEO, Part(number, windows), {level: f[0] for level, f in features.items()})
            writer.append(VIDEO, final, frames=windows[-1].stop)
    return FeatureStore(folder)


def _fine_window(store: FeatureStore, window: Window, length: int, mode: str) -> dict[str, object]:
    """What the Coarse stream sees of the store beside a window, as a batch of one."""
    T = window.stop - window.start
    first, start = place_window(window.start, T, store.frames(VIDEO), length=length, mode=mode)
    features = {level: x[None] for level, x in store.read(VIDEO, first, first + length).items()}
    (frames,) = {x.shape[2] for x in features.values()}
    return {"fine_features": features, "fine_mask": torch.ones(1, frames), "start": torch.tensor([start])}
