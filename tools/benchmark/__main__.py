"""Measure speed and memory of training, evaluation, loading and metrics, compared with straightforward baselines.

    python -m tools.benchmark                   every row, under 12 minutes on an idle machine with 2 cores
    python -m tools.benchmark --quick           fewer, smaller rows, under 2 minutes, as a smoke test
    python -m tools.benchmark --only fine_train one row, in this process

Networks are measured in "times the floor": seconds / (2 x multiply-adds / rate of a product of two 2048 x 2048 float32
matrices, timed in the same process). A training step counts as three forward passes. Every row runs in a new process.
Times are medians, and memory is the peak of the process (on a GPU: of its tensors). The baseline of a network is our
own network with PyTorch's kernels and default memory layout, norms not folded; it is not the published code. The table
names the baselines of the other rows.

For evaluation and extraction of long videos, in windows and whole, see python -m tools.benchmark_long.
"""

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from common.arguments import COUNT, POSITIVE, Parser, check_outputs, exit_status
from common.errors import InputError, one_line
from common.files import write_json
from tools.benchmark import table
from tools.benchmark.networks import FRAMES
from tools.benchmark.rows import measure, row_names
from tools.benchmark.timing import Result, Setting, machine
from tools.tables import format_table

BUSY = 0.5  # load per core above which times are unreliable


def measure_all(names: Sequence[str], setting: Setting) -> dict[str, Result]:
    """Measure each row in a new process, and print a line of progress for each."""
    results = {}
    for number, name in enumerate(names, 1):
        begun = time.perf_counter()
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            row = process.submit(measure, name, setting)
        error = row.exception()
        results[name] = {"failed": f"failed: {type(error).__name__}: {one_line(error)}"} if error else row.result()
        seconds = time.perf_counter() - begun
        print(f"[{number}/{len(names)}, {seconds:.0f} s] {name}: {table.summary(results[name])}", flush=True)
    return results


def report(results: dict[str, Result], setting: Setting, entered: tuple[float, int] | None, *, markdown: bool) -> str:
    """All tables for which there are results, as text."""
    judged = setting.device.type == "cpu" and not setting.quick
    tables = {
        "One run": table.comparison(results, judged=judged),
        "Scaling with clip length": table.growth(results),
        "bfloat16 and compilation": table.cuda_options(results),
        "Loader workers needed to keep up with training": table.loader_workers(results, entered),
        f"G multiply-adds for {FRAMES} frames (the floor uses the published count)": table.multiply_adds(results),
    }
    return "\n\n".join(f"{title}\n\n{format_table(t, markdown=markdown)}" for title, t in tables.items() if t)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parse(argv)
    return exit_status("benchmark", lambda: run(arguments))


def run(arguments: argparse.Namespace) -> int:
    """Measure, print and write the results. Returns 1 if a row failed."""
    setting = arguments.setting
    about = machine(setting)
    print("  ".join(f"{key} {value}" for key, value in about.items()), flush=True)
    if arguments.only:
        results = {arguments.only: measure(arguments.only, setting)}
        print(f"{arguments.only}: {table.summary(results[arguments.only])}")
    else:
        if about["load"] > BUSY * about["cores"]:
            print(f"This machine is busy (load {about['load']}): times will be overestimated.", flush=True)
        results = measure_all(row_names(setting), setting)
    if setting.quick:
        print("\nQuick mode: short clips and few repetitions. Do not compare these figures with the limits.")
    entered = (arguments.step_seconds, arguments.step_clips) if arguments.step_seconds else None
    print(f"\n{report(results, setting, entered, markdown=arguments.markdown)}")
    if arguments.json:
        write_json(arguments.json, {"machine": about, "quick": setting.quick, "rows": results})
    return int(any("failed" in result for result in results.values()))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m tools.benchmark", description=__doc__)
    parser.add_argument("--only", metavar="ROW", help="measure only this row, in this process; a wrong name lists all")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the machine, rows and floors to this file")
    parser.add_argument("--quick", action="store_true", help="small inputs, few repetitions")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    parser.add_argument("-gpu", metavar="N|cpu", help="device of the networks (default: first GPU, if any)")
    parser.add_argument("--threads", metavar="N", type=COUNT, help="PyTorch threads (default: PyTorch's)")
    parser.add_argument("--step_seconds", metavar="S", type=POSITIVE, help="your training step, to size the loader")
    parser.add_argument("--step_clips", metavar="B", type=COUNT, default=8, help="clips per step (default 8)")
    arguments = parser.parse_args(argv)
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpu = arguments.gpu or ("0" if available else "cpu")
    if gpu != "cpu" and not (gpu.isdecimal() and int(gpu) < available):
        parser.error(f"-gpu {gpu}: this machine has {available} CUDA devices; use -gpu cpu or a lower number")
    device = torch.device("cpu") if gpu == "cpu" else torch.device("cuda", int(gpu))
    arguments.setting = Setting(device, arguments.quick, arguments.threads)
    rows = row_names(arguments.setting)
    if arguments.only and arguments.only not in rows:
        parser.error(f"--only {arguments.only}: choose one of {', '.join(rows)}")
    try:
        check_outputs([arguments.json] if arguments.json else [])
    except InputError as error:
        parser.error(str(error))
    return arguments


if __name__ == "__main__":
    raise SystemExit(main())
