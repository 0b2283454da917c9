"""Starting a script: its processes and devices, and the one line with which it ends where something is wrong."""

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
    """Run a script's work, in as many processes as were asked for.

    What the user can mend ends it with one line on stderr and status 1, a signal with 128 + its number; anything
    else is a bug and shows its traceback.
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
            exit_with(f"{prog}: error: {str(error).splitlines()[0]} (out of memory?); the same command continues", 1)
        if distributed.is_lost_connection(error):
            time.sleep(FIRST_WORD_SECONDS)
            exit_with(f"{prog}: error: another process has ended; the same command continues", 1)
        if not distributed.claim_last_word():
            raise SystemExit(1) from None
        raise
    finally:
        distributed.leave()


def processes_wanted(command: Command) -> int:
    """Processes to start on this machine: one for each GPU of `-gpu`, on a CPU `--run.processes`."""
    wanted, gpus = command.config.run.processes, command.gpus
    if gpus:
        check_gpu(max(gpus))
        if wanted not in (None, len(gpus)):
            raise InputError(f"--run.processes {wanted}: -gpu gives each process a GPU and names {len(gpus)}")
        return len(gpus)
    return wanted or 1


def exit_with(line: str, status: int) -> NoReturn:
    """Leave with one line; of several processes that end, the first alone says it."""
    if distributed.local_rank() > 0 and not distributed.joined():
        time.sleep(FIRST_WORD_SECONDS)  # a mistake that all processes find at their start ends the first one first
    if distributed.claim_last_word():
        print(line, file=sys.stderr, flush=True)
    else:
        time.sleep(FIRST_WORD_SECONDS)  # the first one's status is the run's
    raise SystemExit(status) from None


def set_up_process(command: Command) -> torch.device:
    """Memory, seed, threads and device of a script."""
    cpu_kernels.ask_for_huge_pages()
    run = command.config.run
    torch.manual_seed(run.seed)
    if run.threads is not None:
        torch.set_num_threads(run.threads)
    device = choose_device(command.gpus)
    if command.gpus is None and not distributed.started_by_torchrun():
        name = "the CPU, since there is no CUDA device" if device.type == "cpu" else "-gpu 0"
        print(f"Without -gpu: running on {name}.")
    return device


def choose_device(gpus: tuple[int, ...] | None) -> torch.device:
    """The device of this process.

    `-gpu` lists one for each process of this machine; () is the CPU. Without it (None) each process takes the GPU of
    its own number, or the CPU where there is no CUDA device.
    """
    if gpus is None:
        gpus = tuple(range(torch.cuda.device_count() if torch.cuda.is_available() else 0))
    if not gpus:
        return torch.device("cpu")
    place = distributed.local_rank()
    if place >= len(gpus):
        raise InputError(f"process {place} of this machine has no GPU of its own: -gpu gives {len(gpus)}")
    check_gpu(gpus[place])
    return torch.device("cuda", gpus[place])


def check_gpu(index: int) -> None:
    """Raise where this machine has no such GPU."""
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index >= available:
        raise InputError(f"-gpu {index}: this machine has {available} CUDA devices; use -gpu cpu or a lower number")
