"""Real processes that run the scripts, and what can be done to them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
SECONDS = 120.0  # after which a run counts as hanging


@dataclass
class Started:
    """One run, of one or several processes."""

    zygote: "Zygote"
    pids: list[int]
    output: Path

    def send(self, number: int, *, to: int = 0, group: bool = False) -> None:
        """A signal to one process, or to it and its loader's workers as from a terminal."""
        (os.killpg if group else os.kill)(self.pids[to], number)

    def see(self, words: str) -> None:
        """Wait until it has said this."""
        end = time.monotonic() + SECONDS
        while words not in self.text():
            assert time.monotonic() < end, f"never said {words!r}: {self.text()}"
            time.sleep(0.01)

    def text(self) -> str:
        return self.output.read_text() if self.output.exists() else ""

    def wait(self) -> list[int]:
        """Exit statuses by rank; a process that hangs fails the test."""
        statuses = [self.zygote.ask({"wait": pid, "seconds": SECONDS}) for pid in self.pids]
        for pid, status in zip(self.pids, statuses, strict=True):
            if status is None:
                os.kill(pid, signal.SIGKILL)
        assert None not in statuses, f"hangs: {self.text()}"
        return statuses


class Zygote:
    """See zygote.py."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("zygote.py")), str(PROJECT)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def ask(self, order: dict) -> object:
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(self, script: str, *options: object, output: Path, processes: int = 1, fault: dict | None = None,
              fault_in: int = 0) -> Started:  # fmt: skip
        argv = ["-gpu", "cpu", *map(str, options)]
        pids = []
        port = free_port() if processes > 1 else 0
        for rank in range(processes):
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_PORT": port}
            env = {k: str(v) for k, v in place.items()} | {"MASTER_ADDR": "127.0.0.1"} if processes > 1 else {}
            mine = fault if rank == fault_in else None
            order = {"start": script, "argv": argv, "env": env, "fault": mine, "output": str(output)}
            pids.append(self.ask(order))
        return Started(self, pids, output)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    zygote = Zygote()
    yield zygote
    zygote.process.kill()  # closing its input may not reach it: loader workers forked from here hold it open too
    zygote.process.wait()


@pytest.fixture
def start(zygote, tiny_dataset, tmp_path):
    """start(script, option, value, ..., folder=, processes=, fault=) -> Started."""

    def run(script: str, *options: object, folder: Path = tmp_path, **how: object) -> Started:
        folder.mkdir(exist_ok=True, parents=True)
        number = len(list(folder.parent.glob(f"{folder.name}.*.log")))
        output = folder.parent / f"{folder.name}.{number}.log"
        common = "--config", tiny_dataset / "tiny.yaml", "--run.dir", folder
        return zygote.start(script, *common, *options, output=output, **how)

    return run


@pytest.fixture
def finish(start):
    """finish(...): as `start`, to its end, which must be a good one; returns what it said."""

    def run(script: str, *options: object, **how: object) -> str:
        started = start(script, *options, **how)
        statuses = started.wait()
        assert set(statuses) == {0}, started.text()
        return started.text()

    return run


@pytest.fixture
def stopped(start):
    """stopped(status, ...): as `start`, to an end with this status; returns the one line in which it says why."""

    def run(status: int, script: str, *options: object, **how: object) -> str:
        started = start(script, *options, **how)
        statuses = started.wait()
        assert set(statuses) == {status}, (statuses, started.text())
        lines = [line for line in started.text().splitlines() if line.startswith(f"{script}.py: ")]
        assert len(lines) == 1, started.text()
        assert "Traceback" not in started.text()
        return lines[0]

    return run
