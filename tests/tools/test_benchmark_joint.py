"""The benchmark's rows of both streams: each trains what it says, and stands in the table."""

import pytest
import torch

from tools.benchmark import __main__ as benchmark
from tools.benchmark import joint as benchmark_joint
from tools.benchmark import table as benchmark_table
from tools.benchmark.timing import Setting

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    for name, value in {"VARIANT": "tiny", "SIZE": 64, "FRAMES": 4}.items():
        monkeypatch.setattr(benchmark_joint, name, value)


@pytest.mark.parametrize("row", benchmark_joint.ROWS)
def test_a_row(row):
    case = benchmark_joint.ROWS[row]
    step = benchmark_joint.Step(case, CPU, frames=4)
    assert [x.shape[2] for x in step.inputs[:2]] == [4, 8]
    before = {name: p.clone() for name, p in step.net.named_parameters()}
    step()
    streams = {name.partition(".")[0] for name, p in step.net.named_parameters() if not torch.equal(p, before[name])}
    assert streams == ({"coarse"} if case.fine_frozen else {"fine", "coarse"})
    assert step.net.coarse.backbone.stages[0].checkpoint_activations == case.checkpointed
    assert ("frozen" in row, "checkpointed" in row) == (case.fine_frozen, case.checkpointed)


def test_rows_are_measured_and_told():
    result = benchmark.measure("both_frozen", Setting(CPU))
    assert result["gigabytes"] > 0.05
    (line,) = benchmark_table.comparison({"both_frozen": result}, judged=True)
    assert line["work"] == "Both streams, train step, Fine stream frozen"
    assert line["ours"] == f"{result['seconds']:.2f} s, {result['gigabytes']:.2f} GB"
    assert set(benchmark_joint.ROWS) <= set(benchmark.row_names(quick=False))
    assert not set(benchmark_joint.ROWS) & set(benchmark.row_names(quick=True))
