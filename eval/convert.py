"""Convert localization scores between the published code's format and submissions. Scores keep all their digits.

    python -m eval.convert localize_corr_v1.csv Charades_v1_test.csv official.txt
    python -m eval.convert official.txt Charades_v1_test.csv scores.csv

The format of the first file determines the direction. See `eval.published_scores` and `eval.submission` for both.
"""

import sys
from pathlib import Path

from common.arguments import Parser, check_outputs, exit_status
from common.errors import InputError
from common.files import written_whole
from common.text import counted, first_few
from eval.charades_localize import read_ground_truth
from eval.published_scores import is_published, position, published_lines
from eval.submission import predictions_of, submission_lines


def main(argv: list[str] | None = None) -> int:
    """Convert a file; returns 1 after a one-line error if it cannot be converted."""
    parser = Parser(prog="python -m eval.convert", description=__doc__)
    parser.add_argument("scores", type=Path, help="the published code's scores, or a submission")
    parser.add_argument("ground_truth", type=Path, help="official CSV of the scored videos, for their durations")
    parser.add_argument("output", type=Path, help="output file, in the other format")
    args = parser.parse_args(argv)
    return exit_status("convert", lambda: convert(args.scores, args.ground_truth, args.output))


def convert(scores: Path, ground_truth: Path, output: Path) -> None:
    """Write the file in the other format, and print the numbers of frames and videos."""
    durations = {video: truth.length for video, truth in read_ground_truth(ground_truth).items()}
    check_outputs([output], inputs=[scores, ground_truth])
    published = is_published(scores)
    if published:
        lines, unknown = published_lines(scores, durations)
    else:
        lines = submission_lines(scores)
        unknown = list({line.video: None for line in lines if line.video not in durations})
    if unknown:
        raise InputError(
            f"{scores}: {counted(len(unknown), 'video')} not in the ground truth: {first_few(unknown)}; "
            "use annotations that contain all its videos"
        )
    predictions_of(scores, lines)  # checks every line
    with written_whole(output) as partial, partial.open("w", encoding="utf-8") as file:
        for _, video, frame, digits in lines:
            place = f" {frame} " if published else f",{position(frame, durations[video])},"
            file.write(f"{video}{place}{digits}\n")
    print(f"{output}: {len(lines)} frames of {len({line.video for line in lines})} videos")


if __name__ == "__main__":
    sys.exit(main())
