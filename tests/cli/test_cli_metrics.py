"""Metrics against sums done by hand."""

import math

import numpy as np
import pytest
from opennpe.cli import metrics
from opennpe.golden.errors import DataError

pytestmark = pytest.mark.fast

SCORES = np.array([[0.1, 0.9, 0.0], [0.5, 0.2, 0.3], [0.3, 0.3, 0.3]])


def test_top_k() -> None:
    assert metrics.top_k(SCORES, np.array([1, 0, 0])) == 1.0
    assert metrics.top_k(SCORES, np.array([0, 2, 2])) == 0.0
    assert metrics.top_k(SCORES, np.array([0, 2, 2]), 2) == pytest.approx(2 / 3)
    assert metrics.top_k(SCORES.reshape(3, 3, 1, 1), np.array([[1], [0], [0]])) == 1.0


def test_a_nar_scores_nothing() -> None:
    scores = SCORES.copy()
    scores[0, 2] = math.nan
    assert metrics.top_k(scores, np.array([1, 0, 0])) == pytest.approx(2 / 3)


def test_distances() -> None:
    a, b = np.array([3.0, 4.0]), np.array([3.0, 0.0])
    assert metrics.relative_l2(b, a) == pytest.approx(0.8)
    assert metrics.cosine(b, a) == pytest.approx(0.6)
    zero = np.zeros(2)
    assert metrics.relative_l2(zero, zero) == 0 and metrics.cosine(zero, zero) == 1
    assert metrics.relative_l2(a, zero) == math.inf
    assert math.isnan(metrics.relative_l2(np.array([math.nan, 1]), a))


def test_the_worst_output_counts() -> None:
    reference = {"a": np.array([[1.0, 0.0]]), "b": np.array([[2.0, 0.0]])}
    got = {"a": np.array([[1.0, 0.0]]), "b": np.array([[1.0, 0.0]])}
    assert metrics.evaluate("l2", got, reference, None) == 0.5
    got["a"][0, 0] = math.nan
    assert math.isnan(metrics.evaluate("l2", got, reference, None))


def test_the_choice_follows_the_labels() -> None:
    labels = np.array([1, 0, 2])
    assert metrics.choose("auto", {"o": SCORES}, labels) == "top1"
    assert metrics.choose("auto", {"o": SCORES.reshape(3, 3, 1, 1)}, labels) == "top1"
    assert metrics.choose("auto", {"o": SCORES}, None) == "l2"
    assert metrics.choose("auto", {"o": SCORES}, labels + 1) == "l2"
    assert metrics.choose("auto", {"o": SCORES}, labels / 2) == "l2"
    assert metrics.choose("auto", {"o": SCORES, "p": SCORES}, labels) == "l2"
    assert metrics.choose("auto", {"o": np.ones((3, 2, 5))}, labels) == "l2"
    with pytest.raises(DataError, match="needs integer labels y"):
        metrics.choose("top1", {"o": SCORES}, None)
    with pytest.raises(DataError, match="unknown metric 'top9': expected auto, top1"):
        metrics.choose("top9", {"o": SCORES}, labels)
