"""The index of frames: it must save the listing and never hide a change."""

import json
import multiprocessing
import os
import shutil
from pathlib import Path

import pytest

from common.errors import InputError
from datasets import index
from datasets.frames import Listing, frame_path, list_frames
from datasets.index import INDEX, list_with_index

VIDEOS = ["AAA", "BBB", "ABSENT"]
WHOLE = {"AAA": Listing(3), "BBB": Listing(5), "ABSENT": Listing()}


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    """Folders made in this moment count as settled."""
    monkeypatch.setattr(index, "SETTLING_SECONDS", 0.0)


@pytest.fixture
def frames(tmp_path) -> Path:
    """Folders of empty files: the index looks at names alone."""
    root = tmp_path / "frames"
    for video, listing in WHOLE.items():
        if listing.last:
            fill(root, video, range(1, listing.last + 1))
    return root


def fill(root: Path, video: str, numbers) -> None:
    (root / video).mkdir(parents=True, exist_ok=True)
    for number in numbers:
        frame_path(root, video, number).touch()


@pytest.fixture
def listed(monkeypatch) -> list[str]:
    """The videos whose folders were listed, in any order."""
    calls: list[str] = []

    def spy(root, video):
        calls.append(video)
        return list_frames(root, video)

    monkeypatch.setattr(index, "list_frames", spy)
    return calls


@pytest.fixture
def look(frames, capsys):
    """look(videos, spare) -> their listings, and the lines that are said."""

    def look(videos=VIDEOS, spare: Path = frames.parent / "spare") -> tuple[dict[str, Listing], list[str]]:
        capsys.readouterr()
        return list_with_index(frames, videos, spare=spare), capsys.readouterr().out.splitlines()

    return look


def test_the_second_start_lists_nothing(frames, look, listed):
    assert look() == (WHOLE, [])
    assert sorted(listed) == ["AAA", "BBB"]
    listed.clear()
    assert look() == (WHOLE, [])
    assert listed == []


def test_subsets_share_an_index(frames, look, listed):
    look(["AAA"])
    look(["BBB"])
    listed.clear()
    found, _ = look(["BBB", "AAA"])
    assert list(found) == ["BBB", "AAA"]
    assert listed == []


@pytest.mark.parametrize(
    ("change", "now"),
    [
        (lambda root: frame_path(root, "BBB", 6).touch(), Listing(6)),
        (lambda root: frame_path(root, "BBB", 5).unlink(), Listing(4)),
        (lambda root: frame_path(root, "BBB", 2).unlink(), Listing(5, ((2, 2),))),
        (lambda root: (root / "BBB" / "BBB-000002 (1).jpg").touch(), Listing(5, ((6, 6),), "BBB-000002 (1).jpg")),
        (lambda root: shutil.rmtree(root / "BBB"), Listing()),
    ],
)
def test_a_changed_folder_is_noticed(frames, look, listed, change, now):
    look()
    listed.clear()
    change(frames)
    found, said = look()
    assert found == WHOLE | {"BBB": now}
    assert set(listed) <= {"BBB"}
    assert said == [f"{frames}: 1 of 2 indexed folders have changed; indexing them again"]
    assert look() == (found, []), "holes and strays are remembered too"


def test_a_folder_with_its_old_times_is_noticed(frames, look):
    """As unpacking an archive leaves it."""
    look()
    before = os.stat(frames / "BBB")
    frame_path(frames, "BBB", 6).touch()
    os.utime(frames / "BBB", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert look()[0]["BBB"] == Listing(6)


def test_another_folder_in_its_place_is_noticed(frames, look):
    look()
    fill(frames.parent / "other", "BBB", range(1, 8))
    shutil.move(frames / "BBB", frames.parent / "old")
    shutil.move(frames.parent / "other" / "BBB", frames / "BBB")
    assert look()[0]["BBB"] == Listing(7)


def test_a_folder_that_may_still_be_changing_is_not_remembered(frames, look, listed, monkeypatch):
    monkeypatch.setattr(index, "SETTLING_SECONDS", 3600.0)
    look()
    listed.clear()
    assert look() == (WHOLE, [])
    assert sorted(listed) == ["AAA", "BBB"]


def damage_value(path: Path) -> None:
    text = json.loads(path.read_text())
    text["folders"]["AAA"][3] = 4
    path.write_text(json.dumps(text))


def write_folders(path: Path, folders: object) -> None:
    """Of a right checksum and a wrong form."""
    path.write_text(json.dumps({"format": 1, "sha256": index._digest(folders), "folders": folders}))


@pytest.mark.parametrize(
    "damage",
    [
        damage_value,
        lambda path: path.write_bytes(path.read_bytes()[:-20]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\x80\x04N."),
        lambda path: path.write_text("[" * 100_000),
        lambda path: path.write_text("[1]"),
        lambda path: path.write_text('{"format": 2}'),
        lambda path: path.write_text('{"format": 1, "folders": {}, "sha256": ""}'),
        lambda path: write_folders(path, [1]),
        lambda path: write_folders(path, {"AAA": [1]}),
    ],
)
def test_a_damaged_index_is_written_anew(frames, look, listed, damage):
    look()
    whole = (frames / INDEX).read_bytes()
    listed.clear()
    damage(frames / INDEX)
    assert look() == (WHOLE, [f"{frames / INDEX}: damaged or from another version; rebuilding the index"])
    assert sorted(listed) == ["AAA", "BBB"]
    assert (frames / INDEX).read_bytes() == whole


def test_frames_that_cannot_be_written_to(frames, look, listed, tmp_path, monkeypatch):
    spare = tmp_path / "run"
    spare.mkdir()
    write = index.written_whole

    def refuse(path, **options):
        if path.parent == frames:
            raise PermissionError(13, "Permission denied", str(path))
        return write(path, **options)

    monkeypatch.setattr(index, "written_whole", refuse)
    look(spare=spare)
    listed.clear()
    assert look(spare=spare) == (WHOLE, [])
    assert listed == []
    assert not (frames / INDEX).exists()
    assert look(spare=tmp_path / "absent") == (WHOLE, []), "without an index it works as well"


def test_an_absent_folder_of_frames(tmp_path):
    with pytest.raises(InputError, match=r"elsewhere: no such folder; set --data\.frames"):
        list_with_index(tmp_path / "elsewhere", VIDEOS, spare=tmp_path)


def repeat(frames: Path, video: str) -> None:
    for number in range(1, 40):
        fill(frames, video, [number])
        assert list_with_index(frames, [video], spare=frames.parent)[video].last == number


def test_processes_share_one(frames, capfd):
    """Two that always change it; whoever reads it finds it whole."""
    processes = [multiprocessing.get_context("fork").Process(target=repeat, args=(frames, v)) for v in ("CCC", "DDD")]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert "damaged" not in capfd.readouterr().out
    assert list_with_index(frames, VIDEOS, spare=frames.parent) == WHOLE
    assert [path.name for path in frames.iterdir() if path.is_file()] == [INDEX]
