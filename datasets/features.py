"""Store the Fine stream's features of every video: written once, read in windows.

The folder contains one `<video id>.safetensors` per video, with a tensor (T,C,7,7) per level. Time is the first
dimension, so a window of frames is contiguous. `manifest.json` records the network, stride and crop:

    {"checkpoint": path, "checkpoint_sha256": ..., "stride": 10, "crop": 224, "dtype": "float16",
     "layers": {"layer1": 24, ...}, "videos": {id: {"frames": T, "sha256": of the video's file}}}

and, for features extracted in windows, "window" and "overlap" in frames.

A file gets its final name only when complete. A video counts as extracted only if it is in the manifest and the header
and size of its file are correct. The checksums allow a full verification.
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

from common.errors import InputError
from common.files import written_whole
from common.text import first_few
from datasets.safetensors_writer import DTYPE_NAMES, SafetensorsWriter

MANIFEST = "manifest.json"
GRID = 7  # features are pooled to 7x7 positions
DTYPES = {"float16": torch.float16, "float32": torch.float32}
FLUSH_SECONDS = 5.0
SHOWN = 12  # digits of a checksum in messages
OPTIONS = {  # settings that must agree, and their options
    "checkpoint_sha256": "--features.checkpoint",
    "stride": "--data.stride",
    "crop": "--data.size",
    "dtype": "--features.dtype",
    "window": "--eval.window",
    "overlap": "--eval.overlap",
}


class Settings(TypedDict):
    """Settings of the extraction; `window` and `overlap` only if videos were split."""

    checkpoint: str
    checkpoint_sha256: str
    stride: int
    crop: int
    dtype: str
    window: NotRequired[int]
    overlap: NotRequired[int]


class VideoEntry(TypedDict):
    """Features of a video: number of frames (T) and SHA-256 of the file."""

    frames: int
    sha256: str


class Manifest(Settings):
    """Content of the manifest, as described above."""

    layers: dict[str, int]
    videos: dict[str, VideoEntry]


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _features_path(folder: Path, video: str) -> Path:
    return folder / f"{video}.safetensors"


def _read_manifest(folder: Path) -> Manifest | None:
    """Read the manifest; None if it does not exist."""
    path = folder / MANIFEST
    try:
        return TypeAdapter(Manifest).validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        first = error.errors()[0]
        reason = " ".join(map(str, [*first["loc"], first["msg"]]))
        raise InputError(f"{path}: not a manifest ({reason}); delete it and run extract_fineFEAT.py again") from None


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
                f"but {OPTIONS[setting]} is {value}; {remedy}"
            )


class FeatureWriter(AbstractContextManager["FeatureWriter"]):
    """Write a store, or continue one with the same settings.

    A context manager that saves the manifest on exit, also after an error. Several processes may write to one folder:
    saving the manifest merges their entries.
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
        """Return whether the store contains this video with this number of frames (T), by file size and header.

        Args:
            verify: Also compare the checksum, which reads the whole file.
        """
        entry = self._manifest["videos"].get(video)
        path = _features_path(self.folder, video)
        if entry is None or entry["frames"] != frames or not path.is_file():
            return False
        try:
            with safe_open(path, "pt") as file:  # raises if the size does not match the header
                slices = {layer: file.get_slice(layer) for layer in file.keys()}  # noqa: SIM118
                stored = {layer: (x.get_dtype(), tuple(x.get_shape())) for layer, x in slices.items()}
        except (OSError, SafetensorError):
            return False
        name = DTYPE_NAMES[self.dtype]
        expected = {layer: (name, (frames, C, GRID, GRID)) for layer, C in self._manifest["layers"].items()}
        return stored == expected and (not verify or file_sha256(path) == entry["sha256"])

    def write(self, video: str, features: Mapping[str, Tensor], *, frames: int | None = None) -> None:
        """Store features {layer: (C,T,7,7) or (1,C,T,7,7)} of a video, on any device and in any floating-point dtype.

        Args:
            frames: Total T, if `features` are only the next frames in order. Incomplete videos are discarded.
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
        """Convert to {layer: (T,C,7,7)}, and check for finite values and the store's channels."""
        stored = {}
        for layer, x in features.items():
            stored[layer] = x.reshape(x.shape[-4:]).transpose(0, 1).contiguous().to("cpu", self.dtype)
            if not torch.stack(stored[layer].aminmax()).isfinite().all():
                raise InputError(
                    f"{self.folder}: video {video}: {layer} has non-finite values in {self._manifest['dtype']}; "
                    "check --features.checkpoint, or use --features.dtype float32"
                )
        widths = {layer: x.shape[1] for layer, x in stored.items()}
        known = self._manifest["layers"] or widths
        if widths != known:
            what = f"contains layers {known}, but video {video} has {widths}"
            raise InputError(f"{self.folder}: {what}; delete the folder and extract again")
        self._manifest["layers"] = widths
        return stored

    def flush(self) -> None:
        """Save the manifest, merging the videos added by other processes."""
        lock = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)  # exclusive among the processes of this machine
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
    """Read a store. No files are kept open, so loader workers may share it."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        manifest = _read_manifest(self.folder)
        if manifest is None:
            raise InputError(f"{self.folder / MANIFEST}: no such file; run extract_fineFEAT.py or set --features.dir")
        self.manifest = manifest
        self.layers = manifest["layers"]  # {layer: C}

    def frames(self, video: str) -> int:
        """Return the number of feature frames (T) of a video."""
        return self.manifest["videos"][video]["frames"]

    def check(self, *, stride: int, size: int, checkpoint_sha256: str | None, layers: Mapping[str, int]) -> None:
        """Raise if the features do not match the configuration, naming the setting.

        Args:
            stride: Video frames between feature frames.
            size: Side of the Fine stream's input in pixels.
            checkpoint_sha256: SHA-256 of the Fine checkpoint; None if unavailable.
            layers: Channels per level expected by the network.
        """
        known = {} if checkpoint_sha256 is None else {"checkpoint_sha256": checkpoint_sha256}
        remedy = "run extract_fineFEAT.py with another --features.dir, or correct the option"
        _refuse_disagreement(self.folder, self.manifest, {"stride": stride, "crop": size, **known}, remedy)
        if dict(layers) != self.layers:
            raise InputError(
                f"{self.folder / MANIFEST}: features have channels {self.layers}, but --model.variant "
                f"expects {dict(layers)}; {remedy}"
            )

    def missing(self, videos: Iterable[str]) -> list[str]:
        """Return the videos without features, in order."""
        return [v for v in videos if v not in self.manifest["videos"] or not _features_path(self.folder, v).is_file()]

    def require(self, frames: Mapping[str, int]) -> None:
        """Raise if a video of {id: T} has no features, or a different number of them."""
        missing = self.missing(frames)
        if missing:
            lacking = f"{len(missing)} of {len(frames)} videos lack features: {first_few(missing)}"
            raise InputError(f"{self.folder}: {lacking}; run extract_fineFEAT.py")
        for video, T in frames.items():
            if self.frames(video) != T:
                raise InputError(
                    f"{_features_path(self.folder, video)}: {self.frames(video)} feature frames, but the video's JPEG "
                    f"files give {T}; run extract_fineFEAT.py again with the current --data.frames"
                )

    def read(self, video: str, start: int, stop: int, layers: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Read features of frames start..stop-1 (from 0, clipped to the video): {layer: (C,t,7,7)} in the stored dtype.

        Only the window is read. The memory layout is (t,C,7,7).
        """
        path = _features_path(self.folder, video)
        try:
            with safe_open(path, "pt") as file:
                names = self.layers if layers is None else layers
                return {layer: file.get_slice(layer)[start:stop].transpose(0, 1) for layer in names}
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path}: unreadable features ({error}); delete it and run extract_fineFEAT.py") from None
