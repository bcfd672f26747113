"""The inception score at its closed forms."""

import math

import pytest
import torch

from ldm.core.metrics.inception_score import inception_score


def test_one_sharp_class_per_image_all_classes_alike_scores_the_number_of_classes() -> None:
    logits = 1000 * torch.eye(4).repeat(5, 1)
    assert inception_score(logits, splits=1)[0] == pytest.approx(4)


def test_equal_predictions_score_one() -> None:
    logits = torch.tensor([[1.0, 2.0, -3.0]]).repeat(12, 1)
    mean, std = inception_score(logits, splits=3)
    assert mean == pytest.approx(1)
    assert std == pytest.approx(0, abs=1e-12)


def test_score_of_two_soft_predictions_is_the_mutual_information() -> None:
    p = torch.tensor([[0.9, 0.1], [0.2, 0.8]], dtype=torch.float64)
    marginal = (0.55, 0.45)
    information = sum(0.5 * q * math.log(q / m) for row in p.tolist() for q, m in zip(row, marginal, strict=True))
    assert inception_score(p.log() + 7, splits=1)[0] == pytest.approx(math.exp(information))


def test_samples_sorted_by_class_do_not_change_the_score() -> None:
    logits = 30 * torch.eye(5).repeat_interleave(100, 0)
    mean, _ = inception_score(logits, splits=10)
    assert mean > 4.5  # Without shuffling, each split would see one class only and score 1.


def test_the_deviation_is_that_of_the_parts_themselves() -> None:
    """Two parts, one of two sharp classes and one of one: scores 2 and 1 have the deviation 1/2, divided by 2."""
    logits = 1000 * torch.eye(2)[[0, 1, 0, 0]]
    seed = next(seed for seed in range(100) if inception_score(logits, 2, seed)[0] == pytest.approx(1.5))
    assert inception_score(logits, 2, seed) == (pytest.approx(1.5), pytest.approx(0.5))
