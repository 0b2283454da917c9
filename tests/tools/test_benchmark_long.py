"""tools.benchmark_long: its rows, its video, and the measurement of a command."""

import json
import sys
from itertools import pairwise

import pytest

from common.errors import InputError
from datasets.frames import count_frames
from tools import benchmark_long
from tools.benchmark_long import PICTURES, Row, command, measure, rows, write_video


def test_every_length_in_windows_and_short_ones_also_whole():
    made = rows([1, 5], whole=1, window=64)
    assert made == [
        Row(stage, *what) for what in ((1, 64), (1, None), (5, 64)) for stage in ("fine", "features", "coarse")
    ]


def test_the_video(tmp_path):
    """Five seconds of video: few distinct files, the rest are links."""
    write_video(tmp_path, 5 / 60)
    (name,) = (path.name for path in (tmp_path / "frames").iterdir())
    assert count_frames(tmp_path / "frames", name) == 120
    assert len({path.stat().st_ino for path in (tmp_path / "frames" / name).iterdir()}) == PICTURES
    assert json.loads((tmp_path / f"{name}.json").read_text())[name]["duration"] == 5


def test_stage_3_reads_what_stage_2_wrote(tmp_path):
    runs = {
        dict(pairwise(words))["--run.dir"]
        for words in (command(Row(stage, 1, 64), tmp_path, "M", "cpu") for stage in ("features", "coarse"))
    }
    assert len(runs) == 1


def test_measuring(capfd):
    seconds, gigabytes = measure([sys.executable, "-c", "bytearray(b'1') * 400_000_000"])
    assert seconds > 0
    assert gigabytes > 0.4
    with pytest.raises(InputError, match="-c exited with status 1"):
        measure([sys.executable, "-c", "raise SystemExit('no luck')"])
    assert capfd.readouterr().err == "no luck\n"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--minutes", "0.001"], "--minutes: '0.001' is not between 0.01 and 1440 (a day)"),
        (["--minutes", "inf"], "--minutes: 'inf' is not between 0.01 and 1440 (a day)"),
        (["--window", "0"], "--window: '0' is not a whole number of at least 1"),
        (["--minutes", "1e300"], "--minutes: '1e300' is not between 0.01 and 1440 (a day)"),
        (["--whole", "nan"], "--whole: 'nan' is not a number of at least 0"),
        (["-gpu", "abc"], "-gpu abc: must be cpu or a GPU number"),
        (["--dir", "nowhere"], "--dir nowhere: no such folder"),
    ],
)
def test_mistakes(options, line, capsys):
    with pytest.raises(SystemExit) as end:
        benchmark_long.main(options)
    assert end.value.code == 2
    assert line in capsys.readouterr().err
