"""What a script's start prepares for the whole process."""

import subprocess
import sys
from pathlib import Path

import pytest

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
ON_REQUEST = HUGE_PAGES.exists() and "[madvise]" in HUGE_PAGES.read_text()
SCRIPT = """
import launch, torch
from configs.cli import Command, load
launch.start(Command(config=load("configs/demo.yaml"), gpus=(), eval_only=False, given=frozenset()))
tensor = torch.ones(64, 2**20)
print([line.split()[1] for line in open("/proc/self/smaps_rollup") if line.startswith("AnonHugePages")][0])
"""


@pytest.mark.skipif(not ON_REQUEST, reason="this machine has no huge pages on request")
@pytest.mark.parametrize("declined", [False, True])
def test_huge_pages_unless_declined(declined, monkeypatch):
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE", raising=False)
    if declined:
        monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    kilobytes = int(done.stdout.split()[-1])
    assert kilobytes < 100_000 if declined else kilobytes > 200_000
