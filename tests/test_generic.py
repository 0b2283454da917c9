"""An own dataset (data.kind generic) from its files to its scores, as a user types it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import train_fine
from common.errors import InputError
from datasets import schema
from datasets.annotations import load_annotations

PROJECT = Path(__file__).resolve().parents[1]
VIDEOS = ("tr0", "tr1", "tr2", "te0")
CLASSES = 3


@pytest.fixture(scope="module", autouse=True)
def restore_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def own(tiny_dataset, tmp_path) -> Path:
    """Three training videos and a test video: own.json, names.txt, and own.yaml, which names them."""
    annotations = json.loads((tiny_dataset / "annotations.json").read_text())
    (tmp_path / "own.json").write_text(json.dumps({video: annotations[video] for video in VIDEOS}))
    (tmp_path / "names.txt").write_text("jump\nrun fast\nthrow\n")
    experiment = json.loads((tiny_dataset / "tiny.yaml").read_text())
    experiment["data"] |= {
        "kind": "generic",
        "annotations": str(tmp_path / "own.json"),
        "class_names": str(tmp_path / "names.txt"),
    }
    experiment["fine"]["epochs"] = experiment["coarse"]["epochs"] = 1
    experiment["run"]["dir"] = str(tmp_path / "run")
    (tmp_path / "own.yaml").write_text(json.dumps(experiment))
    return tmp_path


def test_three_stages(own):
    for script in ("train_fine.py", "extract_fineFEAT.py", "train_coarse_fineFEAT.py"):
        command = [sys.executable, script, "-gpu", "cpu", "--config", own / "own.yaml"]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), script
    for stage in ("fine", "coarse"):
        metrics = json.loads((own / "run" / stage / "metrics.json").read_text())
        assert len(metrics["AP_official"]) == CLASSES
        assert 0 < metrics["mAP_official"] <= 1
        lines = (own / "run" / stage / "predictions" / "official.txt").read_text().splitlines()
        assert [line.split()[0] for line in lines] == ["te0"] * 25
        assert {len(line.split()) for line in lines} == {2 + CLASSES}
    assert {path.stem for path in (own / "run" / "features").glob("*.safetensors")} == set(VIDEOS)


def test_class_names_for_another_number_of_classes(own, capsys):
    (own / "names.txt").write_text("jump\nrun fast\n")
    with pytest.raises(SystemExit, match="1"):
        train_fine.main(["-gpu", "cpu", "--config", str(own / "own.yaml")])
    line = f"{own / 'names.txt'}: contains 2 class names, expected 3; correct the file or --data.num_classes\n"
    assert capsys.readouterr().err == f"train_fine.py: error: {line}"
    assert not list((own / "run").rglob("*.*"))


def test_the_schema_is_that_of_the_reader(own, capsys):
    """What the schema requires, the reader misses; what it excludes, the reader refuses."""
    assert schema.main([]) == 0
    (entry,) = json.loads(capsys.readouterr().out)["$defs"].values()
    path, text = own / "own.json", (own / "own.json").read_text()
    assert set(entry["required"]) == set(json.loads(text)["te0"]) <= set(entry["properties"])
    changes = {
        "subset": [None, *entry["properties"]["subset"]["enum"], "validation"],
        "duration": [None, 3, entry["properties"]["duration"]["exclusiveMinimum"]],
        "actions": [None, [], [[0, 1.0]], [[0, 1.0, 2.0, 3.0]], [[0, 1, 2]], [[0.5, 1, 2]]],
    }
    allowed = ["training", "testing", 3, [], [[0, 1, 2]]]
    for key, values in changes.items():
        for value in values:
            table = json.loads(text)
            table["te0"].pop(key)
            table["te0"] |= {} if value is None else {key: value}
            path.write_text(json.dumps(table))
            if value in allowed:
                assert len(load_annotations(path, num_classes=CLASSES).videos) == len(VIDEOS)
                continue
            with pytest.raises(InputError, match=rf"own\.json: video te0: {key}") as error:
                load_annotations(path, num_classes=CLASSES)
            assert "\n" not in str(error.value)
