"""Several processes that train together, one for each GPU: who this one is, and what they share.

torchrun (or its launcher, which `launch` calls for `-gpu 0,1`) starts them, torch.distributed connects them. Batch
sizes are global; each process normalises its own share of a batch, sample i going to process i mod size, and the
processes' running statistics together are those of as many interleaved groups (section 4.1, sub-batch norm).

With one process every function here is the identity, so that there is one code path.
"""

import logging
import os
import signal
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

STOP_SECONDS = 120  # that processes have, once asked, to finish a step and save, before they are killed

_store: dist.Store | None = None  # what all processes can read and write, also when one has failed


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process is the one that prints and writes."""
    return rank() == 0


def started_by_torchrun() -> bool:
    """Whether a launcher has given this process a place among several."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def local_rank() -> int:
    """Number of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", 0))


def join(device: torch.device) -> None:
    """Connect to the other processes: NCCL between GPUs, Gloo between CPUs."""
    global _store
    _store, number, processes = next(rendezvous("env://"))
    backends = "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
        backends = "cpu:gloo,cuda:nccl"  # objects travel between CPUs
    dist.init_process_group(backends, store=_store, rank=number, world_size=processes)


def joined() -> bool:
    """Whether this process is one of several that are, or were, connected."""
    return _store is not None


def leave() -> None:
    """Disconnect; what the others still wait for fails at once."""
    if dist.is_initialized():
        dist.destroy_process_group()


def claim_last_word() -> bool:
    """Ask to be the one process that tells the user why the run ends; False where another one has asked before.

    The first that fails knows the cause, the others are its echo.
    """
    try:
        return _store is None or _store.add("last word", 1) == 1
    except dist.DistError:  # the store went down with the process that kept it
        return False


def is_lost_connection(error: BaseException) -> bool:
    """Whether an error only says that another process is gone."""
    if size() == 1 or not isinstance(error, RuntimeError):
        return False
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()  # Gloo's are plain RuntimeErrors


def mean(values: Tensor) -> Tensor:
    """The processes' mean of a tensor, in all of them."""
    if size() > 1:
        values = values.clone()
        dist.all_reduce(values)
        values /= size()
    return values


def highest(*values: int) -> list[int]:
    """The largest of each value over the processes, in all of them."""
    if size() == 1:
        return list(values)
    largest = torch.tensor(values)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return largest.tolist()


def gather(value: Any) -> list[Any]:
    """Every process's value, by rank, in all of them."""
    values = [value] * size()
    if size() > 1:
        dist.all_gather_object(values, value)
    return values


def collect(value: Any) -> list[Any]:
    """Every process's value, by rank, in the main one; nothing in the others, which wait until that has them."""
    if size() == 1:
        return [value]
    values = [None] * size() if is_main() else None
    dist.gather_object(value, values)
    barrier()
    return values or []


def barrier() -> None:
    """Wait for the others."""
    if size() > 1:
        dist.barrier()


def own_statistics(model: nn.Module) -> dict[str, int]:
    """{name: channels} of the running statistics that each process keeps of its own share of the batches."""
    state = model.state_dict()
    norms = [name for name, module in model.named_modules() if not getattr(module, "synchronised", False)]
    names = [(norm, f"{norm}.{statistic}") for norm in norms for statistic in ("running_mean", "running_var")]
    return {name: len(state[f"{norm}.weight"]) for norm, name in names if name in state}


def gathered_state(model: nn.Module) -> dict[str, Tensor]:
    """The model's state with the running statistics of all processes as groups, where each process has its own.

    A norm of G groups and C channels has G size() groups in it, group g of process r at r + size() g: the group of
    sample i of the global batch is i modulo their number, as in one process.
    """
    state, own = dict(model.state_dict()), own_statistics(model)
    shares = gather({name: state[name].cpu() for name in own})
    for name, channels in own.items():
        groups = torch.stack([share[name].view(-1, channels) for share in shares], 1)  # (G,size,C)
        state[name] = groups.flatten()
    return state


def own_share(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The reverse of `gathered_state` where the number of groups is that of the present processes.

    Other numbers are left as they are, for the norms to aggregate as they load.
    """
    share, target = dict(state), model.state_dict()
    for name, channels in own_statistics(model).items():
        if name in state and state[name].numel() == size() * target[name].numel():
            share[name] = state[name].view(-1, size(), channels)[:, rank()].flatten()
    return share


def launch(script: str, argv: list[str], processes: int) -> tuple[int, str | None]:
    """Run `script argv` in this many processes of this machine by torchrun's launcher.

    Returns:
        The exit status, and a line for the user where no process could say one itself.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    # Without it torchrun warns, and gives each process one thread.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(STOP_SECONDS))
    logging.disable(logging.CRITICAL)  # its tables of failed processes: those that fail say why themselves
    try:
        run(parse_args(["--standalone", f"--nproc-per-node={processes}", script, *argv]))
    except ChildFailedError as error:
        place, failure = error.get_first_failure()
        if failure.exitcode < 0:
            name = signal.Signals(-failure.exitcode).name
            return 128 - failure.exitcode, f"process {place} was ended by {name}; the same command continues"
        return failure.exitcode, None
    except SignalException as error:  # the processes have had it too, and have saved
        return 128 + error.sigval, None
    return 0, None
