"""Starting a script: processes, devices, and one-line error messages."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import NoReturn

import torch

from common.errors import InputError, one_line
from common.signals import Stopped, is_dead_worker, stop_at_once
from configs.cli import Command
from engine import distributed
from models import cpu_kernels

FIRST_WORD_SECONDS = 2.0


def run_script(script: str, command: Command, argv: Sequence[str] | None, work: Callable[[Command], None]) -> None:
    """Run a script's work in the requested number of processes.

    User errors exit with one line on stderr and status 1, signals with status 128 + signal. Any other error is a bug
    and shows its traceback.
    """
    prog = Path(script).name
    try:
        processes = 1 if distributed.started_by_torchrun() else processes_wanted(command)
        if processes > 1:
            argv = sys.argv[1:] if argv is None else argv
            status, line = distributed.launch(script, [str(arg) for arg in argv], processes)
            if line:
                print(f"{prog}: error: {line}", file=sys.stderr)
            raise SystemExit(status)
        with stop_at_once(), open(os.devnull, "w") as nowhere:
            if distributed.started_by_torchrun():
                distributed.join(choose_device(command.gpus))
            with redirect_stdout(sys.stdout if distributed.is_main() else nowhere):
                work(command)
    except (InputError, OSError) as error:
        exit_with(f"{prog}: error: {one_line(error)}", 1)
    except Stopped as stopped:
        exit_with(f"{prog}: {stopped}", stopped.status)
    except KeyboardInterrupt:
        exit_with(f"{prog}: interrupted", 130)
    except Exception as error:
        if is_dead_worker(error):
            exit_with(
                f"{prog}: error: {str(error).splitlines()[0]} (out of memory?); run the same command to resume", 1
            )
        if distributed.is_lost_connection(error):
            time.sleep(FIRST_WORD_SECONDS)
            exit_with(f"{prog}: error: another process has ended; run the same command to resume", 1)
        if not distributed.claim_last_word():
            raise SystemExit(1) from None
        raise
    finally:
        distributed.leave()


def processes_wanted(command: Command) -> int:
    """The number of processes to start on this machine: one per GPU of `-gpu`; on the CPU, `--run.processes`."""
    wanted, gpus = command.config.run.processes, command.gpus
    if gpus:
        check_gpu(max(gpus))
        if wanted not in (None, len(gpus)):
            raise InputError(f"--run.processes {wanted}: each process needs one GPU, but -gpu lists {len(gpus)}")
        return len(gpus)
    return wanted or 1


def exit_with(line: str, status: int) -> NoReturn:
    """Exit with a one-line message. If several processes exit, only the first one prints it."""
    if distributed.local_rank() > 0 and not distributed.joined():
        time.sleep(FIRST_WORD_SECONDS)  # if all processes fail at startup, the first one should exit first
    if distributed.claim_last_word():
        print(line, file=sys.stderr, flush=True)
    else:
        time.sleep(FIRST_WORD_SECONDS)  # the first one sets the status of the run
    raise SystemExit(status) from None


def set_up_process(command: Command) -> torch.device:
    """Set up memory, seed, threads and device of this process."""
    cpu_kernels.ask_for_huge_pages()
    run = command.config.run
    torch.manual_seed(run.seed)
    if run.threads is not None:
        torch.set_num_threads(run.threads)
    device = choose_device(command.gpus)
    if command.gpus is None and not distributed.started_by_torchrun():
        name = "the CPU (no CUDA device found)" if device.type == "cpu" else "GPU 0"
        print(f"No -gpu given: running on {name}.")
    return device


def choose_device(gpus: tuple[int, ...] | None) -> torch.device:
    """The device of this process.

    `-gpu` lists one GPU per process of this machine; () means the CPU. Without `-gpu` (None), each process uses the
    GPU of its local rank, or the CPU if there is no CUDA device.
    """
    if gpus is None:
        gpus = tuple(range(torch.cuda.device_count() if torch.cuda.is_available() else 0))
    if not gpus:
        return torch.device("cpu")
    place = distributed.local_rank()
    if place >= len(gpus):
        raise InputError(f"process {place} on this machine has no GPU: -gpu lists only {len(gpus)}")
    check_gpu(gpus[place])
    return torch.device("cuda", gpus[place])


def check_gpu(index: int) -> None:
    """Raise InputError if this machine has no such GPU."""
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index >= available:
        raise InputError(f"-gpu {index}: this machine has {available} CUDA devices; use -gpu cpu or a lower number")
