"""Precision, recall, density and coverage against plain loops, on subsets, and with real and fake kept apart."""

import pytest
import torch
from torch import Tensor

from ldm.core.metrics import precision_recall as module
from ldm.core.metrics.nearest import neighbours
from ldm.core.metrics.precision_recall import density_coverage, nearest_ratio, precision_recall, squared_radii


def draw(n: int, dim: int, seed: int = 0) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().sum().sqrt())


def radii(points: Tensor, k: int) -> list[float]:
    return [sorted(distance(p, q) for j, q in enumerate(points) if j != i)[k - 1] for i, p in enumerate(points)]


def inside(point: Tensor, centres: Tensor, reach: list[float]) -> list[bool]:
    return [distance(point, centre) <= r for centre, r in zip(centres, reach, strict=True)]


@pytest.fixture(params=[3, 1024])
def rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run with chunks smaller and larger than the sets."""
    monkeypatch.setattr(module, "ROWS", request.param)


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_are_those_of_plain_loops(k: int) -> None:
    real, fake = draw(20, 2, 1), draw(13, 2, 2) + 0.7
    real_reach, fake_reach = radii(real, k), radii(fake, k)
    result = precision_recall(real=real, fake=fake, k=k)
    assert result.precision == pytest.approx(sum(any(inside(f, real, real_reach)) for f in fake) / 13)
    assert result.recall == pytest.approx(sum(any(inside(r, fake, fake_reach)) for r in real) / 20)
    assert 0 < result.recall < result.precision < 1 or k == 1


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("k", [1, 5])
def test_density_and_coverage_are_those_of_plain_loops(k: int) -> None:
    real, fake = draw(20, 2, 1), draw(13, 2, 2) + 0.7
    balls = [inside(f, real, radii(real, k)) for f in fake]
    result = density_coverage(real=real, fake=fake, k=k)
    assert result.density == pytest.approx(sum(map(sum, balls)) / (k * 13))
    assert result.coverage == pytest.approx(sum(map(any, zip(*balls, strict=True))) / 20)


def test_radii_leave_out_the_sample_itself_but_not_its_twin() -> None:
    points = torch.tensor([[0.0], [0.0], [3.0], [7.0]], dtype=torch.float64)
    assert squared_radii(points, 1).tolist() == [0, 0, 9, 16]
    assert squared_radii(points, 2).tolist() == [9, 9, 9, 49]


@pytest.mark.promise("R24")
def test_a_strict_subset_has_full_precision_and_less_recall() -> None:
    real = draw(400, 8)
    result = precision_recall(real=real, fake=real[real[:, 0] > 0.5].float())
    assert result.precision > 0.99
    assert result.recall < 0.8


@pytest.mark.promise("R24")
def test_a_strict_superset_has_full_recall_and_less_precision() -> None:
    fake = draw(400, 8)
    result = precision_recall(real=fake[fake[:, 0] > 0.5], fake=fake)
    assert result.recall == 1
    assert result.precision < 0.8


def test_a_set_against_itself_is_precise_and_covered() -> None:
    real = draw(200, 6)
    assert precision_recall(real=real, fake=real) == module.PrecisionRecall(1, 1)
    assert density_coverage(real=real, fake=real).coverage == 1


def test_sets_far_apart_share_nothing() -> None:
    real, fake = draw(50, 3, 1), draw(50, 3, 2) + 100
    assert precision_recall(real=real, fake=fake) == module.PrecisionRecall(0, 0)
    assert density_coverage(real=real, fake=fake) == module.DensityCoverage(0, 0)


def test_one_point_drawn_again_and_again_is_dense_but_covers_little() -> None:
    real = draw(200, 4)
    result = density_coverage(real=real, fake=real[:1].repeat(100, 1))
    assert result.density > 0.5
    assert result.coverage < 0.2


def test_features_far_from_the_origin_lose_no_accuracy() -> None:
    real, fake = draw(60, 4, 1), draw(60, 4, 2) * 0.8
    moved_real, moved_fake = real + 1e6, fake + 1e6
    assert precision_recall(real=moved_real, fake=moved_fake) == precision_recall(real=real, fake=fake)
    assert density_coverage(real=moved_real, fake=moved_fake) == density_coverage(real=real, fake=fake)


def test_copies_have_a_nearest_ratio_near_zero_and_fresh_samples_one_near_one() -> None:
    real = draw(800, 4, 1)
    fresh, copied = (nearest_ratio(real=real, fake=fake) for fake in (draw(300, 4, 2), real[:300] + 1e-3))
    assert fresh == pytest.approx(1, abs=0.15)
    assert copied is not None and copied < 0.02


def test_a_reference_of_copies_has_no_nearest_ratio_also_where_rounding_keeps_them_apart() -> None:
    real = torch.relu(draw(200, 64, 1))
    assert nearest_ratio(real=torch.zeros(5, 2), fake=torch.zeros(3, 2)) is None
    for copied in (real.repeat(4, 1), torch.cat([real, real[:150]])):
        assert nearest_ratio(real=copied, fake=torch.relu(draw(100, 64, 2))) is None
    few = torch.cat([real, real[:50]])  # A hundred of 250 have a copy.
    assert nearest_ratio(real=few, fake=torch.relu(draw(100, 64, 2))) == pytest.approx(1, abs=0.2)


def test_neighbours_are_those_of_plain_loops_nearest_first() -> None:
    samples, others = draw(5, 3, 1), draw(40, 3, 2)
    found = neighbours(samples, others, 4)
    for row, sample in enumerate(samples):
        ranked = sorted(range(40), key=lambda index: distance(sample, others[index]))
        assert found.indices[row].tolist() == ranked[:4]
        assert found.distances[row].tolist() == pytest.approx([distance(sample, others[i]) for i in ranked[:4]])


def test_a_copy_is_found_at_distance_zero_even_far_from_the_origin() -> None:
    others = (draw(50, 3) + 1e6).float()
    found = neighbours(others[7:8], others, 1)
    assert found.indices.tolist() == [[7]] and found.distances.tolist() == [[0.0]]
