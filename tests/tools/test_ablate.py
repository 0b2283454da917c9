"""tools.ablate: a fair plan, scripts that run once and resume, and statistics checked by a second method."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from common.errors import InputError
from configs.cli import load
from configs.schema import Config, diff
from datasets.assembly import read_truth
from datasets.demo import __main__ as demo
from datasets.demo.scene import BURSTS, CLASSES
from eval.bootstrap import Sampled
from eval.charades_localize import frame_labels, read_ground_truth
from tools.ablate import __main__ as ablate
from tools.ablate import jobs as ablate_jobs
from tools.ablate import scores as ablate_scores
from tools.ablate import table as ablate_table
from tools.ablate.jobs import Job, Seconds

PROJECT = Path(__file__).resolve().parents[2]
CONFIG = PROJECT / "configs" / "demo_ablation.yaml"


# --- the plan ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def jobs():
    args = ablate._parse([str(CONFIG)])
    return [job for seed in range(2) for job in ablate.plan(args, Path("results"), seed)]


def test_variants_differ_in_the_model_alone(jobs):
    """Same seed, data, steps, initial weights and features: a delta may change only the model."""
    for seed in range(2):
        configs = {job.name.partition("/")[2]: job.config for job in jobs if job.name.startswith(f"seed{seed}/")}
        reference = configs[ablate.REFERENCE]
        for variant in ablate.VARIANTS:
            changed = diff(reference.to_dict(), configs[variant].to_dict())
            assert {name for name in changed if not name.startswith("model.")} <= {"run.dir", "run.name"}
            assert (variant == ablate.REFERENCE) == (not any(name.startswith("model.") for name in changed))
        assert reference.run.seed == seed
        assert Path(reference.coarse.init) == configs["fine"].features_checkpoint
        assert reference.features_dir == configs["features"].features_dir == Path(f"results/seed{seed}/features")


def test_stages_follow_one_another(jobs):
    seen = set()
    for job in jobs:
        assert job.needs <= seen
        seen.add(job.name)
    assert len(jobs) == len(seen) == 2 * (2 + len(ablate.VARIANTS))


def test_the_dataset_has_the_clips_that_the_experiment_cuts():
    assert load(CONFIG).data.clip_span == BURSTS.clip_span


# --- jobs -------------------------------------------------------------------------------------------------------------

RECORD = """import pathlib, sys
folder = pathlib.Path(sys.argv[1])
(folder / "order").open("a").write(sys.argv[2] + " ")
if (folder / ("broken " + sys.argv[2])).exists():
    print("a long story")
    sys.exit("script.py: error: no bread")
"""


@pytest.fixture
def make_job(tmp_path, monkeypatch):
    """Jobs of a script that records each run and fails if a file tells it to."""
    monkeypatch.setattr(ablate_jobs, "PROJECT", tmp_path)
    (tmp_path / "script.py").write_text(RECORD)

    def make(name: str, *needs: str, config: Config | None = None) -> Job:
        arguments = (str(tmp_path), name)
        return Job(name, "script.py", arguments, config or Config(), tmp_path / "jobs", frozenset(needs))

    return make


def ran(folder: Path) -> str:
    return (folder / "order").read_text()


def names(results) -> list[tuple[str, bool]]:
    return [(job.name, just_now) for job, _, just_now in results]


def test_jobs_run_once_in_order(make_job, tmp_path):
    jobs = [make_job("c", "b"), make_job("b", "a"), make_job("a")]
    assert names(ablate_jobs.run(jobs, at_once=2)) == [("a", True), ("b", True), ("c", True)]
    assert names(ablate_jobs.run(jobs, at_once=2)) == [("c", False), ("b", False), ("a", False)]
    assert ran(tmp_path) == "a b c "


def test_a_failure_is_one_line_and_continues_where_it_was(make_job, tmp_path):
    jobs = [make_job("a"), make_job("b"), make_job("c")]
    (tmp_path / "broken b").touch()
    with pytest.raises(InputError, match=r"^b failed: script.py: error: no bread \(log: .*b.log\)$"):
        list(ablate_jobs.run(jobs, at_once=1))
    (tmp_path / "broken b").unlink()
    before = ablate_jobs.read_mark(jobs[1])[0]
    assert names(ablate_jobs.run(jobs, at_once=1)) == [("a", False), ("b", True), ("c", True)]
    assert ran(tmp_path) == "a b b c "
    after, finished = ablate_jobs.read_mark(jobs[1])
    assert finished
    assert after.cpu > before.cpu > 0


def test_another_configuration_is_refused(make_job):
    changed = Config()
    changed.coarse.epochs = 7
    list(ablate_jobs.run([make_job("a")], at_once=1))
    with pytest.raises(InputError, match=r"a.json: started with --coarse.epochs 200, not 7; delete the earlier"):
        list(ablate_jobs.run([make_job("a", config=changed)], at_once=1))


def test_a_damaged_mark_is_named(make_job, tmp_path):
    job = make_job("a")
    job.mark.parent.mkdir()
    job.mark.write_text('{"finished"')
    with pytest.raises(InputError, match=r"a.json: is damaged .*; delete it to run a again"):
        list(ablate_jobs.run([job], at_once=1))


def test_a_script_that_still_runs_is_not_started_again(make_job, tmp_path):
    """The parent is gone, as after kill -9, but the script and the lock on its log remain."""
    (tmp_path / "script.py").write_text("import sys\nprint('here', flush=True)\nsys.stdin.read()")
    job = make_job("a")
    job.folder.mkdir()
    starter = (
        f"import fcntl, subprocess, sys; log = open({str(job.log)!r}, 'ab'); fcntl.flock(log, fcntl.LOCK_EX); "
        f"subprocess.Popen([sys.executable, {str(tmp_path / 'script.py')!r}], stdout=log)"
    )
    orphan = subprocess.Popen([sys.executable, "-c", starter], stdin=subprocess.PIPE)
    try:
        assert orphan.wait() == 0
        with pytest.raises(InputError, match=r"a.log: a script is still writing to it"):
            list(ablate_jobs.run([job], at_once=1))
    finally:
        orphan.stdin.close()


def test_leaving_early_stops_what_runs(make_job, tmp_path):
    (tmp_path / "script.py").write_text(
        "import pathlib, sys, time\n"
        "if sys.argv[2] == 'quick': sys.exit('script.py: error: no')\n"
        "time.sleep(20)\n"
        "pathlib.Path(sys.argv[1], 'not stopped').touch()\n"
    )
    with pytest.raises(InputError, match="quick failed"):
        list(ablate_jobs.run([make_job("slow"), make_job("quick")], at_once=2))
    assert not (tmp_path / "not stopped").exists()
    assert ablate_jobs.read_mark(make_job("slow")) == (Seconds(), False)


# --- the table --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, list[Config]]:
    """Two variants with three seeds: one predicts the truth, the other the truth with noise."""
    folder = tmp_path_factory.mktemp("ablation")
    scenes = [demo.draw_scene(0, index, BURSTS) for index in range(24)]
    for name, text in demo.text_files(scenes, 0, "bursts").items():
        (folder / name).write_text(text)
    truth = read_ground_truth(folder / "ground_truth.csv", len(CLASSES))
    variants = {"coarse_fine": [], "x3d": []}
    for variant, configs in variants.items():
        for seed in range(3):
            config = load(CONFIG)
            config.data.ground_truth = str(folder / "ground_truth.csv")
            config.data.annotations = str(folder / "annotations.json")
            config.run.seed, config.run.dir = seed, str(folder / f"seed{seed}" / variant)
            if variant == "x3d":
                config.model.pool = config.model.fusion = "none"
            write_predictions(config, truth, noise=0.0 if variant == "coarse_fine" else 2.0)
            configs.append(config)
    return variants


def write_predictions(config: Config, truth, *, noise: float) -> None:
    rng = np.random.default_rng(config.run.seed)
    lines = []
    for video, known in truth.items():
        labels = frame_labels(*known, len(CLASSES))
        for frame, scores in enumerate(labels + noise * rng.random(labels.shape), start=1):
            lines.append(f"{video} {frame} {' '.join(f'{score:.6g}' for score in scores)}\n")
    path = config.run_dir / "coarse" / "predictions" / "official.txt"
    path.parent.mkdir(parents=True)
    path.write_text("".join(lines))


@pytest.fixture(scope="module")
def table(results) -> list[ablate_scores.Row]:
    truth = read_truth(results["x3d"][0])
    return list(ablate_scores.rows(results, truth, dict.fromkeys(results, Seconds(2.0, 1.0))))


def test_scores_and_their_intervals(table):
    perfect, noisy = table
    assert perfect.by_seed == [100, 100, 100]
    assert perfect.score.over_seeds == perfect.score.over_videos == (100, 100)
    assert noisy.score.mean == pytest.approx(np.mean(noisy.by_seed))
    assert len(set(noisy.by_seed)) == 3
    assert noisy.score.over_videos[0] < noisy.score.mean < noisy.score.over_videos[1]
    assert noisy.minus_reference.mean == pytest.approx(noisy.score.mean - 100)
    assert noisy.minus_reference.over_videos[1] < 0
    assert perfect.minus_reference is None
    groups = 4 * noisy.groups["context"].mean + 10 * noisy.groups["others"].mean
    assert groups / 14 == pytest.approx(noisy.score.mean)


def test_difference_is_paired_by_seed():
    """A shift common to both variants of a seed does not change the difference."""
    shifts = np.array([0.1, 0.4, 0.2])
    base = [Sampled(np.full(2, s), np.full((5, 2), s)) for s in shifts]
    better = [Sampled(s.value + 0.05, s.resamples + 0.05) for s in base]
    difference = ablate_scores.estimate(better, [0, 1], base)
    np.testing.assert_allclose([difference.mean, *difference.over_seeds, *difference.over_videos], 5)


def test_interval_is_students():
    rng = np.random.default_rng(0)
    for n in (2, 3, 10):
        values = rng.normal(size=n)
        expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        np.testing.assert_allclose(ablate_scores.t_interval(values), expected)
    assert ablate_scores.t_interval(np.array([3.0])) is None


def test_cost_includes_the_fine_stream_where_it_is_read(table):
    fused, alone = table
    assert alone.parameters == 64_966
    assert fused.multiply_adds > alone.multiply_adds > 0


def test_files(results, tmp_path):
    seconds = dict.fromkeys(results, Seconds(2.0, 1.0))
    ablate_table.write(tmp_path / "new.v1", results, seconds, command="python -m tools.ablate here", cpu_seconds=180.0)
    assert {path.name for path in tmp_path.iterdir()} == {f"new.v1{suffix}" for suffix in ablate_table.SUFFIXES}
    contents = json.loads((tmp_path / "new.v1.json").read_text())
    assert [row["variant"] for row in contents["rows"]] == list(results)
    assert contents["chance"] < 10
    markdown = (tmp_path / "new.v1.md").read_text()
    assert "python -m tools.ablate here" in markdown
    assert "| X3D | none, none |" in markdown
    assert "3 minutes of CPU time in total" in markdown
    assert "| Coarse-Fine | grid, multistage, gaussian 0.125 |" in markdown
    assert len((tmp_path / "new.v1.csv").read_text().splitlines()) == 1 + 2 * 3
    assert (tmp_path / "new.v1.png").read_bytes().startswith(b"\x89PNG")


def test_points_of_equal_cost_stand_side_by_side():
    assert ablate_table.places([1, 1, 1]) == pytest.approx([1, 1.025, 1.05])
    assert ablate_table.places([2, 0.5, 1]) == [2, 0.5, 1]


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--variants", "magic"], "invalid choice: 'magic' (choose from 'coarse_fine', 'avg'"),
        (["--variants", "x3d", "x3d"], "x3d is given twice"),
        (["--seeds", "0"], "at least 1"),
        (["--jobs", "two"], "at least 1"),
    ],
)
def test_wrong_options(capsys, arguments, word):
    with pytest.raises(SystemExit) as exit_:
        ablate.main([str(CONFIG), *arguments])
    assert exit_.value.code == 2
    assert word in capsys.readouterr().err


def test_a_configuration_that_is_not_there(capsys, tmp_path):
    with pytest.raises(SystemExit) as exit_:
        ablate.main([str(tmp_path / "none.yaml")])
    assert exit_.value.code == 2
    assert capsys.readouterr().err.startswith("ablate: error: cannot read the configuration file")


def test_a_script_that_fails(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(ablate_jobs, "PROJECT", tmp_path)
    (tmp_path / "train_fine.py").write_text("import sys\nsys.exit('train_fine.py: error: nothing there')")
    delta = tmp_path / "delta.yaml"
    delta.write_text(f"run.dir: {tmp_path / 'results'}\n")
    assert ablate.main([str(CONFIG), str(delta), "--seeds", "1", "--variants", "x3d"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("ablate: error: seed0/fine failed: train_fine.py: error: nothing there (log: ")
    assert error.count("\n") == 1
