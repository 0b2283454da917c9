"""Runs of scripts, one after another or side by side, each done once: the finished are skipped, the others continue.

A job's mark, a JSON file, holds the configuration with which it was started and the time that it has taken; under the
same name another configuration is refused. Its output goes to a log, which is locked while the script runs, so that
no second one starts beside it, even where whoever started the first is gone.
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
    """What a job has taken, all its attempts together."""

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
    config: Config  # what the script makes of its arguments
    folder: Path  # of its mark and log
    needs: frozenset[str] = frozenset()  # names of the jobs whose results it reads

    @property
    def mark(self) -> Path:
        return self.folder / f"{self.name}.json"

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"


Running = tuple[Job, subprocess.Popen, float]  # and when it was started


# --- marks ------------------------------------------------------------------------------------------------------------


def read_mark(job: Job) -> tuple[Seconds, bool]:
    """What the job has taken, and whether it is finished; InputError where it was begun with another configuration."""
    if not job.mark.is_file():
        return Seconds(), False
    try:
        mark = json.loads(job.mark.read_text(encoding="utf-8"))
        before, seconds, finished = Config.from_dict(mark["config"]), Seconds(**mark["seconds"]), mark["finished"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{job.mark}: is damaged ({error!r}); without it {job.name} is run again") from None
    changed = diff(before.to_dict(), job.config.to_dict())
    if changed:
        option, (old, new) = next(iter(changed.items()))
        others = f" ({len(changed) - 1} other options differ too)" if len(changed) > 1 else ""
        raise InputError(
            f"{job.mark}: started with --{option} {old}, not {new}{others}; remove the results of the earlier run, or "
            "choose another folder for these"
        )
    return seconds, finished


def write_mark(job: Job, seconds: Seconds, *, finished: bool) -> None:
    write_json(job.mark, {"finished": finished, "seconds": vars(seconds), "config": job.config.to_dict()})


# --- running ----------------------------------------------------------------------------------------------------------


def run(jobs: Sequence[Job], *, at_once: int) -> Generator[tuple[Job, Seconds, bool], None, None]:
    """Run the jobs, in their order as far as each has what it needs; yields (job, its time, whether it ran just now).

    InputError where a job fails. However this ends, the scripts that still run are asked to save and stop.
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
                process = start(job)
                running[process.pid] = job, process, time.monotonic()
            job, seconds = wait(running)
            done.add(job.name)
            yield job, seconds, True
    finally:
        for _, process, _ in running.values():
            process.terminate()
        for _, process, _ in running.values():
            process.wait()


def start(job: Job) -> subprocess.Popen:
    job.mark.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-u", str(PROJECT / job.script), *job.arguments]
    with job.log.open("ab") as log:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the script inherits the lock with its output
        except BlockingIOError:
            raise InputError(f"{job.log}: a script is still writing it; wait for its end, or end it") from None
        write_mark(job, read_mark(job)[0], finished=False)
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)


def wait(running: dict[int, Running]) -> tuple[Job, Seconds]:
    """Wait for one of the scripts, take it off the list and note its time; InputError where it has failed."""
    pid, status, usage = os.wait3(0)
    job, process, begun = running.pop(pid)
    process.returncode = os.waitstatus_to_exitcode(status)  # it has been waited for
    seconds = read_mark(job)[0] + Seconds(time.monotonic() - begun, usage.ru_utime + usage.ru_stime)
    write_mark(job, seconds, finished=process.returncode == 0)
    if process.returncode:
        last = job.log.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
        raise InputError(f"{job.name} has failed: {last or f'exit status {process.returncode}'} (log: {job.log})")
    return job, seconds
