"""The time line of one video: which classes it shows and in which order, and that names stay what they are."""

import numpy as np
import pytest

from prediction.activities import Activity
from prediction.timeline import choose_classes, timeline_figure

NAMES = ["sit", "walk $a_1$", "<b>run</b>", "jump"]


def figure(activities, *, probabilities=None, chosen=()):
    """Of a video of 5 s, 10 frames."""
    probabilities = np.full((4, 10), 0.25) if probabilities is None else probabilities
    return timeline_figure("a $video_1$", probabilities=probabilities, fps=2.0,
                           activities=[Activity(*one) for one in activities], names=NAMES, chosen=chosen)  # fmt: skip


def shown(figure) -> list[str]:
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


def test_rows_stand_in_the_order_of_their_first_interval():
    intervals = [(3, 2.0, 3.0, 0.9), (1, 1.0, 4.0, 0.5), (3, 0.5, 0.7, 0.6)]
    assert choose_classes(np.zeros((4, 10)), intervals, most=16) == [3, 1]


def test_the_highest_scores_are_kept():
    intervals = [(0, 0.0, 1.0, 0.3), (1, 1.0, 2.0, 0.9), (2, 2.0, 3.0, 0.6)]
    assert choose_classes(np.zeros((4, 10)), intervals, most=2) == [1, 2]


def test_without_intervals_the_most_probable_classes():
    probabilities = np.array([[0.1], [0.4], [0.2], [0.3]])
    assert choose_classes(probabilities, [], most=2) == [1, 3]


def test_bars_lie_where_the_intervals_do(tmp_path):
    drawn = figure([(1, 1.0, 4.0, 0.5), (3, 0.5, 0.75, 0.75)], chosen=[1.0, 4.0])
    bars = [(bar.get_x(), bar.get_width(), round(bar.get_y() + bar.get_height() / 2)) for bar in drawn.axes[0].patches]
    assert bars == [(1.0, 3.0, 1), (0.5, 0.25, 0)]
    assert drawn.axes[0].get_xlim() == (0, 5)
    (ticks,) = drawn.axes[0].child_axes
    assert ticks.get_xticks().tolist() == [0.0, 1.5]
    assert "2 more classes" in drawn.axes[1].get_xlabel()
    drawn.savefig(tmp_path / "picture.png")  # names with a lone $ or _ would fail here as formulas


def test_probabilities_of_the_shown_classes_on_one_scale():
    probabilities = np.arange(40).reshape(4, 10) / 40
    (image,) = figure([(3, 0, 1, 1.0), (1, 2, 3, 1.0)], probabilities=probabilities).axes[1].images
    assert np.array_equal(image.get_array(), probabilities[[3, 1]])
    assert image.get_clim() == (0, 1)


def test_names_are_never_formulas():
    assert shown(figure([(1, 1.0, 4.0, 0.5)])) == [r"walk \$a_1\$"]


@pytest.mark.parametrize("shape", [(3, 10), (4, 0), (4,)])
def test_refuses_what_does_not_fit_the_names(shape):
    with pytest.raises(ValueError, match="4 classes"):
        figure([], probabilities=np.zeros(shape))
