"""Benchmark rows for data and evaluation: clip loading, average precision, feature store.

Each alternates with its baseline in one process, with the files in the system's cache.
"""

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as F

from datasets.annotations import Video
from datasets.batch import Loader
from datasets.clips import TrainClips, VideoFrames
from datasets.features import FeatureStore, FeatureWriter, Settings
from datasets.frames import frame_path, get_decoder, read_frames
from datasets.transforms import MEAN, STD, View, augmented_view, normalise, render
from eval.average_precision import average_precision
from models.x3d import VARIANTS
from tools.benchmark.timing import Result, Setting, median_seconds

WIDTH, HEIGHT, SIZE = 320, 240, 224
FRAMES = 64
AP_ROWS, CLASSES = 46_575, 157  # 25 frames for each of Charades' 1863 test videos
VIDEO_FRAMES, WINDOW = 75, 32  # feature frames of a 31 s video and of a clip's window
SPARE_FRAMES = 10  # a training clip starts at one of the first ten frames
CPU = torch.device("cpu")


@contextmanager
def jpeg_videos(count: int, frames: int, *, within: Path | None = None) -> Iterator[Path]:
    """A folder of videos v0, v1, ...: a window moving over multi-scale clouds, about 11 KB per frame as in Charades."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(dir=within) as folder:
        for video in range(count):
            canvas = _clouds(rng, HEIGHT + frames, WIDTH + frames)
            path = frame_path(folder, f"v{video}", 1)
            path.parent.mkdir()
            for k in range(frames):
                frame = Image.fromarray(canvas[k : k + HEIGHT, k : k + WIDTH])
                frame.save(frame_path(folder, f"v{video}", k + 1), quality=75)
        yield Path(folder)


def _clouds(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Image (height,width,3) uint8 with detail at every scale, stronger at coarse scales, and little colour."""
    picture = np.zeros((height, width, 3), np.float32)
    for octave in range(1, 8):
        noise = rng.standard_normal((4, math.ceil(height / 2**octave) + 1, math.ceil(width / 2**octave) + 1))
        layers = [Image.fromarray(x.astype(np.float32)) for x in noise]
        grey, *colours = (np.asarray(layer.resize((width, height), Image.Resampling.BICUBIC)) for layer in layers)
        picture += 1.5**octave * (grey[..., None] + 0.3 * np.stack(colours, -1))
    return np.clip(110 + 50 * picture / picture.std(), 0, 255).astype(np.uint8)


# --- loading ----------------------------------------------------------------------------------------------------------


def loading(setting: Setting) -> Result:
    """Load a clip from JPEG files to the normalised tensor: ours, and frame by frame with PIL; one thread each."""
    torch.set_num_threads(1)  # as in a loader's worker
    frames = FRAMES // 4 if setting.quick else FRAMES
    decode = get_decoder()
    view = augmented_view(np.random.default_rng(0), WIDTH, HEIGHT, SIZE)._replace(flip=True)
    with jpeg_videos(1, frames) as root:
        paths = [frame_path(root, "v0", k + 1) for k in range(frames)]

        buffer = torch.empty(1, frames, SIZE, SIZE, 3)  # overwritten by every clip, as in training

        def ours() -> Tensor:
            clip = render(list(read_frames(root, "v0", range(1, frames + 1), decode)), view, SIZE)
            return normalise(clip[None], [frames], buffer)

        seconds, pil_seconds = _medians(setting, ours, lambda: pil_clip(paths, view))
        size = sum(path.stat().st_size for path in paths)
    return {
        "seconds": seconds,
        "frames": frames,
        "pil_seconds": pil_seconds,
        "speedup": pil_seconds / seconds,
        "kilobytes_per_frame": size / frames / 1e3,
    }


def pil_clip(paths: list[Path], view: View) -> Tensor:
    """The PIL baseline: open, crop, resize, flip and normalise frame by frame. Returns the clip (1,3,T,H,W)."""
    frames = []
    for path in paths:
        with Image.open(path) as file:
            image = F.resized_crop(file.convert("RGB"), view.top, view.left, view.side, view.side, [SIZE, SIZE])
        tensor = F.to_tensor(F.hflip(image) if view.flip else image)
        frames.append(F.normalize(tensor, MEAN, STD, inplace=True))
    return torch.stack(frames, 1)[None]


def worker(setting: Setting) -> Result:
    """Seconds per clip of one worker process of the training loader, including the transfer."""
    frames = FRAMES // 4 if setting.quick else FRAMES
    clips = 8 if setting.quick else 32
    with jpeg_videos(2, frames + SPARE_FRAMES) as root:
        videos = [VideoFrames(Video(f"v{i}", "training", 30.0, ()), frames + SPARE_FRAMES) for i in range(2)]
        dataset = TrainClips(videos, root, seed=0, clip_span=frames, num_classes=CLASSES, size=SIZE, stride=1)
        keys: list[list[tuple[int, ...]]] = [[(epoch, epoch % 2)] for epoch in range(clips)]
        loader = Loader(dataset, keys, workers=1)
        list(loader)  # warm-up: start the process, cache the files
        (seconds,) = _medians(setting, lambda: list(loader))
    return {"seconds": seconds / clips, "frames": frames, "clips": clips}


# --- average precision ------------------------------------------------------------------------------------------------


def precision(setting: Setting) -> Result:
    """AP of every class over all official frames, against one stable argsort per class."""
    rng = np.random.default_rng(0)
    rows = AP_ROWS // 10 if setting.quick else AP_ROWS
    scores, labels = rng.random((rows, CLASSES), np.float32), rng.random((rows, CLASSES)) < 0.05
    seconds, argsort_seconds = _medians(
        setting, lambda: average_precision(scores, labels), lambda: ap_by_argsort(scores, labels)
    )
    return {"seconds": seconds, "rows": rows, "argsort_seconds": argsort_seconds}


def ap_by_argsort(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """AP (C,) by definition: the mean precision at the positives, class by class."""
    result = []
    for score, label in zip(scores.T, labels.T, strict=True):
        ranked = label[np.argsort(-score, kind="stable")]
        precision_at = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
        result.append(precision_at[ranked].mean())
    return np.array(result)


# --- feature store ----------------------------------------------------------------------------------------------------


def store(setting: Setting) -> Result:
    """One video's features: size, and time to read a window of one level, against five float32 files."""
    torch.set_num_threads(1)  # as in a loader's worker
    rng = torch.Generator().manual_seed(0)
    channels = VARIANTS["M"].feature_channels
    features = {level: torch.rand(C, VIDEO_FRAMES, 7, 7, generator=rng) for level, C in channels.items()}
    start = (VIDEO_FRAMES - WINDOW) // 2
    with tempfile.TemporaryDirectory() as folder:
        ours, beside = Path(folder, "ours"), Path(folder, "beside")
        settings = Settings(checkpoint="none", checkpoint_sha256="", stride=10, crop=SIZE, dtype="float16")
        with FeatureWriter(ours, settings) as writer:
            writer.write("v0", features)
        beside.mkdir()
        for level, x in features.items():
            torch.save(x, beside / f"{level}.pt")
        reader, pickled = FeatureStore(ours), sorted(beside.iterdir())
        whole, pickled_seconds, *windows = _medians(
            setting,
            partial(_read, reader, 0, VIDEO_FRAMES, channels),
            lambda: [torch.load(path) for path in pickled],
            *(partial(_read, reader, start, start + WINDOW, [level]) for level in channels),
        )
        size = sum(path.stat().st_size for path in ours.glob("*.safetensors"))
        pickled_size = sum(path.stat().st_size for path in pickled)
    return {
        "megabytes": size / 1e6,
        "window_milliseconds": max(windows) * 1e3,
        "milliseconds": whole * 1e3,
        "pickled_megabytes": pickled_size / 1e6,
        "pickled_milliseconds": pickled_seconds * 1e3,
        "share": size / pickled_size,
    }


def _read(reader: FeatureStore, start: int, stop: int, levels: Iterable[str]) -> list[Tensor]:
    """Copies of the features, since the store's tensors may be memory-mapped and not yet read."""
    return [x.clone() for x in reader.read("v0", start, stop, levels).values()]


def _medians(setting: Setting, *works: Callable[[], object]) -> list[float]:
    """Median seconds on the CPU, regardless of the networks' device."""
    return median_seconds(Setting(CPU, setting.quick), *works, most=200, budget=6.0)
