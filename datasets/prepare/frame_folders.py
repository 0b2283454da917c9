"""Frame folders made of video files: one appears under its name only when whole, with a record of how it was made.

<root>/<id>/<id>-000001.jpg ...   the frames (`datasets.frames`)
<root>/<id>/prepare.json          the record: of which file, with which settings, how many frames
<root>/.<id>.partial/             a folder being written; one that was left behind is removed at the next start
"""

import fcntl
import io
import json
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from common.errors import InputError
from common.files import naming
from datasets.frames import SUFFIX, frame_path
from datasets.prepare.video import VideoFile

RECORD = "prepare.json"
PARTIAL = ".partial"
MOST_FRAMES = 999_999  # what six digits can number: 11 hours at 24 frames a second


@dataclass(frozen=True)
class Settings:
    """How frames are made: frames a second, pixels of the longer side (None: as the video), quality of the JPEG."""

    fps: float
    size: int | None
    quality: int

    def __str__(self) -> str:
        return f"{self.fps:g} fps, size {self.size or 'original'}, quality {self.quality}"


@dataclass(frozen=True)
class Record:
    """A finished folder: its source's name and bytes, its settings, its frames, and what was wrong with the source."""

    source: str
    bytes: int
    settings: Settings
    frames: int
    seconds: float
    problem: str | None

    @classmethod
    def read(cls, folder: Path) -> "Record":
        """That of a folder; InputError where it has none."""
        try:
            fields = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            return cls(**fields | {"settings": Settings(**fields["settings"])})
        except (OSError, ValueError, TypeError, KeyError):
            raise InputError(
                f"{folder}: already there and not made by this command (no valid {RECORD}); "
                "remove it, or choose another --frames"
            ) from None


def is_finished(source: Path, root: Path, settings: Settings, *, keep_damaged: bool = False) -> bool:
    """Whether a video's folder is there, whole, and made of this very file.

    One made with other settings is an InputError: a folder of both would be a dataset at two rates.
    """
    folder = root / source.stem
    if not os.path.lexists(folder):
        return False
    record = Record.read(folder)
    if record.settings != settings:
        raise InputError(
            f"{folder}: made with {record.settings}, asked for are {settings}; remove it, or choose another --frames"
        )
    same = (record.source, record.bytes) == (source.name, source.stat().st_size)
    return same and count_files(folder) == record.frames and (keep_damaged or record.problem is None)


def count_files(folder: Path) -> int:
    """Frame files of a folder, whatever their numbers."""
    return sum(name.endswith(SUFFIX) for name in os.listdir(folder))


def make_folder(
    source: Path,
    root: Path,
    settings: Settings,
    *,
    keep_damaged: bool = False,
    threads: int = 1,
    called_off: threading.Event,
) -> Record:
    """Write the frames of a video file to `<root>/<its stem>`, in place of what may be there under that name.

    Args:
        keep_damaged: Keep what can be decoded of a truncated or damaged file, which is an InputError otherwise: its
            frames would be taken for the whole video's, and labels put at wrong times.
        threads: Threads of the decoder.
        called_off: Looked at before every frame; once it is set, CancelledError, and nothing of the folder remains.
    """
    partial = root / f".{source.stem}{PARTIAL}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        record = _write_frames(source, partial, settings, threads, called_off)
        if record.problem and not keep_damaged:
            raise InputError(f"{source}: {record.problem}; get the file again, or --keep_damaged to use what there is")
        (partial / RECORD).write_text(json.dumps(asdict(record), indent=1), encoding="utf-8")
        _put_in_place(partial, root / source.stem)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return record


def _write_frames(source: Path, folder: Path, settings: Settings, threads: int, called_off: threading.Event) -> Record:
    """The frames alone, counted against the file's timestamps; a frame that is repeated is encoded once."""
    video = VideoFile(source, size=settings.size, threads=threads)
    before, data = None, b""
    for number, pixels in enumerate(video.frames(fps=settings.fps), 1):
        if called_off.is_set():
            raise CancelledError
        if number > MOST_FRAMES:
            raise InputError(f"{source}: more than {MOST_FRAMES} frames; cut it, or choose a lower --fps")
        if pixels is not before:
            before, data = pixels, _jpeg(pixels, settings.quality)
        path = folder / frame_path("", source.stem, number).name
        with naming(path):
            path.write_bytes(data)
    written = count_files(folder)
    if written != video.num_frames:
        raise InputError(f"{source}: {written} frames in {folder}, its timestamps ask for {video.num_frames}")
    return Record(source.name, source.stat().st_size, settings, written, video.duration, video.problem)


def _jpeg(pixels: np.ndarray, quality: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return file.getvalue()


def _put_in_place(partial: Path, folder: Path) -> None:
    """Rename, after what was there before; that is removed at the next start should this be interrupted."""
    if os.path.lexists(folder):
        old = folder.with_name(f".{folder.name}.old{PARTIAL}")
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        partial.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    else:
        partial.rename(folder)


@contextmanager
def sole_writer(root: Path) -> Iterator[int]:
    """The root folder for this process alone; gives the number of unfinished folders that were there, now removed."""
    root.mkdir(parents=True, exist_ok=True)
    handle = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process, however that ends
        except BlockingIOError:
            raise InputError(f"{root}: another process is preparing frames here; wait for it") from None
        left = [path for path in root.glob(f".*{PARTIAL}") if path.is_dir()]
        for path in left:
            shutil.rmtree(path)
        yield len(left)
    finally:
        os.close(handle)
