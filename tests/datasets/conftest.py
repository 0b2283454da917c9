"""Tiny videos made on the fly: folders of JPEG frames, each frame telling its number by its brightness."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.annotations import Action, Video


@pytest.fixture
def write_video(tmp_path: Path) -> Callable[..., Video]:
    """write_video(id, n, ...) -> Video with n frames under tmp_path/frames; frame k is grey of level k % 200."""

    def write(name: str, n: int, *, width: int = 24, height: int = 20, subset="training", actions=()) -> Video:
        folder = tmp_path / "frames" / name
        folder.mkdir(parents=True)
        for k in range(1, n + 1):
            Image.fromarray(np.full((height, width, 3), k % 200, np.uint8)).save(folder / f"{name}-{k:06d}.jpg")
        return Video(name, subset, n / 24, tuple(Action(*action) for action in actions))

    return write
