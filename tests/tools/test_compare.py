"""tools.compare: numbers against the rules' own, output files, and invalid input."""

import csv
import json

import numpy as np
import pytest

from datasets.frames import frame_path
from eval import charades_localize, dense, video_level
from eval.average_precision import average_precision
from eval.bootstrap import draw_counts
from eval.charades_localize import Truth, read_predictions
from eval.detection import DetectionEvaluator
from eval.per_frame import frame_ap, released_frames
from eval.submission import write_predictions
from tools.compare import __main__ as compare

C, STRIDE = 4, 10
NAMES = ["walking", "sitting $x_1$", "eating, slowly", "sneezing"]
FRAMES = {f"V{k}": n for k, n in enumerate((300, 170, 24, 411, 163, 250))}


def truth_of(classes=C):
    rng = np.random.default_rng(0)
    truth = {}
    for number, (video, n) in enumerate(FRAMES.items()):
        ends = np.sort(rng.random((3, 2)) * n / 24, axis=1).tolist()
        truth[video] = Truth([((number + k) % classes, *ends[k]) for k in range(3)], n / 24)
    return truth


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Ground truth in both formats, frames, class names, and two stage folders, `a` and `b`."""
    folder = tmp_path_factory.mktemp("compare")
    write_csv(folder / "truth.csv", truth_of())
    json_form = {
        video: {"subset": "testing", "duration": length, "actions": [[c + 1, *times] for c, *times in actions]}
        for video, (actions, length) in truth_of().items()
    }
    json_form["T0"] = {"subset": "training", "duration": 9.0, "actions": [[1, 0.0, 1.0]]}
    (folder / "truth.json").write_text(json.dumps(json_form))
    (folder / "names.txt").write_text("\n".join(NAMES))
    write_frames(folder / "frames", FRAMES)
    for stage, seed in (("a", 1), ("b", 2)):
        (folder / stage / "metrics.json").parent.mkdir()
        (folder / stage / "metrics.json").write_text(json.dumps(evaluated(seed).finish(folder / stage)))
    return folder


def write_frames(folder, lengths):
    """Write empty files, since only their number matters."""
    for video, n in lengths.items():
        (folder / video).mkdir(parents=True)
        for k in range(1, n + 1):
            frame_path(folder, video, k).touch()


def write_csv(path, truth):
    lines = [
        f"{video},{';'.join(f'c{c:03d} {start!r} {end!r}' for c, start, end in actions)},{length!r}"
        for video, (actions, length) in truth.items()
    ]
    path.write_text("\n".join(["id,actions,length", *lines]) + "\n")


def evaluated(seed):
    rng = np.random.default_rng(seed)
    evaluator = DetectionEvaluator(num_classes=C, truth=truth_of(), all_frames=True, save_frames=True)
    for video, n in FRAMES.items():
        actions, length = truth_of()[video]
        L = n // STRIDE * STRIDE
        labels = dense.step_labels(actions, np.arange(L) * length / n, C)
        evaluator.add(video, rng.random((L, C)) + 0.3 * labels, labels, num_frames=n)
    return evaluator


def run(data, *arguments, truth="truth.csv"):
    return compare.main([*map(str, arguments), "--ground_truth", str(data / truth), "--resamples", "50"])


def result(data, tmp_path, *arguments, truth="truth.csv"):
    """The JSON of a comparison: (rules of the files by path, differences, all of it)."""
    assert run(data, *arguments, "--json", tmp_path / "out.json", truth=truth) == 0
    written = json.loads((tmp_path / "out.json").read_text())
    return {file["path"]: file["rules"] for file in written["predictions"]}, written["differences"], written


def test_scores_of_stages_are_those_of_the_rules_and_of_their_metrics(data, tmp_path):
    files, _, written = result(data, tmp_path, data / "a", data / "b", "--frames", data / "frames")
    truth = truth_of()
    for stage in ("a", "b"):
        metrics = json.loads((data / stage / "metrics.json").read_text())
        rules = files[str(data / stage)]
        assert list(rules) == ["official", "video level", "released", "dense"]
        assert rules["official"]["mAP"]["value"] == pytest.approx(metrics["mAP_official"], abs=1e-15)
        assert rules["official"]["wAP"]["value"] == pytest.approx(metrics["wAP_official"], abs=1e-15)
        assert rules["official"]["AP"]["value"] == metrics["AP_official"]
        assert rules["released"]["mAP"]["value"] == pytest.approx(metrics["mAP_released"], abs=1e-15)
        assert rules["released"]["AP"]["value"] == metrics["AP_released"]
        assert {name: rule["videos"] for name, rule in rules.items()} == {
            "official": 6, "video level": 6, "released": 5, "dense": 6,
        }  # fmt: skip
        predictions = read_predictions(data / stage / "predictions/official.txt")
        by_video = average_precision(*video_level.rows(predictions, truth, C)).mean()
        assert rules["video level"]["mAP"]["value"] == pytest.approx(by_video, abs=1e-15)
        for rule in rules.values():
            assert rule["mAP"]["low"] < rule["mAP"]["high"]
            assert (np.array(rule["AP"]["low"]) <= np.array(rule["AP"]["high"])).all()
    assert (written["resamples"], written["seed"], written["videos"], written["level"]) == (50, 0, 6, 0.95)


def test_intervals_are_of_really_repeated_videos(data, tmp_path):
    """Means and differences, by applying the official rule to every resample."""
    files, (difference,), _ = result(data, tmp_path, data / "a", data / "b")
    truth = truth_of()
    scores = {}
    for stage in ("a", "b"):
        predictions = read_predictions(data / stage / "predictions/official.txt")
        scores[stage] = []
        for drawn in draw_counts(len(FRAMES), 50, seed=0).T:
            copies = [(v, f"{v}#{k}") for v, n in zip(truth, drawn, strict=True) for k in range(int(n))]
            copied = {name: predictions[v] for v, name in copies}
            scored = charades_localize.localize(copied, {name: truth[v] for v, name in copies}, C)
            positives = sum(charades_localize.frame_labels(*truth[v], C).sum(0) for v, _ in copies)
            scores[stage].append((scored.mAP_defined, np.nansum(scored.AP * positives) / positives.sum()))
        for column, name in enumerate(("mAP", "wAP")):
            assert_interval(files[str(data / stage)]["official"][name], np.array(scores[stage])[:, column])
    found = difference["rules"]["official"]["mAP"]
    assert_interval(found, np.subtract(scores["b"], scores["a"])[:, 0])
    assert (difference["path"], difference["minus"]) == (str(data / "b"), str(data / "a"))
    means = [files[str(data / stage)]["official"]["mAP"]["value"] for stage in ("b", "a")]
    assert found["value"] == means[0] - means[1]


def assert_interval(found, resamples):
    """The percentiles of the resamples, and the basic interval, which mirrors them at the value."""
    low, high = np.quantile(resamples, [0.025, 0.975])
    assert [found["percentile_low"], found["percentile_high"]] == pytest.approx([low, high], abs=1e-12)
    mirrored = [2 * found["value"] - high, 2 * found["value"] - low]
    assert [found["low"], found["high"]] == pytest.approx(np.minimum(mirrored, 1), abs=1e-12)


def test_a_rule_that_leaves_videos_out_uses_the_draws_of_its_own(data, tmp_path):
    """Rule released scores five of the six videos, as often as each resample contains them."""
    files, _, _ = result(data, tmp_path, data / "a", "--frames", data / "frames")
    predictions = read_predictions(data / "a/predictions/released.txt")
    labels = {}
    for video in predictions:
        (actions, length), n = truth_of()[video], FRAMES[video]
        labels[video] = dense.step_labels(actions, released_frames(n // STRIDE * STRIDE) * length / n, C)
    means = []
    for drawn in draw_counts(len(FRAMES), 50, seed=0).T:
        copies = [v for v, n in zip(FRAMES, drawn, strict=True) for _ in range(int(n)) if v in predictions]
        means.append(frame_ap([predictions[v] for v in copies], [labels[v] for v in copies])[1])
    assert_interval(files[str(data / "a")]["released"]["mAP"], np.array(means))


def test_annotations_as_json_give_the_same(data, tmp_path):
    expected, _, _ = result(data, tmp_path, data / "a")
    found, _, _ = result(data, tmp_path, data / "a", "--first_class", 1, truth="truth.json")
    assert found == expected


def test_a_file_compared_with_its_copy_differs_by_nothing(data, tmp_path):
    copy = tmp_path / "copy.txt"
    copy.write_bytes((data / "a/predictions/official.txt").read_bytes())
    _, (difference,), _ = result(data, tmp_path, data / "a", copy)
    for rule in difference["rules"].values():
        assert set(rule["mAP"].values()) == {0}
        assert rule["AP"] == {"value": [0] * C, "low": [0] * C, "high": [0] * C}


def test_another_seed_draws_other_videos(data, tmp_path):
    first, _, _ = result(data, tmp_path, data / "a")
    again, _, _ = result(data, tmp_path, data / "a", "--seed", 0)
    other, _, _ = result(data, tmp_path, data / "a", "--seed", 1)
    assert first == again != other


def test_steps_of_whole_videos(data, tmp_path):
    """An .npz file uses rule dense; class 3 has no positives and counts as 0."""
    write_csv(tmp_path / "truth.csv", truth_of(classes=3))
    rng = np.random.default_rng(3)
    steps = {video: rng.random((n, C), dtype=np.float32) for video, n in FRAMES.items()}
    np.savez(tmp_path / "steps.npz", **steps)
    files, _, _ = result(tmp_path, tmp_path, tmp_path / "steps.npz")
    (rule,) = files[str(tmp_path / "steps.npz")].values()
    steps = {video: dense.Steps(scores) for video, scores in steps.items()}
    _, mean = frame_ap(*dense.rows(steps, truth_of(classes=3), C))
    assert rule["mAP"]["value"] == pytest.approx(mean, abs=1e-15)
    assert rule["mAP"]["low"] < mean
    assert rule["AP"]["value"][3] is rule["AP"]["low"][3] is None
    assert rule["classes_without_positives"] == [3]


def test_undefined_means_are_named_so(data, tmp_path, capsys):
    write_csv(tmp_path / "truth.csv", truth_of(classes=3))
    files, _, _ = result(tmp_path, tmp_path, data / "a", data / "b")
    predictions = read_predictions(data / "a/predictions/official.txt")
    expected = charades_localize.localize(predictions, truth_of(classes=3), C)
    assert "mAP" not in files[str(data / "a")]["official"]
    assert files[str(data / "a")]["official"]["mAP_defined"]["value"] == pytest.approx(expected.mAP_defined, abs=1e-15)
    assert "official, mAP_defined" in capsys.readouterr().out


def test_console(data, capsys):
    assert run(data, data / "a", data / "b", "--frames", data / "frames", "--class_names", data / "names.txt") == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split("  ")[0]: line for line in lines}
    predictions = read_predictions(data / "a/predictions/official.txt")
    mean = charades_localize.localize(predictions, truth_of(), C).mAP
    assert rows["official, mAP"].split()[2] == f"{100 * mean:.2f}"
    assert {"official, wAP", "video level, mAP", "released, mAP"} <= rows.keys()
    assert rows["released, mAP"].count("[") == 3
    assert sum(name in line for line in lines for name in NAMES) == C
    assert "Largest differences by rule official, B - A:" in lines


def test_csv_and_picture(data, tmp_path):
    outputs = ["--csv", tmp_path / "new/out.csv", "--figure", tmp_path / "out.png", "--class_names", data / "names.txt"]
    files, _, _ = result(data, tmp_path, data / "a", data / "b", *outputs)
    with (tmp_path / "new/out.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 2 * 3 * C
    by_key = {(row["rule"], row["predictions"], row["name"]): row for row in table}
    row = by_key["official", str(data / "b"), "eating, slowly"]
    rule, base = (files[str(data / stage)]["official"] for stage in ("b", "a"))
    assert (float(row["AP"]), float(row["high"])) == (rule["AP"]["value"][2], rule["AP"]["high"][2])
    assert float(row["difference"]) == rule["AP"]["value"][2] - base["AP"]["value"][2]
    assert int(row["positives"]) == rule["positives"][2]
    assert by_key["official", str(data / "a"), "walking"]["difference"] == ""
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "out.json", "out.png"]


def test_remarks(data, tmp_path, capsys):
    predictions = read_predictions(data / "a/predictions/official.txt")
    some = {"X": predictions["V0"], "V1": predictions["V1"]}
    write_predictions(tmp_path / "some.txt", some)
    np.savez(tmp_path / "some.npz", **some)
    assert run(data, tmp_path / "some.txt", tmp_path / "some.npz") == 0
    printed = capsys.readouterr().out
    assert "some.npz: 5 of 6 videos have no prediction: not in rule dense" in printed
    assert "1 videos not in the ground truth, ignored: X, ..." in printed
    assert "125 of 150 frames have no prediction: -inf" in printed


def refused(data, tmp_path, arguments, status=1, truth="truth.csv"):
    """Run with invalid input: the exit status is `status`, and nothing is written."""
    outputs = ["--json", tmp_path / "o.json", "--csv", tmp_path / "o.csv"]
    before = set(tmp_path.iterdir())
    command = [*arguments, *outputs, "--ground_truth", data / truth, "--resamples", "40"]
    if status == 2:
        with pytest.raises(SystemExit) as caught:
            compare.main([str(word) for word in command])
        assert caught.value.code == 2
    else:
        assert compare.main([str(word) for word in command]) == status
    assert set(tmp_path.iterdir()) == before
    return command


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d, t: [t / "absent.txt"], "absent.txt: no such file"),
        (lambda d, t: [d / "frames"], "contains no predictions/official.txt; give a stage folder"),
        (lambda d, t: [d / "a/predictions/released.txt"], "give --frames"),
        (lambda d, t: [d / "a", t / "three.txt"], "three.txt:1: 3 scores, expected 4"),
        (lambda d, t: [t / "three.txt"], "video V1 has class 3, outside 0..2"),
        (lambda d, t: [t / "others.txt"], "none of its videos (X, ...) is in"),
        (lambda d, t: [d / "a", t / "three.npz"], "3 scores per step, expected 4"),
        (lambda d, t: [d / "a", "--frames", t / "absent"], "absent: no such folder"),
        (lambda d, t: [d / "a", "--frames", t], "no frames for video V0"),
        (lambda d, t: [d / "a", "--frames", t / "few"], "25 lines for video V0, expected 9 for its 12 frames in"),
        (lambda d, t: [d / "a", "--class_names", t / "three.txt"], "three.txt"),
        (lambda d, t: [d / "a", "--class_names", t / "absent.names"], "absent.names: no such file"),
        (lambda d, t: [d / "a", "--figure", t / "picture.docx"], "picture.docx: not a figure file"),
        (lambda d, t: [d / "a", "--figure", t / "o.json"], "o.json: used for two outputs; choose different files"),
        (lambda d, t: [d / "a", "--figure", t], "is a folder"),
        (lambda d, t: [t / "three.txt", "--figure", t / "three.txt"], "three.txt: would overwrite an input"),
        (lambda d, t: [d / "a", "--figure", d / "a/predictions/official.txt"], "official.txt: would overwrite an"),
        (lambda d, t: [d / "a", "--class_names", d / "names.txt", "--figure", d / "names.txt"], "names.txt: would"),
        (lambda d, t: [d / "a", "--figure", t / ".." / t.name / "o.csv"], "o.csv: used for two outputs; choose"),
    ],
)
def test_bad_input_is_one_line(data, tmp_path, capsys, make, message):
    write_predictions(tmp_path / "three.txt", {"V0": np.zeros((25, 3))})
    write_predictions(tmp_path / "others.txt", {"X": np.zeros((25, C))})
    np.savez(tmp_path / "three.npz", V0=np.zeros((25, 3)))
    write_frames(tmp_path / "few", dict.fromkeys(FRAMES, 12))
    refused(data, tmp_path, make(data, tmp_path))
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("compare: error: ")
    assert printed.out == ""


@pytest.mark.parametrize(
    ("truth", "message"),
    [("absent.csv", "absent.csv: no such file"), ("names.txt", "no column"), ("truth.json", "class 4, outside 0..3")],
)
def test_bad_ground_truth_is_one_line(data, tmp_path, capsys, truth, message):
    refused(data, tmp_path, [data / "a"], truth=truth)
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--resamples", "39"], "'39' is not a whole number of at least 40"),
        (["--seed", "-1"], "--seed"),
        (["--resample", "5"], "--resample"),
        (["--stride", "x"], "'x' is not a whole number"),
    ],
)
def test_wrong_options(data, tmp_path, capsys, words, message):
    refused(data, tmp_path, [data / "a", *words], status=2)
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_one_file_twice_is_refused(data, tmp_path, capsys):
    refused(data, tmp_path, [data / "a", data / "a"], status=2)
    assert "is given twice" in capsys.readouterr().err.splitlines()[-1]
