"""Before a training: whether a dataset is as its configuration says, in one screen.

    python -m datasets.check --config configs/charades.yaml --data.frames DIR
    python -m datasets.check --config configs/charades.yaml --deep    # decodes every frame

Takes the options of the training scripts. Warnings are for a person to judge; a problem is what training would stop at,
and the exit status is then 1. Nothing is written but the index of frames.
"""

import sys

from common.arguments import exit_status
from configs.cli import parse
from configs.schema import Config
from datasets.check import dataset, training
from datasets.check.report import Report


def check(config: Config, *, deep: bool) -> int:
    """Print the report; 1 where training could not run."""
    report = Report()
    annotations = dataset.check_annotations(config, report)
    frames = dataset.check_frames(config, annotations, report)
    dataset.check_pixels(config, frames, report, deep=deep)
    dataset.check_classes(config, frames, report)
    dataset.check_clips(config, frames, report)
    training.check_features(config, frames.videos, report)
    training.check_run(config, report)
    if not report.problems:
        training.check_batches(config, annotations, report)
    print("\n".join([*report.lines, report.verdict()]))
    return 1 if report.problems else 0


def main(argv: list[str] | None = None) -> int:
    """Check; 1 where training could not run, or with one line on stderr where there is nothing to report."""
    command = parse(
        argv,
        prog="datasets.check",
        description="Report what training would find of a dataset.",
        flags={"deep": "decode every frame of every video"},
    )
    return exit_status("datasets.check", lambda: check(command.config, deep="deep" in command.flags))


if __name__ == "__main__":
    sys.exit(main())
