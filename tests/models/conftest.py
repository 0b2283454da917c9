"""Checkpoint files for the tests of reading them."""

import pytest

from models import save_official
from tests.models.checkpoint_files import read_state
from tests.models.drawing import fine_net


@pytest.fixture
def fine_file(tmp_path):
    """The path of a FineNet's checkpoint, and its contents."""
    save_official(fine_net(seed=1), tmp_path / "fine.pt")
    return tmp_path / "fine.pt", read_state(tmp_path / "fine.pt")


@pytest.fixture
def kinetics(tmp_path):
    """A file of the 400-class form, and its contents."""
    save_official(fine_net(seed=2, num_classes=400), tmp_path / "kinetics.pt")
    return tmp_path / "kinetics.pt", read_state(tmp_path / "kinetics.pt")
