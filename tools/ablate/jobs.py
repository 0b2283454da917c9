"""Run scripts in sequence or in parallel, each once: finished jobs are skipped, stopped jobs resume.

A job's mark is a JSON file with its configuration and the time spent so far. A job with the same name but a different
configuration is refused. The output goes to a log, which is locked while the script runs, so that no second one starts,
even if the process that started the first is gone.
"""

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError
from common.files import write_json
from configs.schema import Config, diff

PROJECT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Seconds:
    """Time spent on a job, over all attempts."""

    wall: float = 0.0
    cpu: float = 0.0

    def __add__(self, other: "Seconds") -> "Seconds":
        return Seconds(self.wall + other.wall, self.cpu + other.cpu)


@dataclass(frozen=True, eq=False)
class Job:
    """One run of one script."""

    name: str
    script: str
    arguments: tuple[str, ...]
    config: Config  # resolved from the arguments
    folder: Path  # contains its mark and log
    needs: frozenset[str] = frozenset()  # names of the jobs whose results it reads

    @property
    def mark(self) -> Path:
        return self.folder / f"{self.name}.json"

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"


Running = tuple[Job, subprocess.Popen, float]  # with the start time


# --- marks ------------------------------------------------------------------------------------------------------------


def read_mark(job: Job) -> tuple[Seconds, bool]:
    """The time spent and whether the job is finished. Raises InputError if it has another configuration."""
    if not job.mark.is_file():
        return Seconds(), False
    try:
        mark = json.loads(job.mark.read_text(encoding="utf-8"))
        before, seconds, finished = Config.from_dict(mark["config"]), Seconds(**mark["seconds"]), mark["finished"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{job.mark}: is damaged ({error!r}); delete it to run {job.name} again") from None
    changed = diff(before.to_dict(), job.config.to_dict())
    if changed:
        option, (old, new) = next(iter(changed.items()))
        others = f" ({len(changed) - 1} other options also differ)" if len(changed) > 1 else ""
        raise InputError(
            f"{job.mark}: started with --{option} {old}, not {new}{others}; delete the earlier results, "
            "or choose another folder"
        )
    return seconds, finished


def write_mark(job: Job, seconds: Seconds, *, finished: bool) -> None:
    write_json(job.mark, {"finished": finished, "seconds": vars(seconds), "config": job.config.to_dict()})


# --- running ----------------------------------------------------------------------------------------------------------


def run(jobs: Sequence[Job], *, at_once: int) -> Generator[tuple[Job, Seconds, bool], None, None]:
    """Run the jobs in order, each once the jobs it needs are done; yields (job, its time, whether it ran just now).

    Raises InputError if a job fails. In any case, scripts that are still running are asked to save and stop.
    """
    done: set[str] = set()
    waiting: list[Job] = []
    for job in jobs:
        seconds, finished = read_mark(job)
        if finished:
            done.add(job.name)
            yield job, seconds, False
        else:
            waiting.append(job)
    running: dict[int, Running] = {}
    try:
        while waiting or running:
            for job in [job for job in waiting if job.needs <= done][: at_once - len(running)]:
                waiting.remove(job)
                process = start_process(job)
                running[process.pid] = job, process, time.monotonic()
            job, seconds = wait(running)
            done.add(job.name)
            yield job, seconds, True
    finally:
        for _, process, _ in running.values():
            process.terminate()
        for _, process, _ in running.values():
            process.wait()


def start_process(job: Job) -> subprocess.Popen:
    job.mark.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-u", str(PROJECT / job.script), *job.arguments]
    with job.log.open("ab") as log:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the script inherits the lock with its output
        except BlockingIOError:
            raise InputError(f"{job.log}: a script is still writing to it; wait for it, or stop it") from None
        write_mark(job, read_mark(job)[0], finished=False)
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)


def wait(running: dict[int, Running]) -> tuple[Job, Seconds]:
    """Wait for one of the scripts, remove it from `running` and record its time. Raises InputError if it failed."""
    pid, status, usage = os.wait3(0)
    job, process, begun = running.pop(pid)
    process.returncode = os.waitstatus_to_exitcode(status)  # it has been waited for
    seconds = read_mark(job)[0] + Seconds(time.monotonic() - begun, usage.ru_utime + usage.ru_stime)
    write_mark(job, seconds, finished=process.returncode == 0)
    if process.returncode:
        last = job.log.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
        raise InputError(f"{job.name} failed: {last or f'exit status {process.returncode}'} (log: {job.log})")
    return job, seconds
