"""Extract video files to frame folders in parallel; repeating an interrupted call resumes it.

<root>/<id>/<id>-000001.jpg ...   the frames (`datasets.frames`)
<root>/<id>/prepare.json          the record: source file, settings and number of frames
<root>/.<id>.partial/             a folder being written, renamed when complete; leftovers are removed at the next start
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
MOST_FRAMES = 999_999  # six digits: 11 hours at 24 fps


@dataclass(frozen=True)
class Settings:
    """Extraction settings: frames per second, longer side in pixels (None: original) and JPEG quality."""

    fps: float
    size: int | None
    quality: int

    def __str__(self) -> str:
        return f"{self.fps:g} fps, size {self.size or 'original'}, quality {self.quality}"


@dataclass(frozen=True)
class Record:
    """Record of a finished folder: name and size of the source, settings, frames, and problems of the source."""

    source: str
    bytes: int
    settings: Settings
    frames: int
    seconds: float
    problem: str | None

    @staticmethod
    def read(folder: Path) -> "Record":
        """Read the record of a folder; InputError if there is no valid one."""
        try:
            return _RECORD.validate_json((folder / RECORD).read_bytes())
        except (OSError, ValueError):
            raise InputError(
                f"{folder}: exists but was not created by this command (no valid {RECORD}); "
                "remove it, or choose another --frames"
            ) from None


_RECORD = TypeAdapter(Record)


def count_files(folder: Path) -> int:
    """Count the frame files of a folder, ignoring their numbers."""
    return sum(name.endswith(SUFFIX) for name in os.listdir(folder))


# --- which videos -----------------------------------------------------------------------------------------------------


def video_files(paths: Iterable[Path]) -> dict[str, Path]:
    """Return {id: file}, sorted: the given files, and the video files in given folders at any depth."""
    found: dict[str, Path] = {}
    spaced: list[str] = []
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; set --videos to video files or folders of them")
        below = sorted(path.rglob("*")) if path.is_dir() else []
        files = [file for file in below if file.suffix.lower() in SUFFIXES and file.name[0] != "." and file.is_file()]
        if path.is_dir() and not files:
            raise InputError(f"{path}: contains no video files (looked for {' '.join(sorted(SUFFIXES))})")
        for file in files or [path]:
            video = file.stem
            if video.startswith(".") or video.split() != [video]:
                spaced.append(str(file))
            elif found.setdefault(video, file) != file:
                raise InputError(f"{file}: {found[video]} has the same id; rename one of them")
    if spaced:
        what = "video ids are file names and must not contain spaces"
        raise InputError(f"{first_few(spaced)}: {what}; rename the files")
    return dict(sorted(found.items()))


def annotated_only(files: Mapping[str, Path], annotated: Sequence[str]) -> dict[str, Path]:
    """Return the files of annotated videos; print how many files and annotations have no counterpart."""
    chosen = {video: files[video] for video in annotated if video in files}
    if not chosen:
        raise InputError(
            f"none of the {len(files)} video files is named after an annotated video (such as {annotated[0]})"
        )
    absent = [video for video in annotated if video not in files]
    print(f"{len(chosen)} annotated videos have a file; {len(files) - len(chosen)} files are not annotated")
    if absent:
        print(f"{len(absent)} annotated videos have no file: {first_few(absent)}")
    return chosen


def is_finished(source: Path, root: Path, settings: Settings, *, keep_damaged: bool) -> bool:
    """Return whether a video's folder exists, is complete and was extracted from this file.

    Other settings raise an InputError, so that frame rates are never mixed.
    """
    folder = root / source.stem
    if not os.path.lexists(folder):
        return False
    record = Record.read(folder)
    if record.settings != settings:
        raise InputError(
            f"{folder}: extracted with {record.settings}, but {settings} was requested; "
            "remove it, or choose another --frames"
        )
    same = (record.source, record.bytes) == (source.name, source.stat().st_size)
    return same and count_files(folder) == record.frames and (keep_damaged or record.problem is None)


# --- their frames -----------------------------------------------------------------------------------------------------


def extract_frames(
    files: Mapping[str, Path], root: Path, settings: Settings, *, workers: int, keep_damaged: bool
) -> list[str]:
    """Write the missing folders in parallel; return one line per failed video.

    A failed video does not stop the others. Any other error, such as a full disk or a signal, cancels them and removes
    unfinished folders. Threads suffice, because FFmpeg and the JPEG encoder release the GIL.
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
    complete = f"; {sum(there)} were already complete" if any(there) else ""
    damaged = ", ".join(f"{record.source} ({record.problem})" for record in written if record.problem)
    kept = f"; damaged, kept (--keep_damaged): {damaged}" if damaged else ""
    print(f"{root}: {len(written)} videos prepared: {frames} frames, matching their timestamps{complete}{kept}")
    return failed


@contextmanager
def sole_writer(root: Path) -> Iterator[None]:
    """Lock the root folder, and remove and report the unfinished folders of an earlier process."""
    handle = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released in any case when the process ends
        except BlockingIOError:
            raise InputError(f"{root}: another process is preparing frames here; wait until it has finished") from None
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
    """Write the frames of a video file to `<root>/<its stem>`, replacing an existing folder.

    Args:
        keep_damaged: Keep the decodable frames of a truncated or damaged file. Otherwise it is an InputError, since
            labels would be misplaced if its frames were taken for the whole video.
        threads: Number of decoder threads.
        called_off: Checked before every frame; if set, CancelledError is raised and the folder is removed.
    """
    folder = root / source.stem
    unfinished = root / f".{source.stem}{PARTIAL}"
    replaced = root / f"..{source.stem}{PARTIAL}"  # unique: no id begins with a dot
    unfinished.mkdir()
    try:
        video = VideoFile(source, size=settings.size, threads=threads)
        before, data = None, b""
        for number, pixels in enumerate(video.frames(fps=settings.fps), 1):
            if called_off.is_set():
                raise CancelledError
            if number > MOST_FRAMES:
                raise InputError(f"{source}: more than {MOST_FRAMES} frames; split the video or lower --fps")
            if pixels is not before:  # encode repeated frames once
                before, data = pixels, _jpeg(pixels, settings.quality)
            path = unfinished / frame_path("", source.stem, number).name
            with naming(path):
                path.write_bytes(data)
        if video.problem and not keep_damaged:
            remedy = "replace the file, or use --keep_damaged to keep the decodable frames"
            raise InputError(f"{source}: {video.problem}; {remedy}")
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
