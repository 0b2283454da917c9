"""Many video files to frame folders: finding them, making several at a time, continuing what was interrupted."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import av

from common.errors import InputError
from datasets.frames import SCAN_THREADS
from datasets.prepare.frame_folders import Record, Settings, is_finished, make_folder, sole_writer

SUFFIXES = {
    ".3gp", ".asf", ".avi", ".f4v", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf",
    ".ogv", ".ts", ".vob", ".webm", ".wmv",
}  # fmt: skip
NAMED = 5  # videos that a line names before it says how many more there are


def find_videos(paths: Iterable[Path]) -> dict[str, Path]:
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
        raise InputError(f"{some(spaced)}: a video's name becomes its id; rename so that it has no spaces")
    return dict(sorted(found.items()))


def _files_below(folder: Path) -> list[Path]:
    files = folder.rglob("*")
    return sorted(file for file in files if file.suffix.lower() in SUFFIXES and file.name[0] != "." and file.is_file())


def annotated_only(files: dict[str, Path], annotated: list[str]) -> dict[str, Path]:
    """The files of annotated videos; says how many of each kind lack the other."""
    chosen = {video: files[video] for video in annotated if video in files}
    if not chosen:
        raise InputError(
            f"none of the {len(files)} video files is called as an annotated video (such as {annotated[0]})"
        )
    absent = [video for video in annotated if video not in files]
    print(f"{len(chosen)} annotated videos have a file, {len(files) - len(chosen)} files are not annotated")
    if absent:
        print(f"{len(absent)} annotated videos have no file: {some(absent)}")
    return chosen


def some(names: list[str]) -> str:
    """The first few names."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


@dataclass
class Outcome:
    """What became of the videos."""

    written: list[Record] = field(default_factory=list)
    there: int = 0
    failed: list[str] = field(default_factory=list)  # a line for each

    def add(self, file: Path, future: Future) -> None:
        """Note what became of a video; raises what concerns them all, such as a full disk."""
        try:
            record = future.result()
        except InputError as error:
            self.failed.append(str(error))
        except av.FFmpegError as error:
            self.failed.append(f"{file}: {error}")
        else:
            self.written.append(record)

    def report(self) -> str:
        """One line for the console."""
        frames = sum(record.frames for record in self.written)
        line = f"{len(self.written)} videos prepared: {frames} frames, as many as their timestamps ask for"
        if self.there:
            line += f"; {self.there} were complete already"
        damaged = [f"{record.source} ({record.problem})" for record in self.written if record.problem]
        if damaged:
            line += f"; damaged, kept as asked: {', '.join(damaged)}"
        return line


def extract(
    files: dict[str, Path],
    root: Path,
    settings: Settings,
    *,
    workers: int,
    keep_damaged: bool,
    progress: Callable[[Iterable[Future], int, str], Iterable[Future]],
    stopped: Callable[[], object],
) -> Outcome:
    """Make the folders that are not there yet, several at a time.

    A video that fails does not keep the others from being made; anything else that goes wrong calls them off, and what
    was begun is removed. FFmpeg and the JPEG encoder work outside Python's lock: threads do.

    Args:
        progress: Shows the progress of items, of a number, under a title (`engine.log.progress`).
        stopped: Asked before every frame whether to stop; then Cancelled is raised.
    """
    with sole_writer(root) as removed:
        if removed:
            print(f"{root}: removed {removed} unfinished folders")
        todo = _unfinished(files, root, settings, keep_damaged)
        print(f"{root}: {len(todo)} videos to prepare, {len(files) - len(todo)} complete ({settings})")
        outcome, leave = Outcome(there=len(files) - len(todo)), threading.Event()
        options = {"keep_damaged": keep_damaged, "cancelled": lambda: leave.is_set() or stopped()}
        make = partial(make_folder, root=root, settings=settings, **options)
        with ThreadPoolExecutor(workers) as pool:
            try:
                threads = max(1, workers // max(1, len(todo)))
                futures = {pool.submit(make, file, threads=threads): file for file in todo}
                for future in progress(as_completed(futures), len(todo), "Preparing videos"):
                    outcome.add(futures[future], future)
            finally:
                leave.set()
                pool.shutdown(cancel_futures=True)
    return outcome


def _unfinished(files: dict[str, Path], root: Path, settings: Settings, keep_damaged: bool) -> list[Path]:
    finished = partial(is_finished, root=root, settings=settings, keep_damaged=keep_damaged)
    with ThreadPoolExecutor(SCAN_THREADS) as pool:
        there = list(pool.map(finished, files.values()))
    return [file for file, done in zip(files.values(), there, strict=True) if not done]
