"""Video files to frame folders, several at a time; the same call continues what was interrupted.

<root>/<id>/<id>-000001.jpg ...   the frames (`datasets.frames`)
<root>/<id>/prepare.json          the record: of which file, with which settings, how many frames
<root>/.<id>.partial/             a folder being written, which gets its name when whole; one that was left behind is
                                  removed at the next start
"""

import fcntl
import io
import json
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import av
import numpy as np
from PIL import Image
from pydantic import TypeAdapter

from common.errors import InputError
from common.files import naming, writable
from common.progress import progress
from common.text import first_few
from datasets.frames import SCAN_THREADS, SUFFIX, frame_path
from datasets.prepare.video import VideoFile

SUFFIXES = {
    ".3gp", ".asf", ".avi", ".f4v", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf",
    ".ogv", ".ts", ".vob", ".webm", ".wmv",
}  # fmt: skip
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

    @staticmethod
    def read(folder: Path) -> "Record":
        """That of a folder; InputError where it has none."""
        try:
            return _RECORD.validate_json((folder / RECORD).read_bytes())
        except (OSError, ValueError):
            raise InputError(
                f"{folder}: already there and not made by this command (no valid {RECORD}); "
                "remove it, or choose another --frames"
            ) from None


_RECORD = TypeAdapter(Record)


def count_files(folder: Path) -> int:
    """Frame files of a folder, whatever their numbers."""
    return sum(name.endswith(SUFFIX) for name in os.listdir(folder))


# --- which videos -----------------------------------------------------------------------------------------------------


def video_files(paths: Iterable[Path]) -> dict[str, Path]:
    """{id: file}, sorted: given files, and in given folders, at any depth, those with a video's suffix."""
    found: dict[str, Path] = {}
    spaced: list[str] = []
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; give --videos video files, or folders of them")
        below = sorted(path.rglob("*")) if path.is_dir() else []
        files = [file for file in below if file.suffix.lower() in SUFFIXES and file.name[0] != "." and file.is_file()]
        if path.is_dir() and not files:
            raise InputError(f"{path}: no video files in it (looked for {' '.join(sorted(SUFFIXES))})")
        for file in files or [path]:
            video = file.stem
            if video.startswith(".") or video.split() != [video]:
                spaced.append(str(file))
            elif found.setdefault(video, file) != file:
                raise InputError(f"{file}: {found[video]} has the same id; rename one of them")
    if spaced:
        raise InputError(f"{first_few(spaced)}: a video's name becomes its id; rename so that it has no spaces")
    return dict(sorted(found.items()))


def annotated_only(files: Mapping[str, Path], annotated: Sequence[str]) -> dict[str, Path]:
    """The files of annotated videos; says how many of each kind lack the other."""
    chosen = {video: files[video] for video in annotated if video in files}
    if not chosen:
        raise InputError(
            f"none of the {len(files)} video files is called as an annotated video (such as {annotated[0]})"
        )
    absent = [video for video in annotated if video not in files]
    print(f"{len(chosen)} annotated videos have a file, {len(files) - len(chosen)} files are not annotated")
    if absent:
        print(f"{len(absent)} annotated videos have no file: {first_few(absent)}")
    return chosen


def is_finished(source: Path, root: Path, settings: Settings, *, keep_damaged: bool) -> bool:
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


# --- their frames -----------------------------------------------------------------------------------------------------


def extract_frames(
    files: Mapping[str, Path], root: Path, settings: Settings, *, workers: int, keep_damaged: bool
) -> list[str]:
    """Make the folders that are not there yet, several at a time; gives a line for each video that failed.

    A video that fails does not keep the others from being made; anything else that goes wrong, such as a full disk or
    a signal, calls them off, and what was begun is removed. FFmpeg and the JPEG encoder work outside Python's lock:
    threads do.
    """
    written: list[Record] = []
    failed: list[str] = []
    with sole_writer(writable(root, "--frames")):
        with ThreadPoolExecutor(SCAN_THREADS) as pool:
            finished = partial(is_finished, root=root, settings=settings, keep_damaged=keep_damaged)
            there = list(pool.map(finished, files.values()))
        todo = [file for file, done in zip(files.values(), there, strict=True) if not done]
        print(f"{root}: {len(todo)} videos to prepare, {sum(there)} complete ({settings})")
        called_off = threading.Event()
        threads = max(1, workers // max(1, len(todo)))
        make = partial(make_folder, keep_damaged=keep_damaged, threads=threads, called_off=called_off)
        with ThreadPoolExecutor(workers) as pool:
            try:
                futures = {pool.submit(make, file, root, settings): file for file in todo}
                for future in progress(as_completed(futures), len(todo), "Preparing videos"):
                    try:
                        written.append(future.result())
                    except InputError as error:
                        failed.append(str(error))
                    except av.FFmpegError as error:
                        failed.append(f"{futures[future]}: {error}")
            finally:
                called_off.set()
                pool.shutdown(cancel_futures=True)
    frames = sum(record.frames for record in written)
    complete = f"; {sum(there)} were complete already" if any(there) else ""
    damaged = ", ".join(f"{record.source} ({record.problem})" for record in written if record.problem)
    kept = f"; damaged, kept as asked: {damaged}" if damaged else ""
    print(
        f"{root}: {len(written)} videos prepared: {frames} frames, as many as their timestamps ask for{complete}{kept}"
    )
    return failed


@contextmanager
def sole_writer(root: Path) -> Iterator[None]:
    """The root folder for this process alone; removes unfinished folders that an earlier one left, and says so."""
    handle = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process, however that ends
        except BlockingIOError:
            raise InputError(f"{root}: another process is preparing frames here; wait for it") from None
        left = [path for path in root.glob(f".*{PARTIAL}") if path.is_dir()]
        for path in left:
            shutil.rmtree(path)
        if left:
            print(f"{root}: removed {len(left)} unfinished folders")
        yield
    finally:
        os.close(handle)


def make_folder(
    source: Path, root: Path, settings: Settings, *, keep_damaged: bool, threads: int, called_off: threading.Event
) -> Record:
    """Write the frames of a video file to `<root>/<its stem>`, in place of what may be there under that name.

    Args:
        keep_damaged: Keep what can be decoded of a truncated or damaged file, which is an InputError otherwise: its
            frames would be taken for the whole video's, and labels put at wrong times.
        threads: Threads of the decoder.
        called_off: Looked at before every frame; once it is set, CancelledError, and nothing of the folder remains.
    """
    folder = root / source.stem
    unfinished = root / f".{source.stem}{PARTIAL}"
    replaced = root / f"..{source.stem}{PARTIAL}"  # no id begins with a dot
    unfinished.mkdir()
    try:
        video = VideoFile(source, size=settings.size, threads=threads)
        before, data = None, b""
        for number, pixels in enumerate(video.frames(fps=settings.fps), 1):
            if called_off.is_set():
                raise CancelledError
            if number > MOST_FRAMES:
                raise InputError(f"{source}: more than {MOST_FRAMES} frames; cut it, or choose a lower --fps")
            if pixels is not before:  # a frame that is repeated is encoded once
                before, data = pixels, _jpeg(pixels, settings.quality)
            path = unfinished / frame_path("", source.stem, number).name
            with naming(path):
                path.write_bytes(data)
        if video.problem and not keep_damaged:
            raise InputError(f"{source}: {video.problem}; get the file again, or --keep_damaged to use what there is")
        size = source.stat().st_size
        record = Record(source.name, size, settings, video.num_frames, video.duration, video.problem)
        (unfinished / RECORD).write_text(json.dumps(asdict(record), indent=1), encoding="utf-8")
        if os.path.lexists(folder):
            folder.rename(replaced)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)
    return record


def _jpeg(pixels: np.ndarray, quality: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return file.getvalue()
