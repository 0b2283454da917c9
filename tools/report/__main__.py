"""Write a report of a run as one HTML file: curves, metrics, every class, and timelines of selected test videos.

    python -m tools.report RUN_DIR [--videos ID,...] [--output report.html] [--config FILE]

RUN_DIR is the folder that contains fine/, coarse/ or both. The run may be unfinished. The file is self-contained and
works offline. `data` reads the run, `videos` the videos, and `page` creates the page.
"""

import sys
from pathlib import Path

from common.arguments import Parser, check_outputs, exit_status
from common.errors import InputError
from common.files import write_text
from datasets.annotations import read_class_names
from datasets.assembly import class_names_or_numbers, read_truth
from tools.report.data import read_run
from tools.report.page import page_values, render
from tools.report.videos import read_videos


def report(folder: Path, *, videos: list[str] | None = None, config: Path | None = None) -> str:
    """Create the page of the run in `folder`.

    Args:
        videos: Ids of the test videos to show; by default those with the best, median and worst predictions.
        config: Configuration file for a run without one, which was only evaluated.
    """
    run, notes = read_run(folder, config), []
    truth = {}
    if run.config is None:
        names = read_class_names(None, next(iter(run.scored.scores.values())).shape[1] if run.scored else 0)
        notes.append("This run has no config.yaml, so videos and positives are not shown. Pass one with --config.")
    else:
        try:
            truth = read_truth(run.config)
        except (InputError, OSError) as error:
            notes.append(f"No ground truth, so videos and positives are not shown: {error}")
        names, note = class_names_or_numbers(run.config)
        notes += [note] if note else []
    shown = read_videos(run, run.config, truth, videos) if run.config and truth else []
    return render(page_values(run, names=names, truth=truth, videos=shown, notes=notes))


def main(argv: list[str] | None = None) -> int:
    """Write the report and print its path. Returns 1 with one line on stderr if the run cannot be read."""
    parser = Parser(prog="python -m tools.report", description="Write a report of a run as one HTML file.")
    parser.add_argument("run", metavar="RUN_DIR", type=Path, help="run folder, such as runs/charades")
    parser.add_argument(
        "--videos", metavar="ID,...", type=lambda text: [video for video in text.split(",") if video],
        help="test videos to show (default: those with the best, median and worst predictions)",
    )  # fmt: skip
    parser.add_argument("--output", metavar="HTML", type=Path, help="output file (default: RUN_DIR/report.html)")
    parser.add_argument("--config", metavar="FILE", type=Path, help="configuration of a run that was only evaluated")
    args = parser.parse_args(argv)
    output = args.output or args.run / "report.html"
    if output.suffix != ".html":
        parser.error(f"--output {output}: must end in .html")

    def work() -> None:
        if args.output:
            check_outputs([output])
        write_text(output, report(args.run, videos=args.videos, config=args.config))
        print(f"report: {output}")

    return exit_status("report", work)


if __name__ == "__main__":
    sys.exit(main())
