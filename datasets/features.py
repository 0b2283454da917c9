"""The feature store: the Fine stream's outputs for every video, written once and read a window at a time.

A folder holds `<video id>.safetensors`, one tensor (T,C,7,7) a level, time outermost so that a window of frames is one
contiguous piece of the file; and `manifest.json`, which says of what network, stride and crop they are:

    {"checkpoint": path, "checkpoint_sha256": ..., "stride": 10, "crop": 224, "dtype": "float16",
     "layers": {"layer1": 24, ...}, "videos": {id: {"frames": T, "sha256": of the video's file}}}

and, of features extracted in windows, their "window" and "overlap" in frames.

A file stands under its final name only when it is whole. A video counts as extracted only when the manifest has it and
its file's header and size fit; the files' own checksums are for whoever suspects the disk.
"""

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NotRequired

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor
from typing_extensions import TypedDict  # the one that pydantic reads before Python 3.12

from common.errors import InputError, one_line
from common.files import written_whole
from common.text import first_few
from datasets.safetensors_writer import DTYPE_NAMES, SafetensorsWriter

MANIFEST = "manifest.json"
GRID = 7  # features are averaged adaptively to 7x7 positions
DTYPES = {"float16": torch.float16, "float32": torch.float32}
FLUSH_SECONDS = 5.0
SHOWN = 12  # of a checksum's 64 digits, in messages
OPTIONS = {  # what two stores must agree on, and the option that sets it
    "checkpoint_sha256": "--features.checkpoint",
    "stride": "--data.stride",
    "crop": "--data.size",
    "dtype": "--features.dtype",
    "window": "--eval.window",
    "overlap": "--eval.overlap",
}


class Settings(TypedDict):
    """What features are of; `window` and `overlap` only where videos were not taken whole."""

    checkpoint: str
    checkpoint_sha256: str
    stride: int
    crop: int
    dtype: str
    window: NotRequired[int]
    overlap: NotRequired[int]


class VideoEntry(TypedDict):
    """A video's features: their number (T), and the sha256 of their file."""

    frames: int
    sha256: str


class Manifest(Settings):
    """The manifest, as described above."""

    layers: dict[str, int]
    videos: dict[str, VideoEntry]


def file_sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _features_path(folder: Path, video: str) -> Path:
    return folder / f"{video}.safetensors"


def _read_manifest(folder: Path) -> Manifest | None:
    """The manifest, or None where there is none yet."""
    path = folder / MANIFEST
    try:
        return TypeAdapter(Manifest).validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise InputError(f"{path}: not a manifest ({one_line(error)}); delete the folder and extract again") from None


def _refuse_disagreement(
    folder: Path, manifest: Mapping[str, object], wanted: Mapping[str, object], remedy: str
) -> None:
    for setting, value in wanted.items():
        stored = manifest.get(setting)
        if stored != value:
            source = f" ({manifest['checkpoint']})" if setting == "checkpoint_sha256" else ""
            stored, value = ("null" if shown is None else str(shown)[:SHOWN] for shown in (stored, value))
            raise InputError(
                f"{folder / MANIFEST}: features were extracted with {setting} {stored}{source}, "
                f"but {OPTIONS[setting]} gives {value}; {remedy}"
            )


class FeatureWriter(AbstractContextManager["FeatureWriter"]):
    """Fills a store, continuing one of the same settings.

    A context manager: its end, however it comes, saves the manifest. Several processes may fill one folder: saving the
    manifest merges what others have added to it.
    """

    def __init__(self, folder: str | Path, settings: Settings) -> None:
        self.folder, self.dtype = Path(folder), DTYPES[settings["dtype"]]
        self._manifest: Manifest = {**settings, "layers": {}, "videos": {}}
        stored = _read_manifest(self.folder)
        if stored is not None and stored["videos"]:
            wanted = {setting: settings.get(setting) for setting in OPTIONS}
            _refuse_disagreement(self.folder, stored, wanted, f"delete {self.folder} or choose another --features.dir")
            self._manifest = stored
        self._unfinished: dict[str, SafetensorsWriter] = {}
        self._saved_at = time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)

    def __exit__(self, *_: object) -> None:
        for file in self._unfinished.values():
            file.drop()
        self.flush()

    def is_complete(self, video: str, frames: int, *, verify: bool = False) -> bool:
        """Whether the store has this video's features with this many frames (T): its file has the size and header.

        Args:
            verify: Its bytes must be those that were written, too, which takes reading all of them.
        """
        entry = self._manifest["videos"].get(video)
        path = _features_path(self.folder, video)
        if entry is None or entry["frames"] != frames or not path.is_file():
            return False
        try:
            with safe_open(path, "pt") as file:  # refuses a file whose size is not what its header says
                slices = {layer: file.get_slice(layer) for layer in file.keys()}  # noqa: SIM118
                stored = {layer: (x.get_dtype(), tuple(x.get_shape())) for layer, x in slices.items()}
        except (OSError, SafetensorError):
            return False
        name = DTYPE_NAMES[self.dtype]
        expected = {layer: (name, (frames, C, GRID, GRID)) for layer, C in self._manifest["layers"].items()}
        return stored == expected and (not verify or file_sha256(path) == entry["sha256"])

    def write(self, video: str, features: Mapping[str, Tensor], *, frames: int | None = None) -> None:
        """Store a video's features {layer: (C,T,7,7) or (1,C,T,7,7)}, any device and floating type.

        Args:
            frames: T, where these are only the next ones of them, from the first to the last: of what is not continued
                to the end, nothing stays.
        """
        stored = self._as_stored(video, features)
        if video not in self._unfinished:
            shapes = {layer: (frames or len(x), *x.shape[1:]) for layer, x in stored.items()}
            self._unfinished[video] = SafetensorsWriter(_features_path(self.folder, video), shapes, self.dtype)
        file = self._unfinished[video]
        if file.append(stored):
            del self._unfinished[video]
            self._manifest["videos"][video] = {"frames": file.total, "sha256": file_sha256(file.path)}
            if time.monotonic() - self._saved_at > FLUSH_SECONDS:
                self.flush()

    def _as_stored(self, video: str, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """{layer: (T,C,7,7)}, finite and of the widths that the store has."""
        stored = {}
        for layer, x in features.items():
            stored[layer] = x.reshape(x.shape[-4:]).transpose(0, 1).contiguous().to("cpu", self.dtype)
            if not torch.stack(stored[layer].aminmax()).isfinite().all():
                raise InputError(
                    f"{self.folder}: video {video}: {layer} is not finite as {self._manifest['dtype']}; "
                    "check --features.checkpoint, or use --features.dtype float32"
                )
        widths = {layer: x.shape[1] for layer, x in stored.items()}
        known = self._manifest["layers"] or widths
        if widths != known:
            raise InputError(f"{self.folder}: holds layers {known}, video {video} has {widths}; delete the folder")
        self._manifest["layers"] = widths
        return stored

    def flush(self) -> None:
        """Save the manifest, keeping the videos that other processes have added meanwhile."""
        lock = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the folder is this process's alone, among those of this machine
            others = _read_manifest(self.folder)
            if others is not None:
                self._manifest["videos"] = others["videos"] | self._manifest["videos"]
                self._manifest["layers"] = self._manifest["layers"] or others["layers"]
            with written_whole(self.folder / MANIFEST, durable=True) as temporary:
                temporary.write_text(json.dumps(self._manifest, indent=1), encoding="utf-8")
        finally:
            os.close(lock)
        self._saved_at = time.monotonic()


class FeatureStore:
    """Reads a store. Holds no open files, so loader workers may share it."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        manifest = _read_manifest(self.folder)
        if manifest is None:
            raise InputError(f"{self.folder / MANIFEST}: no such file; run extract_fineFEAT.py or set --features.dir")
        self.manifest = manifest
        self.layers = manifest["layers"]  # {layer: C}

    def frames(self, video: str) -> int:
        """Number of feature frames (T) of a video."""
        return self.manifest["videos"][video]["frames"]

    def check(self, *, stride: int, size: int, checkpoint_sha256: str | None, layers: Mapping[str, int]) -> None:
        """Raise where the features are not those of this configuration, naming the setting.

        Args:
            stride: Video frames between feature frames.
            size: Pixels of the crop that the Fine stream saw.
            checkpoint_sha256: Of the Fine checkpoint; None where it is not at hand.
            layers: Channels by level that the network expects.
        """
        known = {} if checkpoint_sha256 is None else {"checkpoint_sha256": checkpoint_sha256}
        remedy = "run extract_fineFEAT.py into another --features.dir, or correct the option"
        _refuse_disagreement(self.folder, self.manifest, {"stride": stride, "crop": size, **known}, remedy)
        if dict(layers) != self.layers:
            raise InputError(
                f"{self.folder / MANIFEST}: features have channels {self.layers}, but --model.variant "
                f"takes {dict(layers)}; {remedy}"
            )

    def missing(self, videos: Iterable[str]) -> list[str]:
        """The videos without features, in order."""
        return [v for v in videos if v not in self.manifest["videos"] or not _features_path(self.folder, v).is_file()]

    def require(self, frames: Mapping[str, int]) -> None:
        """Raise where a video of {id: T} lacks features, or has them for another number of frames."""
        missing = self.missing(frames)
        if missing:
            lacking = f"{len(missing)} of {len(frames)} videos lack features: {first_few(missing)}"
            raise InputError(f"{self.folder}: {lacking}; run extract_fineFEAT.py")
        for video, T in frames.items():
            if self.frames(video) != T:
                raise InputError(
                    f"{_features_path(self.folder, video)}: {self.frames(video)} frames of features where "
                    f"the video's JPEGs give {T}; run extract_fineFEAT.py on the present --data.frames"
                )

    def read(self, video: str, start: int, stop: int, layers: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Features of frames start..stop-1 (from 0, cut to what there is): {layer: (C,t,7,7)} in the stored dtype.

        Only the window is read. Memory is (t,C,7,7).
        """
        path = _features_path(self.folder, video)
        try:
            with safe_open(path, "pt") as file:
                names = self.layers if layers is None else layers
                return {layer: file.get_slice(layer)[start:stop].transpose(0, 1) for layer in names}
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path}: unreadable features ({error}); delete it and run extract_fineFEAT.py") from None
