import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import InputError
from datasets.annotations import Action, load_annotations, read_class_names
from datasets.kinds import CHARADES, KINDS, MULTITHUMOS

VIDEO = {"subset": "training", "duration": 10.0, "actions": [[3, 1.0, 2.5]]}
CSV_HEADER = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length"


def write_json(tmp_path, text):
    path = tmp_path / "annotations.json"
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    return path


def write_csv(folder, name, *rows):
    folder.mkdir(exist_ok=True)
    lines = [f"{id},S,Bedroom,5,6,Yes,script,bed,desc,{actions},{length}" for id, actions, length in rows]
    (folder / name).write_text("\n".join([CSV_HEADER, *lines]) + "\n")


def test_json_form(tmp_path):
    path = write_json(tmp_path, {"AAA": VIDEO, "BBB": {"subset": "testing", "duration": 5, "actions": []}})
    read = load_annotations(path, num_classes=4)
    assert [video.id for video in read.subset("training")] == ["AAA"]
    assert read.subset("training")[0].actions == (Action(3, 1.0, 2.5),)
    assert read.subset("testing")[0].duration == 5.0


def test_json_as_other_programs_write_it(tmp_path):
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps({"AAA": VIDEO | {"actions": [[3.0, 1, 2.5]]}}), encoding="utf-8-sig")
    assert load_annotations(path, num_classes=4).videos[0].actions == (Action(3, 1.0, 2.5),)


def test_official_csvs_equal_json(tmp_path):
    folder = tmp_path / "official"
    write_csv(folder, "Charades_v1_train.csv", ("AAA", "c003 1.00 2.50", 10.0))
    write_csv(folder, "Charades_v1_test.csv", ("BBB", "", 5.0))
    path = write_json(tmp_path, {"AAA": VIDEO, "BBB": {"subset": "testing", "duration": 5, "actions": []}})
    assert load_annotations(folder, num_classes=4).videos == load_annotations(path, num_classes=4).videos


def test_multithumos_classes_count_from_one(tmp_path):
    actions = [[1, 0.0, 1.0], [65, 1.0, 2.0]]
    path = write_json(tmp_path, {"v": {"subset": "training", "duration": 3.0, "actions": actions}})
    read = MULTITHUMOS.load(path)
    assert [action.label for action in read.videos[0].actions] == [0, 64]
    assert "200 and 213" in read.report()  # what the full dataset has
    path = write_json(tmp_path, {"v": {"subset": "training", "duration": 3.0, "actions": [[0, 0.0, 1.0]]}})
    with pytest.raises(InputError, match=r"video v: class 0 is outside 1\.\.65"):
        MULTITHUMOS.load(path)


def test_oddities_are_counted_and_kept(tmp_path):
    actions = [[0, 1.0, 12.0], [1, 5.0, 5.0], [2, 6.0, 5.0], [3, 0.0, 10.0]]
    read = load_annotations(write_json(tmp_path, {"AAA": VIDEO | {"actions": actions}}), num_classes=4)
    assert read.oddities() == ["1 end after their video", "2 end no later than they start"]
    assert len(read.videos[0].actions) == 4
    assert "1 end after their video, 2 end no later than they start" in read.report()
    assert "\n" not in read.report()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"AAA": VIDEO | {"actions": [[157, 0, 1]]}}, r"video AAA: class 157 is outside 0\.\.156"),
        ({"AAA": VIDEO | {"actions": [[-1, 0, 1]]}}, r"video AAA: class -1 is outside"),
        ({"AAA": VIDEO | {"actions": [["c\n1", 0, 1]]}}, r"AAA: actions\.0\.0: Input should be an integer \(class"),
        (
            {"AAA": VIDEO | {"actions": [["run", 0, 1]]}},
            r"integer \(class names belong in a text file\), got 'run'; ",
        ),
        ({"AAA": VIDEO | {"actions": [["1", 0, 1]]}}, r"actions\.0\.0: Input should be an integer"),
        ({"AAA": VIDEO | {"actions": [[True, 0, 1]]}}, r"actions\.0\.0: Input should be an integer"),
        ({"AAA": VIDEO | {"actions": [[0, 0, 1]], "first_class": 1}}, r"AAA: class 0 is outside 1\.\.157"),
        ({"AAA": VIDEO | {"actions": [[1, 0, 1], [1.5, 0, 1]]}}, r"actions\.1\.0: Input should be a valid integer"),
        ({"AAA": VIDEO | {"actions": [[1, 0, True]]}}, r"actions\.0\.2: Input should be a valid number"),
        ({"AAA": VIDEO | {"actions": [[1, float("inf"), 2]]}}, r"actions\.0\.1: Input should be a finite number"),
        ({"AAA": VIDEO | {"actions": [[1, 0]]}}, r"AAA: actions\.0\.2: Field required, got \[1, 0\]; `python -m"),
        ({"AAA": VIDEO | {"actions": [["a" * 99]]}}, r"actions\.0\.0: .*, got 'a{12}\.\.\.a{13}'; "),
        ({"AAA": VIDEO | {"actions": [{"class": 1}]}}, r"actions\.0: Input should be a valid tuple"),
        ({"AAA": VIDEO | {"actions": [[0, 0, 1, 2]]}}, r"actions\.0: Tuple should have at most 3 items"),
        ({"AAA": VIDEO | {"actions": 1}}, r"video AAA: actions: Input should be a valid list"),
        (
            {"AAA": VIDEO | {"subset": "validation"}},
            "subset: Input should be 'training' or 'testing', got 'validation'; ",
        ),
        ({"AAA": VIDEO | {"duration": 0}}, "video AAA: duration: Input should be greater than 0"),
        ({"AAA": VIDEO | {"duration": True}}, "video AAA: duration: Input should be a valid number"),
        ({"AAA": VIDEO | {"duration": float("nan")}}, "video AAA: duration: Input should be a finite number"),
        ({"AAA": VIDEO | {"first_class": True}}, "video AAA: first_class: Input should be an integer"),
        ({"AAA": {"subset": "training"}}, "video AAA: duration: Field required"),
        ({"AAA": 3}, "video AAA: Input should be a valid dictionary"),
        ({"AAA": None}, "video AAA: Input should be a valid dictionary"),
        ({"../AAA": VIDEO}, "plain file name"),
        ({"A\nA": 3}, "plain file name"),
        ({}, "no videos"),
        ([1, 2], "not a list"),
        ('{"AAA": 1, "AAA": 2}', "'AAA' occurs twice"),
        ("id,subject\n", "not a JSON file"),
    ],
)
def test_errors_are_one_line_naming_file_and_video(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as error:
        CHARADES.load(write_json(tmp_path, text))
    assert "annotations.json" in str(error.value)
    assert "\n" not in str(error.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(max_size=3), values, max_size=2),
    max_leaves=8,
)
ENTRY = {"subset": JSON, "duration": JSON, "actions": JSON | st.lists(st.lists(JSON, max_size=4)), "first_class": JSON}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entry=JSON | st.fixed_dictionaries({}, optional={key: st.just(VIDEO.get(key)) | v for key, v in ENTRY.items()}))
def test_whatever_the_entry_it_is_read_or_refused_in_a_line(tmp_path, entry):
    try:
        (video,) = load_annotations(write_json(tmp_path, {"AAA": entry}), num_classes=4).videos
    except InputError as error:
        (line,) = str(error).splitlines()
    else:
        line = f"annotations.json: video {video.id}: "
    assert "annotations.json: video AAA: " in line


def test_errors_of_the_official_form(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: not found"):
        CHARADES.load(tmp_path / "nowhere")
    folder = tmp_path / "official"
    write_csv(folder, "Charades_v1_train.csv", ("AAA", "c003 1.00 2.50", 10.0))
    with pytest.raises(InputError, match=r"Charades_v1_test\.csv: no such file"):
        CHARADES.load(folder)
    write_csv(folder, "Charades_v1_test.csv", ("AAA", "", 10.0))
    with pytest.raises(InputError, match=r"Charades_v1_test\.csv: video AAA is also in Charades_v1_train\.csv"):
        CHARADES.load(folder)
    write_csv(folder, "Charades_v1_test.csv", ("BBB", "", 0.0))
    with pytest.raises(InputError, match="video BBB: duration: Input should be greater than 0"):
        CHARADES.load(folder)
    write_csv(folder, "Charades_v1_test.csv", ("BBB", "c157 0.00 1.00", 9.0))
    with pytest.raises(InputError, match=r"video BBB: class 157 is outside"):
        CHARADES.load(folder)


def test_class_names_stand_beside_the_annotations(tmp_path):
    assert CHARADES.class_names(tmp_path / "charades.json") is None
    (tmp_path / "Charades_v1_classes.txt").write_text("c000 Holding some clothes\nc001 Putting clothes somewhere\n")
    assert CHARADES.class_names(tmp_path / "charades.json")[1] == "Putting clothes somewhere"
    assert CHARADES.class_names(tmp_path) == CHARADES.class_names(tmp_path / "charades.json")
    assert MULTITHUMOS.class_names(tmp_path) is None


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("jump\nrun fast\n", ["jump", "run fast"]),
        ("\ufeffjump\r\n\r\n  run\r\n", ["jump", "run"]),
        ("c000 jump\nc001 run fast\n", ["jump", "run fast"]),
        ("1 jump\n2 run\n", ["jump", "run"]),
        ("100 m sprint\nlong jump\n", ["100 m sprint", "long jump"]),
    ],
)
def test_class_names_of_a_file(tmp_path, text, names):
    (tmp_path / "names.txt").write_text(text, encoding="utf-8")
    assert read_class_names(tmp_path / "names.txt", 2) == read_class_names(tmp_path / "names.txt") == names


def test_classes_without_a_file_are_numbered():
    assert read_class_names(None, 2) == ["class 0", "class 1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"jump\n", r"contains 1 class names, expected 2; correct the file or --data\.num_classes"),
        (b"", "contains 0 class names"),
        (b"c001 run\nc000 jump\n", "expected class 2, found 'c000 jump'"),
        (b"c000 run\nc002 jump\n", "expected class 1, found 'c002 jump'"),
        (b"c005 run\nc006 jump\n", "expected class 1, found 'c005 run'"),
        (b"jump\njump\n", "two classes are named 'jump'"),
        (b"\xff\xfe\x00", "not a UTF-8 text file"),
    ],
)
def test_class_names_that_would_mislead(tmp_path, text, message):
    (tmp_path / "names.txt").write_bytes(text)
    with pytest.raises(InputError, match=rf"names\.txt: .*{message}") as error:
        read_class_names(tmp_path / "names.txt", 2)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=r"absent\.txt: no such file"):
        read_class_names(tmp_path / "absent.txt", 2)


def test_real_charades(annotations):
    read = CHARADES.load(annotations / "charades.json")
    assert {subset: len(read.subset(subset)) for subset in CHARADES.videos} == CHARADES.videos
    odd = ["19623 end after their video", "5 start after their video ends", "7 end no later than they start"]
    assert read.oddities() == odd
    official = {video.id: video for video in CHARADES.load(annotations).videos}
    assert len(official) == len(read.videos)
    for video in read.videos:
        other = official[video.id]
        assert (video.subset, video.duration, sorted(video.actions)) == (
            other.subset,
            other.duration,
            sorted(other.actions),
        )
    assert len(CHARADES.class_names(annotations)) == CHARADES.num_classes


def test_real_multithumos(annotations):
    read = KINDS["multithumos"].load(annotations / "multithumos.json")
    assert {subset: len(read.subset(subset)) for subset in MULTITHUMOS.videos} == MULTITHUMOS.videos
    assert {action.label for video in read.videos for action in video.actions} == set(range(65))


def test_a_file_may_say_what_its_first_class_is(tmp_path):
    entry = {"subset": "training", "duration": 3.0, "actions": [[0, 0.0, 1.0], [64, 1.0, 2.0]], "first_class": 0}
    path = write_json(tmp_path, {"v": entry})
    assert [action.label for action in MULTITHUMOS.load(path).videos[0].actions] == [0, 64]
    path = write_json(tmp_path, {"v": VIDEO | {"first_class": 3}})
    assert load_annotations(path, num_classes=1).videos[0].actions[0].label == 0
