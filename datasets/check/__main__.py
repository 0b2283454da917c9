"""Check a dataset against its configuration before training, on one screen.

    python -m datasets.check --config configs/charades.yaml --data.frames DIR
    python -m datasets.check --config configs/charades.yaml --deep    # decodes every frame

Accepts the options of the training scripts. Warnings are for you to judge; a problem would stop training and sets the
exit status to 1. Only the index of frames is written.
"""

import sys

from common.arguments import exit_status
from configs.cli import parse
from configs.schema import Config
from datasets.check import dataset, training
from datasets.check.report import Report


def check(config: Config, *, deep: bool) -> int:
    """Print the report; return 1 if training cannot start."""
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
    """Run the check; return 1 if training cannot start, or if the check itself fails (one line on stderr)."""
    command = parse(
        argv,
        prog="datasets.check",
        description="Check a dataset before training.",
        flags={"deep": "decode every frame of every video"},
    )
    return exit_status("datasets.check", lambda: check(command.config, deep="deep" in command.flags))


if __name__ == "__main__":
    sys.exit(main())
