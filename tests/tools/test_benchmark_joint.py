"""Benchmark rows of both streams: each trains the right streams and appears in the table."""

from dataclasses import replace

import pytest
import torch

from configs.schema import Model
from tools.benchmark import networks
from tools.benchmark import table as benchmark_table
from tools.benchmark.networks import Case
from tools.benchmark.rows import ROWS, row_names
from tools.benchmark.timing import Setting

CPU = torch.device("cpu")
JOINT = {name: row for name, row in ROWS.items() if isinstance(row.runs, Case) and row.runs.stream == "both"}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(networks, "MODEL", Model(variant="tiny"))
    monkeypatch.setattr(networks, "SIZE", 64)


@pytest.mark.parametrize("name", JOINT)
def test_a_row(name):
    case = replace(JOINT[name].runs, frames=4)
    net, batch = networks.network_and_batch(case, CPU)
    assert [batch[name].shape[2] for name in ("clip", "fine_clip")] == [4, 8]
    before = {name: p.clone() for name, p in net.named_parameters()}
    networks.training_step(case, net, batch)()
    streams = {name.partition(".")[0] for name, p in net.named_parameters() if not torch.equal(p, before[name])}
    assert streams == ({"coarse"} if case.fine_frozen else {"fine", "coarse"})
    assert net.coarse.backbone.stem.checkpoint_activations == case.checkpointed
    assert ("frozen" in name, "checkpointed" in name) == (case.fine_frozen, case.checkpointed)
    assert (case.least, case.most) == (1, 1)


def test_rows_are_measured_and_told():
    result = replace(JOINT["both_frozen"].runs, frames=4)(Setting(CPU))
    assert result["gigabytes"] > 0.05
    (line,) = benchmark_table.comparison({"both_frozen": result}, judged=True)
    assert line["work"] == "Both streams, train step, Fine stream frozen"
    assert line["ours"] == f"{result['seconds']:.2f} s, {result['gigabytes']:.2f} GB"
    assert len(JOINT) == 4
    assert JOINT.keys() <= set(row_names(Setting(CPU)))
    assert not JOINT.keys() & set(row_names(Setting(CPU, quick=True)))
