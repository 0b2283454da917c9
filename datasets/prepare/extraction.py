"""Many video files to frame folders: finding them, making several at a time, continuing what was interrupted."""

import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path

import av

from common.errors import InputError
from common.files import writable
from common.progress import progress
from common.text import first_few
from datasets.frames import SCAN_THREADS
from datasets.prepare.frame_folders import Record, Settings, is_finished, make_folder, sole_writer

SUFFIXES = {
    ".3gp", ".asf", ".avi", ".f4v", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf",
    ".ogv", ".ts", ".vob", ".webm", ".wmv",
}  # fmt: skip


def video_files(paths: Iterable[Path]) -> dict[str, Path]:
    """{id: file}, sorted: given files, and in given folders, at any depth, those with a video's suffix."""
    found: dict[str, Path] = {}
    spaced: list[str] = []
    for path in paths:
        if not path.exists():
            raise InputError(
                f"{path}: no such file or folder; give --videos the video files or the folders they are in"
            )
        files = _files_below(path) if path.is_dir() else [path]
        if not files:
            raise InputError(f"{path}: no video files in it (looked for {' '.join(sorted(SUFFIXES))})")
        for file in files:
            video = file.stem
            if video.startswith(".") or video.split() != [video]:
                spaced.append(str(file))
            elif found.setdefault(video, file) != file:
                raise InputError(f"{file}: {found[video]} has the same id; rename one of them")
    if spaced:
        raise InputError(f"{first_few(spaced)}: a video's name becomes its id; rename so that it has no spaces")
    return dict(sorted(found.items()))


def _files_below(folder: Path) -> list[Path]:
    files = folder.rglob("*")
    return sorted(file for file in files if file.suffix.lower() in SUFFIXES and file.name[0] != "." and file.is_file())


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
    with sole_writer(writable(root, "--frames")) as removed:
        if removed:
            print(f"{root}: removed {removed} unfinished folders")
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
    print(f"{root}: {_outcome(written, sum(there))}")
    return failed


def _outcome(written: Sequence[Record], there: int) -> str:
    """One line for the console."""
    frames = sum(record.frames for record in written)
    line = f"{len(written)} videos prepared: {frames} frames, as many as their timestamps ask for"
    if there:
        line += f"; {there} were complete already"
    damaged = [f"{record.source} ({record.problem})" for record in written if record.problem]
    return line + (f"; damaged, kept as asked: {', '.join(damaged)}" if damaged else "")
