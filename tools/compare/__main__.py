"""Compare prediction files by every rule, with 95% bootstrap intervals over videos.

    python -m tools.compare runs/a/coarse runs/b/coarse --ground_truth data/Charades/Charades_v1_test.csv \\
        --figure ab.png --csv ab.csv --json ab.json

PREDICTIONS is an official submission (rules "official" and "video level"), released.txt (rule "released"; requires
--frames), an .npz file of the scores of all steps (rule "dense"; see eval.dense for the format), or the folder of a
training stage. In a folder, official.txt is scored, released.txt if --frames is given, and dense.npz if it exists
(written by --eval.save_frames true). Each further file is compared with the first. Differences are paired, since all
files are scored on the same resamples of the videos; a star marks an interval that excludes 0. Intervals cover the
choice of test videos, not of the training seed; see eval.bootstrap for their type.
"""

import argparse
import sys
from pathlib import Path
from string import ascii_uppercase

from jsonargparse.typing import restricted_number_type
from matplotlib.backend_bases import FigureCanvasBase

from common.arguments import COUNT, WHOLE, Parser, check_outputs, exit_status, typed
from common.errors import InputError, options_called
from datasets.annotations import load_annotations, read_class_names
from datasets.kinds import CHARADES, CLASS_FILE
from eval.bootstrap import LEVEL
from eval.charades_localize import Truth, read_ground_truth
from tools.compare.figure import draw
from tools.compare.output import by_class, summary, write_comparison, write_csv
from tools.compare.rules import Reader, prediction_files, score_all

STRIDE = 10
FEWEST = 40  # resamples: a 95% interval then excludes one at each end
RESAMPLES = typed(restricted_number_type("Resamples", int, (">=", FEWEST)), f"a whole number of at least {FEWEST}")
LARGEST_CLASS = 1 << 20  # limit for ground truth, whose number of classes follows from the predictions


def read_truth(path: Path, first_class: int) -> dict[str, Truth]:
    """Read the test videos from an official CSV, annotations JSON, or a folder with both official CSVs."""
    if not path.exists():
        raise InputError(f"{path}: no such file; --ground_truth must be an official CSV or annotations JSON")
    if path.is_file() and path.suffix.lower() != ".json":
        return read_ground_truth(path)
    try:
        truth = load_annotations(path, num_classes=LARGEST_CLASS, first_class=first_class).truth()
    except InputError as error:  # its remedies are training options
        raise InputError(error.what, remedy=f"correct it, or set --first_class (currently {first_class})") from None
    if not truth:
        raise InputError(f"{path}: contains no test videos")
    return truth


def name_classes(given: Path | None, ground_truth: Path, num_classes: int) -> list[str]:
    """Class names from the given file, or the official list next to the ground truth, or numbers."""
    if given is not None:
        with options_called({"--data.class_names": "--class_names", "--data.num_classes": None}):
            return read_class_names(given, num_classes)
    found = CHARADES.class_names(ground_truth)
    return found if found and len(found) == num_classes else read_class_names(None, num_classes)


def compare(args: argparse.Namespace) -> None:
    """Read and score all files, then print and write the results."""
    outputs = [path for path in (args.json, args.csv, args.figure) if path]
    inputs = [args.ground_truth, *([args.class_names] if args.class_names else [])]
    check_outputs(outputs, inputs + [file for path in args.predictions for file in prediction_files(path)])
    if args.figure and args.figure.suffix[1:].lower() not in FigureCanvasBase.get_supported_filetypes():
        raise InputError(f"{args.figure}: not a figure file; use .png, .pdf or .svg")
    if args.frames and not args.frames.is_dir():
        raise InputError(f"{args.frames}: no such folder; --frames must contain <id>/<id>-000001.jpg")
    reader = Reader(read_truth(args.ground_truth, args.first_class), args.ground_truth, args.frames, args.stride)
    files = {str(path): reader.read(path) for path in args.predictions}
    names = name_classes(args.class_names, args.ground_truth, reader.num_classes)
    print("".join(f"{remark}\n" for remark in reader.remarks), end="")

    scored = score_all(files, reader.truth, resamples=args.resamples, seed=args.seed)
    print(f"{args.ground_truth}: {len(reader.truth)} videos, {len(names)} classes")
    print(f"percent [95% interval], from {args.resamples} resamples of the videos, seed {args.seed}\n")
    print("\n".join([summary(scored), *by_class(scored, names)]))
    if args.json:
        about = {"ground_truth": str(args.ground_truth), "videos": len(reader.truth), "level": LEVEL,
                 "resamples": args.resamples, "seed": args.seed}  # fmt: skip
        write_comparison(args.json, scored, names, about)
    if args.csv:
        write_csv(args.csv, scored, names)
    if args.figure:
        draw(args.figure, scored, names)
    if outputs:
        print(f"\nwrote: {', '.join(map(str, outputs))}")


def main(argv: list[str] | None = None) -> int:
    """Run the comparison. Returns 1 with one line on stderr if a file cannot be scored or written."""
    args = _parse(argv)
    return exit_status("compare", lambda: compare(args))


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m tools.compare", description=__doc__)
    parser.add_argument("predictions", metavar="PREDICTIONS", nargs="+", type=Path, help="files or stage folders")
    parser.add_argument("--ground_truth", metavar="FILE", type=Path, required=True,
                        help="official CSV, or annotations JSON, of which only the test videos are used")  # fmt: skip
    parser.add_argument("--first_class", metavar="N", type=int, default=0,
                        help="number of the first class in the JSON (default 0; multithumos.json: 1)")  # fmt: skip
    parser.add_argument("--frames", metavar="FOLDER", type=Path, help="the dataset's frames, for rule released")
    parser.add_argument("--stride", metavar="N", type=COUNT, default=STRIDE,
                        help=f"data.stride of the runs, for rule released (default {STRIDE})")  # fmt: skip
    parser.add_argument("--class_names", metavar="FILE", type=Path,
                        help=f"class names, one per line (default: {CLASS_FILE} next to the ground truth)")  # fmt: skip
    parser.add_argument("--resamples", metavar="N", type=RESAMPLES, default=1000,
                        help=f"number of resamples (default 1000, at least {FEWEST})")  # fmt: skip
    parser.add_argument("--seed", metavar="N", type=WHOLE, default=0, help="seed of the resamples (default 0)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all results except the resamples")
    parser.add_argument("--csv", metavar="FILE", type=Path, help="write the AP of every class, one per line")
    parser.add_argument("--figure", metavar="FILE", type=Path, help="plot the AP of every class (.png, .pdf, .svg)")
    args = parser.parse_args(argv)
    twice = [path for path in args.predictions if args.predictions.count(path) > 1]
    if twice:
        parser.error(f"{twice[0]} is given twice")
    if len(args.predictions) > len(ascii_uppercase):
        parser.error(f"{len(args.predictions)} prediction files; compare at most {len(ascii_uppercase)}")
    return args


if __name__ == "__main__":
    sys.exit(main())
