import pytest

from common.errors import InputError, options_called


def refused(option: str | None, names: dict[str, str | None]) -> str:
    with pytest.raises(InputError) as caught, options_called(names):
        raise InputError("a.json: wrong", option=option, remedy="correct {option}")
    return str(caught.value)


def test_an_option_as_the_command_spells_it():
    assert refused("--data.frames", {"--data.frames": "--frames"}) == "a.json: wrong; correct --frames"
    assert refused("--data.frames", {"--other": "--frames"}) == "a.json: wrong; correct --data.frames"


def test_a_command_without_the_option_names_none():
    assert refused("--data.frames", {"--data.frames": None}) == "a.json: wrong"


def test_errors_without_an_option_stay_as_they_are():
    with pytest.raises(InputError, match=r"^a\.json: wrong; go home$"), options_called({"--data.frames": None}):
        raise InputError("a.json: wrong", remedy="go home")
