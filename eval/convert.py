"""Localization scores from the published code's form to a submission and back; the scores keep their digits.

    python -m eval.convert localize_corr_v1.csv Charades_v1_test.csv official.txt
    python -m eval.convert official.txt Charades_v1_test.csv scores.csv

The form of the first file decides the direction. `eval.published_scores` and `eval.submission` describe both forms.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from common.arguments import Parser, check_outputs, exit_status
from common.errors import InputError
from common.files import write_text
from eval.charades_localize import read_ground_truth
from eval.published_scores import is_published, position, published_rows
from eval.submission import numbered_lines, read_predictions


def main(argv: list[str] | None = None) -> int:
    """Convert; 1 with one line on stderr where a file cannot be converted."""
    parser = Parser(prog="python -m eval.convert", description=__doc__)
    parser.add_argument("scores", type=Path, help="the published code's scores, or a submission")
    parser.add_argument("ground_truth", type=Path, help="official CSV of the scored videos, for their durations")
    parser.add_argument("output", type=Path, help="file to write, in the other form")
    args = parser.parse_args(argv)
    return exit_status("convert", lambda: convert(args.scores, args.ground_truth, args.output))


def convert(scores: Path, ground_truth: Path, output: Path) -> None:
    """Write the file in the other form, and say how much of it there is."""
    durations = {video: truth.length for video, truth in read_ground_truth(ground_truth).items()}
    check_outputs([output], inputs=[scores, ground_truth])
    lines = list(as_submission(scores, durations) if is_published(scores) else as_published(scores, durations))
    write_text(output, "".join(f"{line}\n" for line in lines))
    print(f"{output}: {len(lines)} frames of {len({line.replace(',', ' ').split()[0] for line in lines})} videos")


def as_submission(path: Path, durations: dict[str, float]) -> Iterator[str]:
    """Lines `id frame score score ...`, frame 1..25."""
    rows, unknown = published_rows(path, durations)
    refuse_unknown(path, unknown)
    for row in rows:
        yield f"{row.video} {row.frame} {' '.join(row.scores)}"


def as_published(path: Path, durations: dict[str, float]) -> Iterator[str]:
    """Rows `id,position,score score ...`."""
    predictions = read_predictions(path)  # checks every line
    refuse_unknown(path, [video for video in predictions if video not in durations])
    lines = [line.decode().split() for _, line in numbered_lines(path)]
    first = min(int(frame) for _, frame, *_ in lines)
    num_classes = next(iter(predictions.values())).shape[1]
    for video, frame, *scores in lines:
        number = int(frame) + (first == 0)  # some submissions count from 0
        yield f"{video},{position(number, durations[video])},{' '.join(scores[:num_classes])}"


def refuse_unknown(path: Path, videos: list[str]) -> None:
    """Raise for videos without a duration: their frames have no position."""
    if videos:
        raise InputError(f"{path}: video {videos[0]} and {len(videos) - 1} others are not in the ground truth; "
                         "give the annotations that have all its videos")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
