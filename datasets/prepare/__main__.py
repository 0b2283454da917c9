"""From what datasets distribute to what the stages read: video files to frame folders, official annotations to JSON.

    python -m datasets.prepare charades --videos Charades_v1_480 --frames data/Charades_v1_rgb
    python -m datasets.prepare charades --annotations Charades --json data/charades.json
    python -m datasets.prepare multithumos --videos validation test --frames data/multithumos_rgb \\
        --annotations multithumos --json data/multithumos.json
    python -m datasets.prepare videos --videos my_videos --frames data/own_rgb --json data/own.json

`--videos` with `--frames` extracts frames; the same command continues what was interrupted, and adds new own videos to
`--json`. `--annotations` with `--json` converts; of a dataset's videos only annotated ones are extracted when both are
given. `datasets.video` says which frames a video gives, `datasets.frame_folders` how they are written.
"""

import argparse
import math
import os
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from common.arguments import Parser
from common.errors import InputError, one_line
from common.files import writable, write_text
from common.progress import progress
from common.signals import Stopped, requested, stop_requests
from datasets import charades, multithumos
from datasets.annotations import Options, Video, load_annotations, read_table
from datasets.prepare import convert
from datasets.prepare.extraction import annotated_only, extract, find_videos, some
from datasets.prepare.frame_folders import Cancelled, Record, Settings, count_files
from datasets.prepare.video import FPS, SIZE

QUALITY = 85
SMALLEST = 32  # pixels: below, there is nothing to see
KINDS = ("charades", "multithumos", "videos")
OFFICIAL = Options(annotations="--annotations", num_classes="", class_names="")
OWN = Options(annotations="--json")


# --- annotations ------------------------------------------------------------------------------------------------------


class CharadesAnnotations:
    """Charades: durations and classes are in the official files."""

    def __init__(self, path: Path) -> None:
        self.videos = list(load_annotations(path, num_classes=charades.NUM_CLASSES, options=OFFICIAL).videos)
        self.ids = [video.id for video in self.videos]

    def write(self, json: Path, args: argparse.Namespace) -> None:
        convert.write_json(json, self.videos)
        print(f"{json}: {_summary(self.videos)}")


class MultithumosAnnotations:
    """MultiTHUMOS, of its text files or the community's JSON; what is written counts classes from 0."""

    def __init__(self, path: Path) -> None:
        self.names: list[str] | None = None
        self.videos: list[Video] | None = None
        if path.is_dir():
            self.intervals, self.names = convert.read_multithumos(path)
            self.ids = list(self.intervals)
        else:
            classes = {"num_classes": multithumos.NUM_CLASSES, "first_class": multithumos.FIRST_CLASS}
            self.videos = list(load_annotations(path, **classes, options=OFFICIAL).videos)
            self.ids = [video.id for video in self.videos]

    def write(self, json: Path, args: argparse.Namespace) -> None:
        videos = self.videos
        if videos is None:
            videos, unknown = convert.multithumos_videos(
                self.intervals, partial(frames_duration, args.frames, args.fps)
            )
            if unknown and not videos:
                raise InputError(f"{args.frames}: no frames of any annotated video, and only they tell its duration")
            if unknown:
                print(f"{len(unknown)} annotated videos left out, without frames: {some(unknown)}")
        convert.write_json(json, videos, first_class=0)
        print(f"{json}: {_summary(videos)}")
        if self.names:
            list_of_names = json.with_name(f"{json.stem}_classes.txt")
            write_text(list_of_names, "".join(f"{name}\n" for name in self.names))
            print(f"{list_of_names}: {len(self.names)} class names, for --data.class_names")


def frames_duration(root: Path, fps: float, video: str) -> float | None:
    """Seconds that a video's frames last, at the rate they were made with here, else at `fps`; None without any."""
    folder = root / video
    n = count_files(folder) if folder.is_dir() else 0
    try:
        rate = Record.read(folder).settings.fps
    except InputError:
        rate = fps
    return n / rate if n else None


def write_template(json: Path, root: Path, ids: Iterable[str], *, complete: bool) -> None:
    """The JSON of own videos, with their durations and nothing else known; one that is there keeps what is in it."""
    there = read_table(json, OWN) if json.exists() else {}
    new = [video for video in ids if video not in there]
    if not complete:
        print(f"{json}: {'nothing added' if there else 'not written'} before all videos are prepared")
    elif new:
        records = {video: Record.read(root / video) for video in new}
        videos = [Video(video, "training", round(record.seconds, 3), ()) for video, record in records.items()]
        convert.add_json(json, videos)
        what = f"{len(new)} videos added to {len(there)}: {some(new)}" if there else f"{len(new)} videos"
        print(f"{json}: {what}, with their durations; fill in their actions, and which are for testing")
    else:
        print(f"{json}: has all videos already, left as it is")


def _summary(videos: list[Video]) -> str:
    training = sum(video.subset == "training" for video in videos)
    intervals = sum(len(video.actions) for video in videos)
    return f"{training} training, {len(videos) - training} test videos, {intervals} intervals, classes from 0"


ANNOTATIONS = {"charades": CharadesAnnotations, "multithumos": MultithumosAnnotations}


# --- command ----------------------------------------------------------------------------------------------------------


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line; a wrong one ends with one line and status 2."""
    parser = Parser(prog="python -m datasets.prepare", description="Prepare a dataset.")
    parser.add_argument("kind", choices=KINDS, help="which dataset; videos: own ones")
    parser.add_argument("--videos", type=Path, nargs="+", metavar="PATH", help="video files, or folders of them")
    parser.add_argument("--frames", type=Path, metavar="DIR", help="where frame folders are, or will be")
    parser.add_argument("--annotations", type=Path, metavar="PATH", help="official annotations: folder, or JSON file")
    parser.add_argument("--json", type=Path, metavar="FILE", help="annotations to write, for --data.annotations")
    parser.add_argument("--fps", type=float, default=FPS, metavar="N", help=f"frames a second (default: {FPS:g})")
    parser.add_argument("--size", type=int, default=SIZE, metavar="PIXELS",
                        help=f"longer side of a frame (default: {SIZE}; 0: as the video; never enlarged)")  # fmt: skip
    parser.add_argument("--quality", type=int, default=QUALITY, metavar="Q",
                        help=f"of the JPEG files, 1 to 95 (default: {QUALITY})")  # fmt: skip
    parser.add_argument("--workers", type=int, default=_processors(), metavar="N",
                        help="videos at a time (default: processors)")  # fmt: skip
    parser.add_argument("--keep_damaged", action="store_true",
                        help="keep what can be decoded of a truncated or damaged video")  # fmt: skip
    args = parser.parse_args(argv)
    if reason := wrong(args):
        parser.exit(2, f"datasets.prepare: error: {reason}\n")
    return args


def wrong(args: argparse.Namespace) -> str | None:
    """What is wrong with the options, None if nothing."""
    if not (math.isfinite(args.fps) and 0.01 <= args.fps <= 1000):
        return f"--fps {args.fps:g}: from 0.01 to 1000"
    if args.size != 0 and args.size < SMALLEST:
        return f"--size {args.size}: at least {SMALLEST} pixels, or 0 for the video's own"
    if not 1 <= args.quality <= 95:
        return f"--quality {args.quality}: 1 to 95"
    if args.workers < 1:
        return f"--workers {args.workers}: at least 1"
    if args.videos and not args.frames:
        return "--videos needs --frames, the folder to write to"
    if args.kind == "videos":
        if args.annotations:
            return "--annotations: own videos have none that is official; give --json alone for a file to fill in"
        return None if args.videos else "videos: give --videos and --frames"
    if bool(args.json) and not args.annotations:
        return "--json needs --annotations, the official ones"
    if not args.videos and not args.json:
        return f"{args.kind}: nothing to do; give --videos and --frames, or --annotations and --json, or all four"
    return None


def _processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_target(args: argparse.Namespace) -> None:
    """Raise, before hours of work, where the JSON could not be written, or would replace what it is made of."""
    if args.json is None:
        return
    if os.path.exists(args.json) and not os.path.isfile(args.json):
        kind = "a folder" if os.path.isdir(args.json) else "not a plain file"
        raise InputError(f"{args.json}: {kind}; give --json a file")
    if args.kind == "videos" and os.path.exists(args.json):
        read_table(args.json, OWN)
    if args.annotations and os.path.exists(args.json) and args.json.samefile(args.annotations):
        raise InputError(f"{args.json}: --json would replace --annotations; choose another file")


def prepare(args: argparse.Namespace) -> list[str]:
    """Everything that the command line asks for; gives a line for each video that failed."""
    check_target(args)
    official = ANNOTATIONS[args.kind](args.annotations) if args.annotations else None
    if isinstance(official, MultithumosAnnotations) and args.json and official.videos is None and not args.frames:
        raise InputError(f"{args.annotations}: says no durations; --frames, the videos' frames, does")
    failed, files = [], find_videos(args.videos or ())
    if args.videos and official:
        files = annotated_only(files, official.ids)
    if args.json:
        writable(args.json.parent, "--json")
    if args.videos:
        writable(args.frames, "--frames")
        settings = Settings(args.fps, args.size or None, args.quality)
        options = {"workers": args.workers, "keep_damaged": args.keep_damaged}
        outcome = extract(files, args.frames, settings, **options, progress=progress, stopped=requested)
        print(f"{args.frames}: {outcome.report()}")
        failed = outcome.failed
    if args.json and official:
        official.write(args.json, args)
    elif args.json:
        write_template(args.json, args.frames, files, complete=not failed)
    return failed


def main(argv: list[str] | None = None) -> int:
    """Prepare; 1 with a line on stderr for each video that failed, or with one line for another mistake."""
    args = parse(argv)
    try:
        with stop_requests():
            try:
                failed = prepare(args)
            except Cancelled:
                raise Stopped(requested()) from None
    except Stopped as stopped:
        print(f"datasets.prepare: {stopped}", file=sys.stderr)
        return stopped.status
    except (InputError, OSError) as error:
        print(f"datasets.prepare: error: {one_line(error)}", file=sys.stderr)
        return 1
    for line in failed:
        print(f"datasets.prepare: error: {line}", file=sys.stderr)
    if failed:
        print(
            f"datasets.prepare: {len(failed)} videos have no frames; the same command tries them again", file=sys.stderr
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
