"""The Fréchet distance against closed forms, scipy's matrix square root, and across save and load."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from ldm.core.errors import DataError
from ldm.core.features.extractor import Extractor
from ldm.core.metrics.frechet import (
    GaussianStatistics,
    frechet_distance,
    load_statistics,
    save_statistics,
    statistics_of,
)


def draw(n: int, dim: int, seed: int = 0) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(mean: Tensor, covariance: Tensor, n: int = 1000) -> GaussianStatistics:
    return GaussianStatistics(n, mean, covariance * (n - 1))


def extractor(name: str = "toy", sha256: str = "00", dim: int = 4) -> Extractor:
    return Extractor(name, dim, sha256, "none", None, torch.device("cpu"), lambda x: (x, x))


def test_mean_and_covariance_are_numpys() -> None:
    features = draw(50, 6).float() * 3 + 100
    statistics = statistics_of(features)
    np.testing.assert_allclose(statistics.mean, features.double().numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(statistics.covariance, np.cov(features.double().numpy(), rowvar=False), rtol=1e-9)


@pytest.mark.parametrize("sizes", [(50,), (1, 49), (7, 1, 30, 12)])
def test_statistics_merged_over_a_stream_are_those_of_the_whole(sizes: tuple[int, ...]) -> None:
    features = draw(50, 6) + 1000
    whole = statistics_of(features)
    first, *others = (statistics_of(batch) for batch in features.split(list(sizes)))
    for other in others:
        first = first.merge(other)
    assert first.n == 50
    torch.testing.assert_close(first.mean, whole.mean, rtol=1e-13, atol=0)
    torch.testing.assert_close(first.scatter, whole.scatter, rtol=1e-9, atol=1e-9)


def test_shifted_gaussians_are_as_far_as_their_means() -> None:
    covariance = statistics_of(draw(40, 5)).covariance
    shift = torch.tensor([1.0, -2.0, 0.0, 0.5, 3.0], dtype=torch.float64)
    mean = torch.zeros(5, dtype=torch.float64)
    distance = frechet_distance(gaussian(mean, covariance), gaussian(mean + shift, covariance))
    assert distance == pytest.approx(float(shift.square().sum()), rel=1e-12)


def test_a_covariance_scaled_by_c_squared_costs_c_minus_one_squared_of_its_trace() -> None:
    covariance = statistics_of(draw(40, 5)).covariance
    mean = torch.zeros(5, dtype=torch.float64)
    distance = frechet_distance(gaussian(mean, covariance), gaussian(mean, 9 * covariance))
    assert distance == pytest.approx(4 * float(covariance.trace()), rel=1e-12)


def test_commuting_covariances_give_the_sum_over_standard_deviations() -> None:
    a, b = torch.tensor([1.0, 4.0, 9.0]).double(), torch.tensor([16.0, 0.0, 1.0]).double()
    mean = torch.zeros(3, dtype=torch.float64)
    distance = frechet_distance(gaussian(mean, a.diag()), gaussian(mean, b.diag()))
    assert distance == pytest.approx((1 - 4) ** 2 + 2**2 + (3 - 1) ** 2, rel=1e-12)


@pytest.mark.promise("R24")
@pytest.mark.parametrize(("n", "dim"), [(200, 16), (30, 64), (2, 8)])
def test_a_set_is_at_no_distance_from_itself(n: int, dim: int) -> None:
    features = draw(n, dim) * 10 + 5
    shuffled = features.flip(0)
    assert frechet_distance(statistics_of(features), statistics_of(shuffled)) < 1e-6


@pytest.mark.parametrize("dim", [3, 20])
def test_distance_agrees_with_scipys_matrix_square_root(dim: int) -> None:
    a = statistics_of(draw(100, dim, 1) @ draw(dim, dim, 2))
    b = statistics_of(draw(80, dim, 3) @ draw(dim, dim, 4) + 0.3)
    root = scipy.linalg.sqrtm((a.covariance @ b.covariance).numpy()).real
    expected = float((a.mean - b.mean).square().sum() + (a.covariance + b.covariance).trace()) - 2 * np.trace(root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-9)


def test_saved_statistics_come_back_unchanged(tmp_path: Path) -> None:
    statistics = statistics_of(draw(20, 4))
    save_statistics(statistics, extractor(), tmp_path)
    loaded = load_statistics(tmp_path, extractor())
    assert loaded.n == 20
    assert torch.equal(loaded.mean, statistics.mean)
    assert torch.equal(loaded.scatter, statistics.scatter)


@pytest.mark.parametrize(("other", "named"), [(extractor(name="x"), "'x'"), (extractor(sha256="11"), "weights_sha256")])
def test_statistics_of_another_extractor_are_refused(tmp_path: Path, other: Extractor, named: str) -> None:
    save_statistics(statistics_of(draw(20, 4)), extractor(), tmp_path)
    with pytest.raises(DataError, match=named):
        load_statistics(tmp_path, other)


def test_a_flipped_bit_in_saved_statistics_is_named(tmp_path: Path) -> None:
    save_statistics(statistics_of(draw(20, 4)), extractor(), tmp_path)
    path = tmp_path / "statistics.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"statistics\.safetensors is damaged"):
        load_statistics(tmp_path, extractor())


def test_statistics_of_too_few_images_are_refused(tmp_path: Path) -> None:
    save_statistics(statistics_of(draw(20, 4)), extractor(), tmp_path)
    path = tmp_path / "statistics.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "n": 1}))
    with pytest.raises(DataError, match="n 1"):
        load_statistics(tmp_path, extractor())
