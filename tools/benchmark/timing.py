"""Benchmark measurements: median seconds, peak memory, and the machine's rate for the floor."""

import os
import platform
import re
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from common.files import JsonObject

SIDE = 2048  # of the square matrices whose product measures the machine's rate
Result = JsonObject


@dataclass(frozen=True)
class Setting:
    """Device and size of the measurements.

    Attributes:
        threads: Number of PyTorch threads; None for PyTorch's default.
    """

    device: torch.device
    quick: bool = False
    threads: int | None = None


def median_seconds(
    setting: Setting, *works: Callable[[], object], least: int = 3, most: int = 25, budget: float = 8.0
) -> list[float]:
    """Median seconds of each of `works`, which alternate in rounds after one warm-up call each.

    Rounds continue for `budget` seconds, but at least `least` and at most `most` times.
    """
    if setting.quick:
        least, budget = min(least, 2), budget / 8
    for work in works:
        _seconds(work, setting.device)
    rounds: list[list[float]] = []
    begun = time.perf_counter()
    while len(rounds) < least or (time.perf_counter() - begun < budget and len(rounds) < most):
        rounds.append([_seconds(work, setting.device) for work in works])
    return [statistics.median(seconds) for seconds in zip(*rounds, strict=True)]


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    begun = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun


def matrix_rate(setting: Setting) -> float:
    """Floating-point operations per second of a float32 matrix product, the reference rate of this device."""
    a, out = torch.rand(SIDE, SIDE, device=setting.device), torch.empty(SIDE, SIDE, device=setting.device)
    (seconds,) = median_seconds(setting, lambda: torch.mm(a, a, out=out), least=5, budget=1.0)
    return 2 * SIDE**3 / seconds


def peak_gigabytes(device: torch.device) -> float:
    """Peak memory in 1e9 bytes: of tensors on a GPU; of the process on a CPU, including 0.5 GB of PyTorch code."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resident_gigabytes(resource.getrusage(resource.RUSAGE_SELF))


def resident_gigabytes(usage: resource.struct_rusage) -> float:
    """Peak memory of a process in 1e9 bytes."""
    return usage.ru_maxrss * (1 if platform.system() == "Darwin" else 1024) / 1e9  # Linux counts in KiB


def machine(setting: Setting) -> JsonObject:
    """The environment of the measurements. `load` covers the last minute and includes other processes."""
    info = Path("/proc/cpuinfo")
    name = re.search(r"model name\s*: (.*)", info.read_text()) if info.is_file() else None
    return {
        "device": torch.cuda.get_device_name(setting.device) if setting.device.type == "cuda" else "CPU",
        "cpu": name[1] if name else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": setting.threads or torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
