"""Speed and memory of training, evaluation, loading and metrics, each beside the obvious way of doing it.

    python -m tools.benchmark                   every row, under 12 minutes on an idle machine of 2 cores
    python -m tools.benchmark --quick           fewer, smaller rows, under 2 minutes; shows that all is well
    python -m tools.benchmark --only fine_train one row, in this very process

Networks are measured in "times the floor": seconds / (2 x multiply-adds / rate of a product of two 2048 x 2048 float32
matrices, timed in the same process); a training step counts three forward passes. Every row runs in a fresh process,
times are medians, memory is the process's peak (on a GPU: of its tensors). "Plain PyTorch" is this project's network
by PyTorch's own kernels in PyTorch's default memory layout, norms not folded; the "PIL path" decodes, resizes and
normalises frame by frame. Neither is the published code, whose figures come from the design document.

Evaluation and extraction of long videos, in windows and whole: python -m tools.benchmark_long.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from common.arguments import COUNT, POSITIVE, Parser, check_outputs, exit_status
from common.errors import InputError
from common.files import write_json
from tools.benchmark import table
from tools.benchmark.rows import ROWS, row_names
from tools.benchmark.timing import Result, Setting, machine, why_it_failed
from tools.tables import format_table

PROJECT = Path(__file__).resolve().parents[2]
NO_CUDA = {"failed": "not run: no CUDA device"}
BUSY = 0.5  # load for each core beyond which times are not to be trusted


def measure(name: str, setting: Setting) -> Result:
    """Measure one row in this process."""
    return ROWS[name].runs(setting) if ROWS[name].can_run(setting) else NO_CUDA


def measure_all(names: Sequence[str], setting: Setting, threads: int | None) -> dict[str, Result]:
    """Measure each row in a process of its own; a line of progress for each."""
    results = {}
    for number, name in enumerate(names, 1):
        begun = time.perf_counter()
        row = ROWS.get(name)
        results[name] = NO_CUDA if row and not row.can_run(setting) else _in_a_process(name, setting, threads)
        seconds = time.perf_counter() - begun
        print(f"[{number}/{len(names)}, {seconds:.0f} s] {name}: {table.summary(results[name])}", flush=True)
    return results


def _in_a_process(name: str, setting: Setting, threads: int | None) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "result.json")
        gpu = "cpu" if setting.device.type == "cpu" else str(setting.device.index)
        command = [sys.executable, "-m", "tools.benchmark", "--only", name, "--json", str(file), "-gpu", gpu]
        command += ["--quick"] * setting.quick + (["--threads", str(threads)] if threads else [])
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
        if done.returncode:
            return {"failed": f"failed: {why_it_failed(done.stderr, done.returncode)}"}
        return json.loads(file.read_text())["rows"][name]


def report(results: dict[str, Result], setting: Setting, entered: tuple[float, int] | None, *, markdown: bool) -> str:
    """All tables that the results fill, as text."""
    judged = setting.device.type == "cpu" and not setting.quick
    tables = {
        "Against the published code": table.comparison(results, judged=judged),
        "Against length": table.growth(results),
        "bfloat16 and compilation": table.cuda_options(results),
        "Loader workers that keep up with a step": table.loader_workers(results, entered),
    }
    parts = [f"{title}\n\n{format_table(t, markdown=markdown)}" for title, t in tables.items() if t]
    if len(results) > 1:
        parts.append(table.multiply_adds(results))
    return "\n\n".join(parts)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parse(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    return exit_status("benchmark", lambda: run(arguments))


def run(arguments: argparse.Namespace) -> int:
    """Measure, print, write; 1 where a row failed."""
    setting = Setting(arguments.gpu, arguments.quick)
    about = machine(setting.device)
    print("  ".join(f"{key} {value}" for key, value in about.items()), flush=True)
    if arguments.only:
        results = {arguments.only: measure(arguments.only, setting)}
        print(f"{arguments.only}: {table.summary(results[arguments.only])}")
    else:
        if about["load"] > BUSY * about["cores"]:
            print(f"This machine is busy (load {about['load']}): times will be too long.", flush=True)
        results = measure_all(row_names(quick=setting.quick), setting, arguments.threads)
    if setting.quick:
        print("\nQuick: short clips and few repetitions, so these figures are not to be compared with the limits.")
    entered = (arguments.step_seconds, arguments.step_clips) if arguments.step_seconds else None
    print(f"\n{report(results, setting, entered, markdown=arguments.markdown)}")
    if arguments.json:
        write_json(arguments.json, {"machine": about, "quick": setting.quick, "rows": results})
    return int(any(result is not NO_CUDA and "failed" in result for result in results.values()))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m tools.benchmark", description=__doc__)
    parser.add_argument("--only", metavar="ROW", help="measure this row alone, in this process; a wrong name lists all")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write machine, rows and floors to this file")
    parser.add_argument("--quick", action="store_true", help="small rows, few repetitions")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    parser.add_argument("-gpu", metavar="N|cpu", help="device of the networks; the first GPU where there is one")
    parser.add_argument("--threads", metavar="N", type=COUNT, help="threads of PyTorch; its own choice otherwise")
    parser.add_argument("--step_seconds", metavar="S", type=POSITIVE, help="a training step of yours, for the loader")
    parser.add_argument("--step_clips", metavar="B", type=COUNT, default=8, help="clips in that step (default 8)")
    arguments = parser.parse_args(argv)
    rows = row_names(quick=arguments.quick)
    if arguments.only and arguments.only not in rows:
        parser.error(f"--only {arguments.only}: choose one of {', '.join(rows)}")
    try:
        check_outputs([arguments.json] if arguments.json else [])
    except InputError as error:
        parser.error(str(error))
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpu = arguments.gpu or ("0" if available else "cpu")
    if gpu != "cpu" and not (gpu.isdecimal() and int(gpu) < available):
        parser.error(f"-gpu {gpu}: this machine has {available} CUDA devices; use -gpu cpu or a lower number")
    arguments.gpu = torch.device("cpu") if gpu == "cpu" else torch.device("cuda", int(gpu))
    return arguments


if __name__ == "__main__":
    raise SystemExit(main())
