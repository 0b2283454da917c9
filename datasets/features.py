"""The feature store: the Fine stream's outputs for every video, written once and read a window at a time.

A folder holds `<video id>.safetensors`, one tensor (T,C,7,7) a level, time outermost so that a window of frames is one
contiguous piece of the file; and `manifest.json`, which says of what network, stride and crop they are:

    {"checkpoint": path, "checkpoint_sha256": ..., "stride": 10, "crop": 224, "dtype": "float16",
     "layers": {"layer1": 24, ...}, "videos": {id: {"frames": T, "sha256": of the video's file}}}

and, of features extracted in windows, their "window" and "overlap" in frames.

A file stands under its final name only when it is whole. A video counts as extracted only when the manifest has it.
"""

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from common.errors import InputError
from common.files import written_whole
from datasets.growing import GrowingFile

MANIFEST = "manifest.json"
GRID = 7  # features are averaged adaptively to 7x7 positions
DTYPES = {"float16": torch.float16, "float32": torch.float32}
FLUSH_SECONDS = 5.0
SHOWN = 12  # of a checksum's 64 digits, in messages
SETTINGS = {  # what two stores must agree on, and the option that sets it
    "checkpoint_sha256": "--features.checkpoint",
    "stride": "--data.stride",
    "crop": "--data.size",
    "dtype": "--features.dtype",
}
WINDOWS = {"window": "--eval.window", "overlap": "--eval.overlap"}  # as SETTINGS; absent where videos were taken whole


def file_sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file that is seen whole or not at all, also after a power cut."""
    with written_whole(path) as temporary, temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _features_path(folder: Path, video: str) -> Path:
    return folder / f"{video}.safetensors"


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest, or None where there is none yet."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a manifest ({error}); delete the folder and extract again") from None
    absent = {*SETTINGS, "checkpoint", "layers", "videos"} - set(manifest if isinstance(manifest, dict) else ())
    if absent:
        raise InputError(f"{path}: lacks {', '.join(sorted(absent))}; delete the folder and extract again")
    return manifest


def _refuse_disagreement(folder: Path, manifest: Mapping[str, Any], wanted: Mapping[str, Any], remedy: str) -> None:
    for setting, value in wanted.items():
        stored = manifest.get(setting)
        if stored != value:
            source = f" ({manifest['checkpoint']})" if setting == "checkpoint_sha256" else ""
            stored, value = ("null" if shown is None else str(shown)[:SHOWN] for shown in (stored, value))
            raise InputError(
                f"{folder / MANIFEST}: features were extracted with {setting} {stored}{source}, "
                f"but {(SETTINGS | WINDOWS)[setting]} gives {value}; {remedy}"
            )


class FeatureWriter:
    """Fills a store, continuing one of the same settings.

    A context manager: its end, however it comes, saves the manifest. Several processes may fill one folder: saving the
    manifest merges what others have added to it.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        checkpoint: str | Path,
        checkpoint_sha256: str,
        stride: int,
        size: int,
        dtype: str = "float16",
        window: int | None = None,
        overlap: int = 0,
    ):
        self.folder = Path(folder)
        self.dtype = DTYPES[dtype]
        settings = {"checkpoint_sha256": checkpoint_sha256, "stride": stride, "crop": size, "dtype": dtype}
        windows = {} if window is None else {"window": window, "overlap": overlap}
        manifest = _read_manifest(self.folder)
        if manifest is None or not manifest["videos"]:
            manifest = {"checkpoint": str(checkpoint), **settings, **windows, "layers": {}, "videos": {}}
        wanted = settings | dict.fromkeys(WINDOWS) | windows
        _refuse_disagreement(self.folder, manifest, wanted, f"delete {self.folder} or choose another --features.dir")
        self._manifest = manifest
        self._growing: dict[str, GrowingFile] = {}
        self._saved_at = time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> "FeatureWriter":
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._growing.values():
            file.drop()
        self.flush()

    def is_complete(self, video: str, frames: int) -> bool:
        """Whether the store has this video's features, whole, with this many frames (T)."""
        entry = self._manifest["videos"].get(video)
        path = _features_path(self.folder, video)
        if entry is None or entry["frames"] != frames or not path.is_file():
            return False
        if file_sha256(path) != entry["sha256"]:
            return False
        with safe_open(path, "pt") as file:
            shapes = {layer: tuple(file.get_slice(layer).get_shape()) for layer in file.keys()}  # noqa: SIM118
        return shapes == {layer: (frames, C, GRID, GRID) for layer, C in self._manifest["layers"].items()}

    def write(self, video: str, features: Mapping[str, Tensor]) -> None:
        """Store a video's features {layer: (C,T,7,7) or (1,C,T,7,7)}, any device and floating type."""
        stored = self._all_stored(video, features)
        (frames,) = {len(x) for x in stored.values()}
        data = save(stored)
        write_atomically(_features_path(self.folder, video), data)
        self._enter(video, frames, hashlib.sha256(data).hexdigest())

    def append(self, video: str, features: Mapping[str, Tensor], *, frames: int) -> None:
        """Store the next frames of a video, from the first to the last of `frames`; the file is as `write` makes it.

        Of what is not continued to the end, nothing stays.
        """
        stored = self._all_stored(video, features)
        if video not in self._growing:
            shapes = {layer: (frames, *x.shape[1:]) for layer, x in stored.items()}
            self._growing[video] = GrowingFile(_features_path(self.folder, video), shapes, self.dtype)
        file = self._growing[video]
        file.append(stored)
        if file.complete:
            file.finish()
            del self._growing[video]
            self._enter(video, frames, file_sha256(file.path))

    def _enter(self, video: str, frames: int, sha256: str) -> None:
        """The video in the manifest, which is saved every few seconds."""
        self._manifest["videos"][video] = {"frames": frames, "sha256": sha256}
        if time.monotonic() - self._saved_at > FLUSH_SECONDS:
            self.flush()

    def _all_stored(self, video: str, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As they are stored: {layer: (T,C,7,7)}, of the widths that the store has."""
        stored = {layer: self._stored(video, layer, x) for layer, x in features.items()}
        widths = {layer: x.shape[1] for layer, x in stored.items()}
        known = self._manifest["layers"] or widths
        if widths != known:
            raise InputError(f"{self.folder}: holds layers {known}, video {video} has {widths}; delete the folder")
        self._manifest["layers"] = widths
        return stored

    def _stored(self, video: str, layer: str, x: Tensor) -> Tensor:
        x = x.reshape(x.shape[-4:]).transpose(0, 1).contiguous().to("cpu", self.dtype)  # (T,C,7,7)
        if not torch.stack(x.aminmax()).isfinite().all():
            raise InputError(
                f"{self.folder}: video {video}: {layer} is not finite as {str(self.dtype).removeprefix('torch.')}; "
                "check --features.checkpoint, or use --features.dtype float32"
            )
        return x

    def flush(self) -> None:
        """Save the manifest, keeping the videos that other processes have added meanwhile."""
        with _locked(self.folder):
            others = _read_manifest(self.folder)
            if others is not None:
                self._manifest["videos"] = others["videos"] | self._manifest["videos"]
                self._manifest["layers"] = self._manifest["layers"] or others["layers"]
            write_atomically(self.folder / MANIFEST, json.dumps(self._manifest, indent=1).encode())
        self._saved_at = time.monotonic()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Exclusive use of a folder among processes of this machine."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class FeatureStore:
    """Reads a store. Holds no open files, so loader workers may share it."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        manifest = _read_manifest(self.folder)
        if manifest is None:
            raise InputError(f"{self.folder / MANIFEST}: no such file; run extract_fineFEAT.py or set --features.dir")
        self.manifest = manifest

    @property
    def layers(self) -> dict[str, int]:
        """Channels by level, {layer: C}."""
        return self.manifest["layers"]

    def frames(self, video: str) -> int:
        """Number of feature frames (T) of a video."""
        return self.manifest["videos"][video]["frames"]

    def check(
        self, *, stride: int, size: int, checkpoint_sha256: str | None = None, layers: Mapping[str, int] | None = None
    ) -> None:
        """Raise where the features are not those of this configuration, naming the setting.

        Args:
            stride: Video frames between feature frames.
            size: Pixels of the crop that the Fine stream saw.
            checkpoint_sha256: Of the Fine checkpoint; None where it is not at hand.
            layers: Channels by level that the network expects; None to accept any.
        """
        wanted = {"stride": stride, "crop": size}
        if checkpoint_sha256 is not None:
            wanted["checkpoint_sha256"] = checkpoint_sha256
        remedy = "run extract_fineFEAT.py into another --features.dir, or correct the option"
        _refuse_disagreement(self.folder, self.manifest, wanted, remedy)
        if layers is not None and dict(layers) != self.layers:
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
            shown = ", ".join(missing[:10]) + (f" and {len(missing) - 10} more" if len(missing) > 10 else "")
            raise InputError(
                f"{self.folder}: {len(missing)} of {len(frames)} videos lack features: {shown}; run extract_fineFEAT.py"
            )
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
