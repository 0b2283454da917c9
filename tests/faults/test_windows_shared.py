"""Two processes share videos in windows, whole videos each: the same evaluation and features to the last bit."""

from pathlib import Path

import pytest

IN_WINDOWS = "--eval.window", 6, "--eval.overlap", 2, "--eval.batch_size", 2


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("script", "options"),
    [
        ("train_coarse_fineFEAT", ["--eval_only", "true", "--coarse.init", "coarse/checkpoints/best.pt"]),
        pytest.param(
            "train_fine", ["--eval_only", "true", "--fine.init", "fine/checkpoints/best.pt"], marks=pytest.mark.faults
        ),
        ("extract_fineFEAT", ["--features.checkpoint", "fine/checkpoints/best.pt"]),
    ],
)
def test_windows_in_two_processes(finish, tiny_run, tmp_path, script, options):
    options = [tiny_run / option if option.endswith(".pt") else option for option in options]
    if script != "extract_fineFEAT":
        options += ["--features.dir", tiny_run / "features"]
    for processes in (1, 2):
        finish(script, *IN_WINDOWS, *options, folder=tmp_path / str(processes), processes=processes)
    one, two = (files(tmp_path / name) for name in "12")
    manifests = [found.pop("features/manifest.json", b"") for found in (one, two)]
    assert one
    assert one == two
    assert sorted(manifests[0].split()) == sorted(manifests[1].split())
