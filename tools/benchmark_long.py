"""Measure time and memory of evaluation and extraction against video length, in windows and on whole videos.

    python -m tools.benchmark_long                                       1, 5 and 15 minutes in windows, 1 also whole
    python -m tools.benchmark_long --minutes 60 --whole 0 --window 128   an hour

Each row runs the script of one stage in a separate process and includes everything: startup, decoding, network, files
and metrics. Memory is the peak of that process (0.9 GB of it after importing PyTorch). There are no loader workers. The
video is generated from a few JPEG frames of Charades' size, linked repeatedly. Weights are random.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jsonargparse.typing import restricted_number_type

from common.arguments import COUNT, NOT_NEGATIVE, Parser, exit_status, typed
from common.errors import InputError
from datasets.frames import frame_path
from models import CoarseNet, FineNet, save_official
from models.x3d import VARIANTS
from tools.benchmark.data import jpeg_videos
from tools.benchmark.timing import Setting, machine, resident_gigabytes
from tools.tables import format_table

PROJECT = Path(__file__).resolve().parents[1]
FPS, STRIDE = 24, 10
NAME = "minutes{:g}"  # name of a video
PICTURES = 24  # distinct frames, so that no file exceeds the link limit of file systems (65,000)
MINUTES = typed(restricted_number_type("Minutes", float, [(">=", 0.01), ("<=", 1440)]), "between 0.01 and 1440 (a day)")
STAGES = {  # title in the table, script, and options specific to the stage
    "fine": ("stage 1, evaluation", "train_fine.py", ("--eval_only", "true", "--fine.init", "{}/fine.pt")),
    "features": ("stage 2, extraction", "extract_fineFEAT.py", ("--features.checkpoint", "{}/fine.pt")),
    "coarse": (
        "stage 3, evaluation", "train_coarse_fineFEAT.py", ("--eval_only", "true", "--coarse.init", "{}/coarse.pt")
    ),
}  # fmt: skip


class Row(NamedTuple):
    """One run: a stage on a video of `minutes`, in windows of `window` clip frames or whole (None)."""

    stage: str
    minutes: float
    window: int | None


def write_video(folder: Path, minutes: float) -> None:
    """Write one test video to folder/frames/NAME and its annotations to folder/NAME.json."""
    name, frames = NAME.format(minutes), folder / "frames"
    (frames / name).mkdir(parents=True)
    with jpeg_videos(1, PICTURES, within=folder) as pictures:
        for k in range(round(60 * FPS * minutes)):
            os.link(frame_path(pictures, "v0", k % PICTURES + 1), frame_path(frames, name, k + 1))
    annotation = {"subset": "testing", "duration": 60 * minutes, "actions": [[0, 0.0, 30.0 * minutes]]}
    (folder / f"{name}.json").write_text(json.dumps({name: annotation}))


def command(row: Row, folder: Path, variant: str, gpu: str) -> list[str]:
    """The command line of a stage's script, as a user would type it."""
    name, (_, script, own) = NAME.format(row.minutes), STAGES[row.stage]
    options = {
        "run.dir": folder / f"{name}_{row.window or 'whole'}",
        "data.frames": folder / "frames",
        "data.annotations": folder / f"{name}.json",
        "data.stride": STRIDE,
        "data.fine_window": "centred",
        "data.workers": 0,
        "model.variant": variant,
        "eval.window": row.window or "null",
    }
    words = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    return [sys.executable, script, "-gpu", gpu, *words, *(word.format(folder) for word in own)]


def measure(arguments: Sequence[str]) -> tuple[float, float]:
    """Run a command. Returns its seconds and peak memory (1e9 bytes)."""
    begun = time.perf_counter()
    process = subprocess.Popen(arguments, cwd=PROJECT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise InputError(f"{arguments[1]} exited with status {process.returncode}")
    return time.perf_counter() - begun, resident_gigabytes(usage)


def rows(minutes: Sequence[float], whole: float, window: int) -> list[Row]:
    """All rows: every length in windows, and those up to `whole` minutes also whole. Stage 3 follows its features."""
    windows = [(length, frames) for length in minutes for frames in (window, None) if frames or length <= whole]
    return [Row(stage, length, frames) for length, frames in windows for stage in STAGES]


def measure_all(arguments: argparse.Namespace, folder: Path) -> Iterator[dict[str, str]]:
    """Yield the lines of the table, and print each as soon as it is measured."""
    torch.manual_seed(0)  # both networks with random weights, in the published file format
    save_official(FineNet(variant=arguments.variant), folder / "fine.pt")
    save_official(CoarseNet(variant=arguments.variant), folder / "coarse.pt")
    for length in dict.fromkeys(arguments.minutes):
        write_video(folder, length)
    for row in rows(arguments.minutes, arguments.whole, arguments.window):
        seconds, gigabytes = measure(command(row, folder, arguments.variant, arguments.gpu))
        frames = round(60 * FPS * row.minutes) // STRIDE
        line = {
            "work": STAGES[row.stage][0],
            "minutes": f"{row.minutes:g}",
            "clip frames": f"{frames}",
            "window": str(row.window or "whole"),
            "seconds": f"{seconds:.1f}",
            "ms per frame": f"{1000 * seconds / frames:.1f}",
            "GB": f"{gigabytes:.2f}",
        }
        print(", ".join(f"{key} {value}" for key, value in line.items()), flush=True)
        yield line


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parse(argv)
    print("  ".join(f"{key} {value}" for key, value in machine(Setting(torch.device("cpu"))).items()), flush=True)

    def work() -> None:
        with tempfile.TemporaryDirectory(dir=arguments.dir) as folder:
            lines = list(measure_all(arguments, Path(folder)))
        print(f"\n{format_table(lines, markdown=arguments.markdown)}")

    return exit_status("python -m tools.benchmark_long", work)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m tools.benchmark_long", description=__doc__)
    parser.add_argument("--minutes", metavar="M", type=MINUTES, nargs="+", default=[1, 5, 15], help="video lengths")
    parser.add_argument("--whole", metavar="M", type=NOT_NEGATIVE, default=1, help="longest whole video (default 1)")
    parser.add_argument("--window", metavar="N", type=COUNT, default=64, help="clip frames per window (default 64)")
    parser.add_argument("--variant", choices=list(VARIANTS), default="M", help="X3D variant (default M)")
    parser.add_argument("-gpu", metavar="N|cpu", default="cpu", help="device of the networks (default cpu)")
    parser.add_argument("--dir", metavar="DIR", help="folder for temporary files (11 MB per minute)")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    arguments = parser.parse_args(argv)
    if arguments.gpu != "cpu" and not arguments.gpu.isdecimal():
        parser.error(f"-gpu {arguments.gpu}: must be cpu or a GPU number")
    if arguments.dir and not Path(arguments.dir).is_dir():
        parser.error(f"--dir {arguments.dir}: no such folder")
    return arguments


if __name__ == "__main__":
    raise SystemExit(main())
