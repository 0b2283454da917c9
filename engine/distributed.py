"""Distributed training with one process per GPU: ranks and communication.

torchrun (or its launcher, which `launch` calls for `-gpu 0,1`) starts the processes; torch.distributed connects them.
Batch sizes are global. Sample i goes to process i mod size, and each process normalises its own samples, so the running
statistics of all processes are those of as many interleaved groups (section 4.1, sub-batch norm).

With a single process, all functions are the identity, so that there is only one code path.
"""

import logging
import os
import signal
from collections.abc import Mapping
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

T = TypeVar("T")
STOP_SECONDS = 120  # time to finish a step and save after a stop request, before a process is killed

_store: dist.Store | None = None  # shared by all processes; still usable when one has failed


def rank() -> int:
    """The rank of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this is the main process, which prints and writes files."""
    return rank() == 0


def started_by_torchrun() -> bool:
    """Whether torchrun or its launcher started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def local_rank() -> int:
    """The rank of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", 0))


def join(device: torch.device) -> None:
    """Connect to the other processes: NCCL between GPUs, Gloo between CPUs."""
    global _store
    _store, number, processes = next(rendezvous("env://"))
    backends = "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
        backends = "cpu:gloo,cuda:nccl"  # objects are sent between CPUs
    dist.init_process_group(backends, store=_store, rank=number, world_size=processes)


def joined() -> bool:
    """Whether this process is, or was, connected to others."""
    return _store is not None


def leave() -> None:
    """Disconnect. Pending operations of the other processes fail immediately."""
    if dist.is_initialized():
        dist.destroy_process_group()


def claim_last_word() -> bool:
    """Claim the right to print why the run ends; False if another process has claimed it.

    The first process that fails knows the cause; the other failures only follow from it.
    """
    try:
        return _store is None or _store.add("last word", 1) == 1
    except dist.DistError:  # the store ended with the process that hosts it
        return False


def is_lost_connection(error: BaseException) -> bool:
    """Whether the error only means that another process is gone."""
    if size() == 1 or not isinstance(error, RuntimeError):
        return False
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()  # Gloo's are plain RuntimeErrors


def mean(values: Tensor) -> Tensor:
    """The mean of a tensor over all processes, in every process."""
    if size() > 1:
        values = values.clone()
        dist.all_reduce(values)
        values /= size()
    return values


def highest(*values: int) -> list[int]:
    """The maximum of each value over all processes, in every process."""
    if size() == 1:
        return list(values)
    largest = torch.tensor(values)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return largest.tolist()


def gather(value: T) -> list[T]:
    """The values of all processes by rank, in every process."""
    values = [value] * size()
    if size() > 1:
        dist.all_gather_object(values, value)
    return values


def collect(value: T) -> list[T]:
    """The values of all processes by rank, in the main process. The others wait for it and get an empty list."""
    if size() == 1:
        return [value]
    values = [value] * size() if is_main() else []
    dist.gather_object(value, values or None)
    barrier()
    return values


def barrier() -> None:
    """Wait for all processes."""
    if size() > 1:
        dist.barrier()


def own_statistics(model: nn.Module) -> dict[str, int]:
    """{name: channels} of the running statistics that each process computes from its own share of the batches."""
    state = model.state_dict()
    norms = [name for name, module in model.named_modules() if not getattr(module, "synchronised", False)]
    names = [(norm, f"{norm}.{statistic}") for norm in norms for statistic in ("running_mean", "running_var")]
    return {name: len(state[f"{norm}.weight"]) for norm, name in names if name in state}


def gathered_state(model: nn.Module) -> dict[str, Tensor]:
    """The model's state with the running statistics of all processes as groups, unless they are synchronised.

    A norm of G groups becomes one of G size() groups, with group g of process r at index r + size() g. Sample i of
    the global batch thus belongs to group i modulo their number, as in a single process.
    """
    state, own = dict(model.state_dict()), own_statistics(model)
    shares = gather({name: state[name].cpu() for name in own})
    for name, channels in own.items():
        groups = torch.stack([share[name].view(-1, channels) for share in shares], 1)  # (G,size,C)
        state[name] = groups.flatten()
    return state


def own_share(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The inverse of `gathered_state`, if the number of groups matches the current processes.

    Otherwise statistics are returned unchanged, and the norms aggregate them when loading.
    """
    share, target = dict(state), model.state_dict()
    for name, channels in own_statistics(model).items():
        if name in state and state[name].numel() == size() * target[name].numel():
            share[name] = state[name].view(-1, size(), channels)[:, rank()].flatten()
    return share


def launch(script: str, argv: list[str], processes: int) -> tuple[int, str | None]:
    """Run `script argv` in `processes` processes on this machine with torchrun's launcher.

    Returns:
        The exit status, and a message if no process could print one itself.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    # If unset, torchrun warns and uses one thread per process.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(STOP_SECONDS))
    logging.disable(logging.CRITICAL)  # no tables of failed processes, which print their errors themselves
    try:
        run(parse_args(["--standalone", f"--nproc-per-node={processes}", script, *argv]))
    except ChildFailedError as error:
        place, failure = error.get_first_failure()
        if failure.exitcode < 0:
            name = signal.Signals(-failure.exitcode).name
            return 128 - failure.exitcode, f"process {place} was terminated by {name}; run the same command to resume"
        return failure.exitcode, None
    except SignalException as error:  # the processes received it too, and have saved
        return 128 + error.sigval, None
    return 0, None
