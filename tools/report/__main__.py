"""A run as one HTML file to look at: curves, metrics, every class, and chosen test videos along their time.

    python -m tools.report RUN_DIR [--videos ID,...] [--output report.html] [--config FILE]

RUN_DIR is the folder that holds fine/ and coarse/, or one of them; the run may be unfinished. The file stands alone: it
needs no network and no other file. `report_data` reads the run, `report_videos` the videos; `report_page` makes the
page.
"""

import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from common.arguments import Parser, check_outputs, exit_status
from common.errors import InputError
from common.files import write_text
from configs.schema import Config
from datasets.annotations import read_class_names
from datasets.assembly import class_names
from datasets.kinds import KINDS
from eval.charades_localize import Truth, read_ground_truth
from tools.report.data import RunRecord, read_run
from tools.report.page import page_values, render
from tools.report.videos import VideoRecord, choose, read_video


def report(folder: Path, *, videos: list[str] | None = None, config: Path | None = None) -> str:
    """The page of the run in `folder`.

    Args:
        videos: Ids of the test videos to show; without them the best, the median and the worst predicted one.
        config: Configuration file for a run that has none, since it was only evaluated.
    """
    run = read_run(folder, config)
    truth, notes = read_truth(run.config)
    names, note = names_of_classes(run)
    shown = read_videos(run, truth, videos) if truth else []
    values = page_values(run, names=names, truth=truth, videos=shown, notes=notes + note, made=datetime.now())
    return render(values)


def read_truth(config: Config | None) -> tuple[dict[str, Truth] | None, list[str]]:
    """Ground truth of the test videos as the evaluation takes it; or None and a note that says why."""
    if config is None:
        return None, ["This run has no config.yaml, so neither videos nor numbers of positives; --config names one."]
    data = config.data
    try:
        if data.ground_truth:
            return read_ground_truth(data.ground_truth, data.num_classes), []
        tested = KINDS[data.kind].load(data.annotations, data.num_classes).subset("testing")
        return {video.id: Truth(list(video.actions), video.duration) for video in tested}, []
    except (InputError, OSError) as error:
        return None, [f"Without ground truth neither videos nor numbers of positives are shown: {error}"]


def names_of_classes(run: RunRecord) -> tuple[list[str], list[str]]:
    """Names of the classes, or their numbers where no list is found; and a note where the list cannot be used."""
    if run.config is None:
        return read_class_names(None, next(iter(run.scored.scores.values())).shape[1] if run.scored else 0), []
    try:
        return class_names(run.config), []
    except (InputError, OSError) as error:
        return read_class_names(None, run.config.data.num_classes), [f"Classes by number: {error}"]


def read_videos(run: RunRecord, truth: Mapping[str, Truth], asked: list[str] | None) -> list[VideoRecord]:
    """The videos to show; of a video without a length there is no time axis."""
    timed = {video: known for video, known in truth.items() if known.length > 0}
    for video in asked or []:
        if video not in timed:
            remedy = f"; one is {next(iter(timed))}" if timed else ""
            raise InputError(f"--videos {video}: no test video of this run with a length{remedy}")
    chosen = choose(run, timed) if asked is None else dict.fromkeys(asked, "Asked for")
    return [read_video(run, video, why, timed[video]) for video, why in chosen.items()]


def main(argv: list[str] | None = None) -> int:
    """Write the report and print its path; 1 with one line on stderr where the run cannot be read."""
    parser = Parser(prog="python -m tools.report", description="A run as one HTML file.")
    parser.add_argument("run", metavar="RUN_DIR", type=Path, help="the run's folder, such as runs/charades")
    parser.add_argument(
        "--videos", metavar="ID,...", type=lambda text: [video for video in text.split(",") if video],
        help="test videos to show (default: the best, the median and the worst predicted one)",
    )  # fmt: skip
    parser.add_argument("--output", metavar="HTML", type=Path, help="the file (default: RUN_DIR/report.html)")
    parser.add_argument("--config", metavar="FILE", type=Path, help="configuration of a run that was only evaluated")
    args = parser.parse_args(argv)
    output = args.output or args.run / "report.html"
    if output.suffix != ".html":
        parser.error(f"--output {output}: a name that ends in .html")

    def work() -> None:
        if args.output:
            check_outputs([output])
        write_text(output, report(args.run, videos=args.videos, config=args.config))
        print(f"report: {output}")

    return exit_status("report", work)


if __name__ == "__main__":
    sys.exit(main())
