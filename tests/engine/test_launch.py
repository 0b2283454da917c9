"""What a script's start prepares for the whole process."""

import subprocess
import sys
from pathlib import Path

import pytest

SMAPS = Path("/proc/self/smaps")
SCRIPT = """
import torch
from engine import launch
from configs.cli import Command, load
launch.set_up_process(Command(config=load("configs/demo.yaml"), gpus=(), eval_only=False, given=frozenset()))
tensor = torch.ones(64, 2**20)
print(sum("hg" in line.split() for line in open("/proc/self/smaps") if line.startswith("VmFlags:")))
"""


@pytest.mark.skipif(not SMAPS.is_file() or "VmFlags:" not in SMAPS.read_text(), reason="the system does not say")
@pytest.mark.parametrize("declined", [False, True])
def test_huge_pages_unless_declined(declined, monkeypatch):
    """Whether they were asked for ("hg" of a mapping): whether there are any depends on the machine's memory."""
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE", raising=False)
    if declined:
        monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert (int(done.stdout.split()[-1]) == 0) == declined
