"""What processes share, without processes: statistics as groups, parts of a batch, and who speaks.

That two processes equal one is shown in tests/faults/test_processes.py.
"""

import pytest
import torch
from torch import nn

from engine import distributed
from engine.step import parts_of
from models.norm import SubBatchNorm3d


def test_gathered_statistics_are_interleaved_groups(monkeypatch):
    """Group g of process r is group r + size g; and the way back."""
    norm = nn.Sequential(SubBatchNorm3d(3, splits=2))
    means, names = (
        [torch.arange(6.0) + 100 * rank for rank in range(2)],
        ("0.running_mean", "0.running_var"),
    )
    shares = [dict(zip(names, (mean, mean + 6), strict=True)) for mean in means]
    monkeypatch.setattr(distributed, "size", lambda: 2)
    monkeypatch.setattr(distributed, "gather", lambda mine: [share for share in shares if share.keys() == mine.keys()])
    state = distributed.gathered_state(norm)
    assert state["0.running_mean"].tolist() == [0, 1, 2, 100, 101, 102, 3, 4, 5, 103, 104, 105]
    for rank in range(2):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        share = distributed.own_share(state, norm)
        assert share["0.running_mean"].tolist() == shares[rank]["0.running_mean"].tolist()
        assert share["0.running_var"].tolist() == shares[rank]["0.running_var"].tolist()


@pytest.mark.parametrize(("samples", "parts", "sizes"), [(6, 2, [3, 3]), (6, 4, [2, 2, 1, 1]), (2, 3, [1, 1])])
def test_parts_are_interleaved_samples(samples, parts, sizes):
    batch = {"videos": list(range(samples)), "clip": torch.arange(samples), "more": {"x": torch.arange(samples)}}
    found = list(parts_of(batch, parts))
    assert [len(part["videos"]) for part, _, _ in found] == sizes
    assert [share for _, share, _ in found] == [size / samples for size in sizes]
    assert [last for _, _, last in found] == [False] * (len(sizes) - 1) + [True]
    for number, (part, _, _) in enumerate(found):
        assert part["videos"] == part["clip"].tolist() == part["more"]["x"].tolist()
        assert part["videos"] == list(range(number, samples, len(sizes)))


def test_one_process_is_the_main_one_and_shares_with_itself():
    assert (distributed.rank(), distributed.size(), distributed.is_main(), distributed.joined()) == (0, 1, True, False)
    assert distributed.gather("a") == distributed.collect("a") == ["a"]
    assert distributed.highest(3, 1) == [3, 1]
    assert distributed.mean(torch.tensor(2.0)) == 2
    assert distributed.claim_last_word()
    norm = nn.Sequential(SubBatchNorm3d(3))
    assert distributed.gathered_state(norm).keys() == norm.state_dict().keys()
    distributed.barrier()


def test_a_lost_connection_is_told_by_its_type(monkeypatch):
    lost = [
        torch.distributed.DistNetworkError("Connection reset"),
        torch.distributed.DistBackendError("remote process exited"),
        RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer"),  # Gloo has no type of its own
    ]
    others = [RuntimeError("size mismatch"), ValueError("gloo")]
    assert not any(map(distributed.is_lost_connection, lost)), "of a process alone"
    monkeypatch.setattr(distributed, "size", lambda: 2)
    assert all(map(distributed.is_lost_connection, lost))
    assert not any(map(distributed.is_lost_connection, others))
