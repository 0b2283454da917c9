"""Convert video files to frame folders, and official annotations to JSON.

    python -m datasets.prepare charades --videos Charades_v1_480 --frames data/Charades_v1_rgb
    python -m datasets.prepare charades --annotations Charades --json data/charades.json
    python -m datasets.prepare multithumos --videos validation test --frames data/multithumos_rgb \\
        --annotations multithumos --json data/multithumos.json
    python -m datasets.prepare videos --videos my_videos --frames data/own_rgb --json data/own.json

`--videos` with `--frames` extracts frames. Run the same command to resume, or to add new videos to your own `--json`.
`--annotations` with `--json` converts annotations. If both are given, only annotated videos are extracted. `video`
defines which frames are extracted, `extraction` how they are written.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from math import isnan
from pathlib import Path

from jsonargparse.typing import restricted_number_type

from common.arguments import COUNT, Parser, exit_status, typed
from common.errors import InputError, options_called
from common.files import writable, write_text
from common.signals import stop_at_once
from common.text import first_few
from datasets.annotations import Annotations, Video, read_table
from datasets.kinds import KINDS
from datasets.prepare import convert
from datasets.prepare.extraction import Record, Settings, annotated_only, count_files, extract_frames, video_files
from datasets.prepare.video import FPS, SIZE

QUALITY = 85
PROCESSORS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
# Frames below 32 pixels are useless; jsonargparse needs a unique name per type.
RATES = restricted_number_type("PreparedRate", float, [(">=", 0.01), ("<=", 1000)])
SIZES = restricted_number_type("PreparedSize", int, [("==", 0), (">=", 32)], join="or")
QUALITIES = restricted_number_type("PreparedQuality", int, [(">=", 1), ("<=", 95)])
RATE = typed(RATES, "a number from 0.01 to 1000")
PIXELS = typed(SIZES, "0 or a whole number of at least 32")
JPEG_QUALITY = typed(QUALITIES, "a whole number from 1 to 95")
OFFICIAL = {"--data.annotations": "--annotations", "--data.num_classes": None, "--data.class_names": None}


# --- annotations ------------------------------------------------------------------------------------------------------


def read_official(kind: str, path: Path) -> tuple[list[Video], list[str]]:
    """Read the annotated videos, and the class names if the annotations list them.

    Durations are NaN if the annotations do not contain them (MultiTHUMOS' text files).
    """
    with options_called(OFFICIAL):
        if kind == "multithumos" and path.is_dir():
            return convert.read_multithumos(path)
        return list(KINDS[kind].load(path).videos), []


def write_official(args: argparse.Namespace, annotated: Sequence[Video], class_names: Sequence[str]) -> None:
    """Write the JSON of a dataset's videos, and its class list if there is one; classes are numbered from 0."""
    timed = [video_with_duration(video, args.frames, args.fps) for video in annotated]
    videos = [video for video in timed if video.duration]
    unknown = [video.id for video in timed if not video.duration]
    if not videos:
        raise InputError(f"{args.frames}: no frames for any annotated video; durations are computed from the frames")
    if unknown:
        print(f"{len(unknown)} annotated videos without frames, skipped: {first_few(unknown)}")
    convert.write_json(args.json, videos, first_class=0 if args.kind == "multithumos" else None)
    print(f"{Annotations(args.json, tuple(videos)).summary()}, classes numbered from 0")
    if class_names:
        file = args.json.with_name(f"{args.json.stem}_classes.txt")
        write_text(file, "".join(f"{name}\n" for name in class_names))
        print(f"{file}: {len(class_names)} class names, for --data.class_names")


def video_with_duration(video: Video, root: Path, fps: float) -> Video:
    """Set an unknown duration from the number of frames, at their recorded rate or else at `fps`."""
    if not isnan(video.duration):
        return video
    folder = root / video.id
    n = count_files(folder) if folder.is_dir() else 0
    try:
        return video._replace(duration=n / Record.read(folder).settings.fps)
    except InputError:
        return video._replace(duration=n / fps)


def write_template(json: Path, root: Path, ids: Iterable[str]) -> None:
    """Write a JSON of custom videos with their durations only; entries of an existing file are kept."""
    there = read_own(json)
    new = [video for video in ids if video not in there]
    if not new:
        print(f"{json}: already contains all videos, unchanged")
        return
    records = {video: Record.read(root / video) for video in new}
    videos = [Video(video, "training", round(record.seconds, 3), ()) for video, record in records.items()]
    convert.write_json(json, videos, keep=True)
    what = f"{len(new)} videos added to {len(there)}: {first_few(new)}" if there else f"{len(new)} videos"
    print(f"{json}: {what}, with their durations; add their actions and set the subset of test videos")


def read_own(json: Path) -> dict[str, object]:
    """Read a JSON of custom videos; empty if it does not exist."""
    with options_called({"--data.annotations": "--json"}):
        return read_table(json) if json.exists() else {}


# --- command ----------------------------------------------------------------------------------------------------------


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line; exit with one line and status 2 on errors."""
    parser = Parser(prog="python -m datasets.prepare", description="Prepare a dataset.")
    add = parser.add_argument
    add("kind", choices=("charades", "multithumos", "videos"), help="dataset; videos: your own videos")
    add("--videos", type=Path, nargs="+", default=[], metavar="PATH", help="video files, or folders of them")
    add("--frames", type=Path, metavar="DIR", help="folder of the frame folders")
    add("--annotations", type=Path, metavar="PATH", help="official annotations: folder or JSON file")
    add("--json", type=Path, metavar="FILE", help="JSON annotation file to write, for --data.annotations")
    add("--fps", type=RATE, default=FPS, metavar="N", help=f"frames per second (default: {FPS:g})")
    add("--size", type=PIXELS, default=SIZE, metavar="PIXELS",
        help=f"longer side of a frame in pixels (default: {SIZE}; 0: original size; never enlarged)")  # fmt: skip
    add("--quality", type=JPEG_QUALITY, default=QUALITY, metavar="Q",
        help=f"JPEG quality, 1 to 95 (default: {QUALITY})")  # fmt: skip
    add("--workers", type=COUNT, default=PROCESSORS, metavar="N",
        help="number of videos processed in parallel (default: number of processors)")  # fmt: skip
    add("--keep_damaged", action="store_true", help="keep the decodable frames of a truncated or damaged video")
    args = parser.parse_args(argv)
    own = args.kind == "videos"
    if args.videos and not args.frames:
        parser.error("--videos requires --frames, the output folder")
    if own and args.annotations:
        parser.error("--annotations is not used for your own videos; use --json to write a file to complete")
    if own and not args.videos:
        parser.error("videos: give --videos and --frames")
    if not own and args.json and not args.annotations:
        parser.error("--json requires the official --annotations")
    if not args.videos and not args.json:
        parser.error(f"{args.kind}: nothing to do; give --videos and --frames, --annotations and --json, or all four")
    return args


def check_json(args: argparse.Namespace) -> None:
    """Raise, before hours of work, if the JSON cannot be written or would overwrite its input."""
    if args.json.exists() and not args.json.is_file():
        raise InputError(f"{args.json}: not a regular file; --json must be a file")
    if args.kind == "videos":
        read_own(args.json)
    elif args.json.exists() and args.json.samefile(args.annotations):
        raise InputError(f"{args.json}: --json would overwrite --annotations; choose another file")


def prepare(args: argparse.Namespace) -> int:
    """Run the parsed command; return 1, with a line on stderr per failed video, if any failed."""
    if args.json:
        check_json(args)
    annotated, class_names = read_official(args.kind, args.annotations) if args.annotations else ([], [])
    if args.json and not args.frames and any(isnan(video.duration) for video in annotated):
        raise InputError(f"{args.annotations}: contains no durations; set --frames to compute them from the frames")
    files = video_files(args.videos)
    if files and annotated:
        files = annotated_only(files, [video.id for video in annotated])
    if args.json:
        writable(args.json.parent, "--json")
    failed: list[str] = []
    if files:
        settings = Settings(args.fps, args.size or None, args.quality)
        failed = extract_frames(files, args.frames, settings, workers=args.workers, keep_damaged=args.keep_damaged)
    if args.json and annotated:
        write_official(args, annotated, class_names)
    elif args.json and failed:
        print(f"{args.json}: not written, because some videos failed")
    elif args.json:
        write_template(args.json, args.frames, files)
    for line in failed:
        print(f"datasets.prepare: error: {line}", file=sys.stderr)
    if failed:
        print(f"datasets.prepare: {len(failed)} videos failed; run the same command to retry them", file=sys.stderr)
    return 1 if failed else 0


def main(argv: list[str] | None = None) -> int:
    """Prepare a dataset; return 1 on errors, with one line on stderr, or one per failed video."""
    args = parse(argv)
    with stop_at_once():
        return exit_status("datasets.prepare", lambda: prepare(args))


if __name__ == "__main__":
    sys.exit(main())
