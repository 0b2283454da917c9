"""AP: closed forms, and equality with a plain rank-by-rank computation over many kinds of scores."""

import time

import numpy as np
import pytest

from common.errors import InputError
from eval.average_precision import average_precision


def plain_ap(scores, labels):
    """AP of one class by walking down the ranking; sorted() is stable."""
    order = sorted(range(len(scores)), key=lambda row: -scores[row])
    hits, precisions = 0, []
    for rank, row in enumerate(order, start=1):
        if labels[row]:
            hits += 1
            precisions.append(hits / rank)
    return sum(precisions) / len(precisions) if precisions else float("nan")


def plain(scores, labels):
    return np.array([plain_ap(s, y) for s, y in zip(scores.T.tolist(), labels.T.tolist(), strict=True)])


def column(*values, dtype=np.float32):
    return np.array(values, dtype)[:, None]


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [
        ((0.9, 0.8, 0.7), (1, 0, 0), 1.0),
        ((0.9, 0.8, 0.7), (0, 0, 1), 1 / 3),
        ((0.7, 0.9, 0.8), (0, 0, 1), 1 / 2),
        ((0.9, 0.8, 0.7, 0.6), (1, 0, 1, 0), (1 + 2 / 3) / 2),
        ((0.5, 0.5, 0.5), (0, 1, 0), 1 / 2),  # ties in row order
        ((0.5, 0.5, 0.5), (1, 0, 0), 1.0),
        ((-np.inf, 0.1, -np.inf), (1, 0, 0), 1 / 2),
        ((0.1, np.inf, np.inf), (0, 0, 1), 1 / 2),
        ((-0.0, 0.0), (0, 1), 1 / 2),
        ((0.0, -0.0), (0, 1), 1 / 2),
        ((-0.0, 0.0), (1, 0), 1.0),
        ((-2.0, -1.0, 1e-40, -1e-40), (1, 0, 0, 1), (1 / 2 + 2 / 4) / 2),  # negative and denormal scores
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_closed_forms(scores, labels, expected, dtype):
    assert average_precision(column(*scores, dtype=dtype), column(*labels))[0] == pytest.approx(expected, abs=1e-15)


SPECIAL = np.array([-np.inf, np.inf, 0.0, -0.0, 1e-45, -1e-45, 3e38, -3e38, 1.0, -1.0])
KINDS = {
    "distinct": lambda rng, shape: rng.normal(size=shape),
    "float32": lambda rng, shape: rng.normal(size=shape).astype(np.float32),
    "ties": lambda rng, shape: rng.normal(size=shape).round(1).astype(np.float32),
    "special": lambda rng, shape: rng.choice(SPECIAL, shape),
    "special float32": lambda rng, shape: rng.choice(SPECIAL, shape).astype(np.float32),
    "equal in float32": lambda rng, shape: rng.integers(0, 3, shape) * 1e-12 + 0.5,
    "beyond float32": lambda rng, shape: rng.integers(-3, 4, shape) * 1e300,
    "integers": lambda rng, shape: rng.integers(-3, 4, shape),
}


@pytest.mark.parametrize("kind", KINDS)
def test_scores_of_every_kind_equal_the_plain_computation(kind):
    rng = np.random.default_rng(3)
    for _ in range(30):
        shape = int(rng.integers(1, 60)), int(rng.integers(1, 40))
        scores, labels = KINDS[kind](rng, shape), rng.random(shape) < rng.random()
        np.testing.assert_allclose(average_precision(scores, labels), plain(scores, labels), rtol=0, atol=1e-14)


def test_float64_scores_are_not_rounded_into_ties():
    close = column(0.5, 0.5 + 1e-12, dtype=np.float64)
    assert average_precision(close, column(0, 1))[0] == 1.0
    assert average_precision(close.astype(np.float32), column(0, 1))[0] == 0.5


def test_ap_depends_on_order_alone():
    rng = np.random.default_rng(4)
    scores, labels = rng.normal(size=(300, 20)), rng.random((300, 20)) < 0.2
    expected = average_precision(scores, labels)
    np.testing.assert_array_equal(average_precision(np.exp(3 * scores) - 7, labels), expected)
    permutation = rng.permutation(300)
    np.testing.assert_array_equal(average_precision(scores[permutation], labels[permutation]), expected)


def test_blocks_rank_as_one():
    rng = np.random.default_rng(5)
    scores, labels = rng.integers(0, 9, (100, 37)).astype(np.float32), rng.random((100, 37)) < 0.3
    cuts = [0, 1, 40, 40, 99]
    blocks = average_precision(np.split(scores, cuts), np.split(labels, cuts))
    np.testing.assert_array_equal(blocks, average_precision(scores, labels))
    np.testing.assert_allclose(blocks, plain(scores, labels), rtol=0, atol=1e-14)


def test_a_class_without_positives_is_nan_and_leaves_the_others():
    labels = np.array([[0, 1], [0, 0]])
    ap = average_precision(np.ones((2, 2)), labels)
    assert np.isnan(ap[0])
    assert ap[1] == 1
    assert np.isnan(average_precision(np.zeros((0, 3)), np.zeros((0, 3)))).tolist() == [True] * 3


def test_labels_of_any_type_and_memory_order():
    rng = np.random.default_rng(6)
    scores, labels = rng.random((50, 20), dtype=np.float32), rng.random((50, 20)) < 0.3
    expected = average_precision(scores, labels)
    for kind in (np.uint8, np.int64, np.float32):
        np.testing.assert_array_equal(average_precision(np.asfortranarray(scores), labels.astype(kind)), expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_nan_is_refused_naming_the_class(dtype):
    scores = np.zeros((5, 40), dtype)
    scores[3, 33] = np.nan
    with pytest.raises(InputError, match="class 33"):
        average_precision(scores, np.ones((5, 40)))


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="equal shapes"):
        average_precision(np.zeros((4, 3)), np.zeros((4, 2)))
    with pytest.raises(ValueError, match="one C"):
        average_precision([np.zeros((4, 3)), np.zeros((4, 2))], [np.zeros((4, 3)), np.zeros((4, 2))])
    with pytest.raises(ValueError, match="equal shapes"):
        average_precision([], [])


def test_the_arguments_are_left_alone():
    scores, labels = np.array([[-0.0], [0.5]], np.float32), np.array([[1.0], [0.0]])
    average_precision(scores, labels)
    assert np.signbit(scores[0, 0])
    assert labels.tolist() == [[1.0], [0.0]]


def test_the_whole_of_charades_takes_far_less_than_three_seconds():
    rng = np.random.default_rng(7)
    scores, labels = rng.random((46_575, 157), dtype=np.float32), rng.random((46_575, 157)) < 0.03
    begin = time.perf_counter()
    average_precision(scores, labels)
    assert time.perf_counter() - begin < 3  # about 0.05 s on two idle cores
