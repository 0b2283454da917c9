"""tools.benchmark: rows run, units are correct, and tables show the measurements."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from configs.schema import Model
from datasets.frames import count_frames, frame_path, get_decoder, read_frames
from datasets.transforms import augmented_view, normalise, render
from eval.average_precision import average_precision
from models import cpu_kernels
from tools.benchmark import __main__ as benchmark
from tools.benchmark import data as benchmark_data
from tools.benchmark import networks as benchmark_networks
from tools.benchmark import table as benchmark_table
from tools.benchmark.networks import Case
from tools.benchmark.rows import CUDA, LINES, ROWS, length_row, row_names
from tools.benchmark.timing import Setting, matrix_rate, median_seconds

CPU = torch.device("cpu")
QUICK = Setting(CPU, quick=True)


@pytest.fixture(autouse=True)
def _same_threads_afterwards():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


# --- measurement ------------------------------------------------------------------------------------------------------


def test_works_take_turns_after_a_warm_up():
    calls = []
    seconds = median_seconds(QUICK, lambda: calls.append("a"), lambda: calls.append("b"), least=2, most=2)
    assert calls == ["a", "b"] * 3
    assert len(seconds) == 2
    assert max(seconds) < 0.1


@pytest.fixture
def tiny(monkeypatch):
    """The smallest networks on few pixels."""
    monkeypatch.setattr(benchmark_networks, "MODEL", Model(variant="tiny"))
    monkeypatch.setattr(benchmark_networks, "SIZE", 64)
    monkeypatch.setattr(benchmark_networks, "matrix_rate", lambda setting: 1e9)


QUICK_CASES = {name: row.runs for name, row in ROWS.items() if row.in_quick and isinstance(row.runs, Case)}


@pytest.mark.parametrize(("name", "case"), QUICK_CASES.items())
def test_every_row_of_the_networks(name, case, tiny):
    if case.compiled:
        pytest.skip("compiling takes minutes on a CPU")
    result = ROWS[name].runs(QUICK)
    assert (result["frames"], result["batch"]) == (16, case.batch)
    clip_share = case.batch * 16 / 64
    passes = 3 if "train" in name else 1
    per_clip = 19.0 if "fine" in name else 12.7
    assert result["floor_seconds"] == pytest.approx(2 * per_clip * passes * clip_share)  # at 1e9 operations per second
    assert result["times_floor"] == pytest.approx(result["seconds"] / result["floor_seconds"])
    assert result["gigabytes"] > 0.05
    assert "x floor" in ROWS[name].ours.format_map(result)


def test_the_units_multiply_adds():
    counted = ROWS["multiply_adds"].runs(QUICK)
    assert counted["fine"] == pytest.approx(benchmark_networks.MULTIPLY_ADDS["fine"], rel=1e-3)
    assert 0.5 * benchmark_networks.MULTIPLY_ADDS["coarse"] < counted["coarse"]
    assert counted["coarse"] < benchmark_networks.MULTIPLY_ADDS["coarse"]


@pytest.mark.parametrize("row", ["fine_eval", "coarse_train", "fine_eval_plain", "coarse_train_plain"])
def test_only_plain_networks_run_without_our_operations(row, tiny, monkeypatch):
    calls, forward = [], cpu_kernels.CpuConv3d.forward
    monkeypatch.setattr(cpu_kernels.CpuConv3d, "forward", lambda conv, x: calls.append(conv) or forward(conv, x))
    ROWS[row].runs(QUICK)
    assert (not calls) == row.endswith("plain")


def test_matrix_rate():
    assert 1e9 < matrix_rate(QUICK) < 1e14


# --- baselines compute the same results -------------------------------------------------------------------------------


def test_the_pil_path_gives_our_clip():
    with benchmark_data.jpeg_videos(1, 3) as root:
        assert count_frames(root, "v0") == 3
        size = np.mean([path.stat().st_size for path in root.rglob("*.jpg")])
        view = augmented_view(np.random.default_rng(0), 320, 240, 224)._replace(flip=True)
        ours = normalise(render(list(read_frames(root, "v0", [1, 2, 3], get_decoder())), view, 224)[None])
        beside = benchmark_data.pil_clip([frame_path(root, "v0", k) for k in (1, 2, 3)], view)
    assert 8e3 < size < 14e3  # as in Charades: 76 GB for 7.1 million frames
    assert ours.shape == beside.shape
    assert (ours - beside).abs().max() < 2.01 / 255 / 0.125  # decoders may differ by a grey level or two


def test_argsort_gives_our_average_precision():
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 20, (300, 5)).astype(np.float32), rng.random((300, 5)) < 0.2
    np.testing.assert_allclose(benchmark_data.ap_by_argsort(scores, labels), average_precision(scores, labels))


# --- the tables -------------------------------------------------------------------------------------------------------


def made_up(row, **values):
    return {row: {"seconds": 1.0, "times_floor": 4.0, "gigabytes": 2.0, "frames": 64, "batch": 1, **values}}


def test_rows_are_named_by_what_they_run():
    for name, row in ROWS.items():
        if isinstance(row.runs, Case):
            stream, work, *options = name.split("_")
            if stream != "both":
                assert (row.runs.stream, row.runs.training) == (stream, work == "train")
                assert row.runs.plain == ("plain" in options)
                assert (row.runs.bf16, row.runs.compiled) == ("bf16" in options, "compiled" in options)
            assert row.runs.checkpointed == ("checkpointed" in options)
    assert {"fine_train_plain", "fine_train_bf16_compiled", "coarse_train_64", "coarse_eval_512"} <= ROWS.keys()
    assert "fine_train_64" not in ROWS  # one clip of 64 frames is fine_train
    assert CUDA.keys() <= set(row_names(Setting(torch.device("cuda", 0), quick=True)))
    assert not CUDA.keys() & set(row_names(QUICK))
    assert all(row.work for row in (LINES | CUDA).values())
    assert all("both" not in name and "16" not in name.split("_") for name in row_names(QUICK))


def test_limits():
    (line,) = benchmark_table.comparison(made_up("fine_train", times_floor=9.0, gigabytes=4.7), judged=True)
    assert line["met"] == "yes"
    assert line["limit"] == "<= 10x floor, <= 4.8 GB"
    (line,) = benchmark_table.comparison(made_up("fine_train", times_floor=9.0, gigabytes=4.9), judged=True)
    assert line["met"] == "no: <= 4.8 GB"
    (line,) = benchmark_table.comparison(made_up("fine_train"), judged=False)
    assert line["met"] == "not judged"
    (line,) = benchmark_table.comparison({"fine_train": {"failed": "failed: out of memory"}}, judged=True)
    assert (line["ours"], line["met"]) == ("failed: out of memory", "no")


def test_what_was_measured_stands_beside():
    results = made_up("fine_eval", times_floor=3.14) | made_up("fine_eval_plain", times_floor=17.0)
    (line,) = benchmark_table.comparison(results, judged=True)
    assert line["ours"].startswith("3.1x floor")
    assert line["baseline"].startswith("17.0x floor")
    assert list(line) == ["work", "baseline", "ours", "limit", "met"]  # as in docs/performance.md


def test_growth_of_a_straight_line():
    results = {}
    for T in (16, 32, 64):
        row = length_row("fine_train", T)
        results |= made_up(row, seconds=0.5 + 0.01 * T, gigabytes=1 + 0.05 * T)
    (line,) = benchmark_table.growth(results)
    assert line["T"] == "16 32 64"
    assert (line["ms per frame"], line["MB per frame"]) == ("10.0", "50.0")
    assert line["last doubling"] == "time x1.39, memory x1.62"


def test_loader_workers():
    results = {"loader_worker": {"seconds": 0.05, "frames": 32}} | made_up("coarse_train", seconds=0.4, batch=2)
    table = benchmark_table.loader_workers(results, (0.25, 8))
    assert [(line["step"], line["workers"]) for line in table] == [
        ("published log, 5 GPUs", "1"),  # 15 clips of 0.1 s in 1.6 s
        ("Coarse, train step, here", "1"),
        ("entered", "4"),  # 8 clips of 0.1 s in 0.25 s
    ]


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ["average_precision", "feature_store", "loading", "loader_worker"])
def test_one_row(row, tmp_path, capsys):
    assert benchmark.main(["--only", row, "--quick", "--json", str(tmp_path / "b.json"), "-gpu", "cpu"]) == 0
    written = json.loads((tmp_path / "b.json").read_text())
    assert written["quick"]
    assert written["machine"]["torch"] == torch.__version__
    assert set(written["rows"]) == {row}
    assert min(written["rows"][row].values()) > 0
    title = "Loader workers needed to keep up with training" if row == "loader_worker" else "One run"
    assert title in capsys.readouterr().out


def test_rows_in_processes_of_their_own_and_failed_ones(capsys):
    results = benchmark.measure_all(["average_precision", "no_such_row"], Setting(CPU, quick=True, threads=1))
    assert results["average_precision"]["seconds"] > 0
    assert results["no_such_row"] == {"failed": "failed: KeyError: 'no_such_row'"}
    assert len(capsys.readouterr().out.splitlines()) == 2


ONE_ROW = """
import runpy
from tools.benchmark import rows
rows.row_names = lambda setting: ["average_precision"]
runpy.run_module("tools.benchmark", run_name="__main__", alter_sys=True)
"""


def test_the_command_measures_in_processes_of_their_own():
    """Run as a user would: spawned processes cannot import what `python -m` runs as __main__."""
    command = [sys.executable, "-c", ONE_ROW, "--quick", "-gpu", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "] average_precision: seconds " in done.stdout


def killed(name, setting):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_row_whose_process_is_killed(monkeypatch):
    monkeypatch.setattr(benchmark, "measure", killed)
    results = benchmark.measure_all(["fine_eval"], QUICK)
    assert results["fine_eval"]["failed"].startswith("failed: BrokenProcessPool: ")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--only", "fine_trian"], "fine_train"),
        (["--only", "fine_train_bf16", "-gpu", "cpu"], "--only fine_train_bf16: choose one of"),
        (["-gpu", "99"], "CUDA devices"),
        (["-gpu", "x"], "CUDA devices"),
        (["--threads", "0"], "--threads: '0' is not a whole number of at least 1"),
        (["--step_seconds", "nan"], "--step_seconds: 'nan' is not a number greater than 0"),
        (["--json", __file__ + "/x.json"], "not writable"),
    ],
)
def test_wrong_options_are_refused(argv, message, capsys):
    with pytest.raises(SystemExit) as end:
        benchmark.main(argv)
    assert end.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
