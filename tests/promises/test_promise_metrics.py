"""R24: metrics agree with their formulas, written down again as plainly as can be, and with torch-fidelity."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from ldm.core.metrics.evaluate import Settings, compare, score
from ldm.core.metrics.frechet import frechet_distance, statistics_of
from ldm.core.metrics.inception_score import inception_score
from ldm.core.metrics.precision_recall import precision_recall
from ldm.core.seeds import generator
from tests.support.fidelity import reference
from tests.support.ledger import Trials

SUBSETS, SPLITS = 3, 7


@dataclass(frozen=True)
class Sets:
    """Features of real and fake images, and the fakes' logits; float64. size: of a subset for the kernel distance."""

    real: Tensor
    fake: Tensor
    logits: Tensor
    size: int
    seed: int

    @property
    def settings(self) -> Settings:
        return Settings(
            kernel_subsets=SUBSETS, kernel_subset_size=self.size, score_splits=SPLITS, precision_k=3, seed=self.seed
        )

    def subsets(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the features of the subsets that the kernel distance is a mean over."""
        chosen = []
        for number in range(SUBSETS):
            draws = generator(self.seed, "kernel distance", number)
            rows = [draws.choice(len(part), self.size, replace=False) for part in (self.real, self.fake)]
            chosen.append((self.real.numpy()[rows[0]], self.fake.numpy()[rows[1]]))
        return chosen

    @property
    def shuffled(self) -> Tensor:
        """The logits in the order in which they are split."""
        return self.logits[torch.from_numpy(generator(self.seed, "inception score").permutation(len(self.logits)))]


def draw(random: np.random.Generator) -> Sets:
    """Draw features of any scale, correlation and offset, of fewer images than dimensions at times."""
    dim = int(random.integers(2, 48))
    sizes = random.integers(40, 240, 2)
    scale = 10.0 ** random.uniform(-1, 1)

    def features(count: int) -> Tensor:
        mixing = random.normal(size=(dim, dim)) * random.uniform(0.1, 2, dim)
        return torch.from_numpy(
            scale * (random.normal(size=(count, dim)) @ mixing / dim**0.5 + random.normal(size=dim))
        )

    real = features(sizes[0])
    fake = real.mean(0) + features(sizes[1]) * float(random.uniform(0.5, 1.5))
    logits = torch.from_numpy(random.normal(size=(len(fake), int(random.integers(2, 30)))) * random.uniform(0.5, 5))
    return Sets(real, fake, logits, int(random.integers(10, 40)), int(random.integers(1000)))


def formulas(sets: Sets) -> dict[str, float]:
    """Fréchet distance, kernel distance, precision, recall and inception score, by loops and scipy."""
    real, fake = sets.real.numpy(), sets.fake.numpy()
    between = real.mean(0) - fake.mean(0)
    covariances = [np.atleast_2d(np.cov(part, rowvar=False)) for part in (real, fake)]
    half = scipy.linalg.sqrtm(covariances[0]).real
    root = scipy.linalg.sqrtm(half @ covariances[1] @ half).real
    distances = [mmd(x, y) for x, y in sets.subsets()]

    def inside(points: np.ndarray, centres: np.ndarray) -> float:
        found = 0
        reach = [np.sort(np.linalg.norm(centres - centre, axis=1))[3] for centre in centres]
        for point in points:
            found += any(np.linalg.norm(centres - point, axis=1) <= reach)
        return found / len(points)

    p = np.exp(sets.shuffled.numpy() - sets.shuffled.logsumexp(1, keepdim=True).numpy())
    ends = [number * len(p) // SPLITS for number in range(SPLITS + 1)]
    scores = []
    for start, stop in itertools.pairwise(ends):
        part = p[start:stop]
        scores.append(np.exp((part * (np.log(part) - np.log(part.mean(0)))).sum(1).mean()))
    return {
        "fid": float(between @ between + sum(map(np.trace, covariances)) - 2 * np.trace(root)),
        "kid": float(np.mean(distances)),
        "kid_std": float(np.std(distances)),
        "precision": inside(fake, real),
        "recall": inside(real, fake),
        "inception_score": float(np.mean(scores)),
        "inception_score_std": float(np.std(scores)),
    }


def mmd(x: np.ndarray, y: np.ndarray) -> float:
    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    def within(z: np.ndarray) -> float:
        return np.mean([kernel(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j])

    return float(within(x) + within(y) - 2 * np.mean([kernel(a, b) for a in x for b in y]))


def torch_fidelity(sets: Sets) -> dict[str, float]:
    """The same of torch-fidelity, its own random choices replaced by ours."""
    fid, kid, prc, isc = (reference(f"metric_{name}") for name in ("fid", "kid", "prc", "isc"))
    statistics = [fid.fid_features_to_statistics(part) for part in (sets.fake, sets.real)]
    distances = [kid.kernel_mmd(x, y) for x, y in sets.subsets()]
    manifold = prc.prc_features_to_metric(sets.fake, sets.real, prc_neighborhood=3, save_cpu_ram=False, verbose=False)
    scores = isc.isc_features_to_metric(sets.shuffled, splits=SPLITS, shuffle=False)
    return {
        "fid": fid.fid_statistics_to_metric(*statistics, False)[fid.KEY_METRIC_FID],
        "kid": float(np.mean(distances)),
        "kid_std": float(np.std(distances)),
        "precision": manifold[prc.KEY_METRIC_PRECISION],
        "recall": manifold[prc.KEY_METRIC_RECALL],
        "inception_score": scores[isc.KEY_METRIC_ISC_MEAN],
        "inception_score_std": scores[isc.KEY_METRIC_ISC_STD],
    }


@pytest.mark.promise("R24", quick=3, full=50)
@pytest.mark.parametrize("expected_of", [formulas, torch_fidelity])
def test_every_number_agrees_with_its_reference(
    expected_of: Callable[[Sets], dict[str, float]], trials: Trials
) -> None:
    for random in trials:
        sets = draw(random)
        found = compare(sets.real, sets.fake, "inception", sets.settings)
        found |= score(sets.logits, "inception", sets.settings)
        for name, value in expected_of(sets).items():
            assert found[f"{name}[inception]"] == pytest.approx(value, rel=1e-5, abs=1e-12), name


@pytest.mark.promise("R24", quick=3, full=50)
def test_a_set_is_at_no_frechet_distance_from_itself_in_any_order(trials: Trials) -> None:
    for number, random in enumerate(trials):
        dim = 2048 if trials.full and number == 0 else int(random.integers(1, 200))
        points = random.normal(size=(int(random.integers(2, 300)), dim))
        features = torch.from_numpy(points * random.uniform(0.01, 10, dim) + random.uniform(-10, 10)).float()
        shuffled = features[torch.from_numpy(random.permutation(len(features)))]
        assert frechet_distance(statistics_of(features), statistics_of(shuffled)) < 1e-6


@pytest.mark.promise("R24", quick=3, full=50)
def test_a_strict_subset_is_precise_and_recalls_its_share_and_a_superset_the_other_way(trials: Trials) -> None:
    """Of several clouds far apart, the fakes are the real ones of some."""
    for random in trials:
        clouds, each, dim = int(random.integers(2, 7)), int(random.integers(5, 60)), int(random.integers(2, 40))
        centres = torch.eye(clouds, max(dim, clouds), dtype=torch.float64) * 1000
        cloud = torch.from_numpy(np.repeat(np.arange(clouds), each))
        everything = centres[cloud] + torch.from_numpy(random.normal(size=(len(cloud), centres.shape[1])))
        kept = int(random.integers(1, clouds))
        some = everything[cloud < kept]
        subset, superset = precision_recall(real=everything, fake=some), precision_recall(real=some, fake=everything)
        assert (subset.precision, subset.recall) == pytest.approx((1, kept / clouds))
        assert (superset.precision, superset.recall) == pytest.approx((kept / clouds, 1))


@pytest.mark.promise("R24", quick=3, full=50)
def test_the_inception_score_lies_between_one_and_the_number_of_classes(trials: Trials) -> None:
    for random in trials:
        classes = int(random.integers(2, 40))
        logits = torch.from_numpy(random.normal(size=(int(random.integers(20, 200)), classes)))
        mean, std = inception_score(logits * random.uniform(0, 20), splits=SPLITS, seed=int(random.integers(100)))
        assert 1 - 1e-9 <= mean <= classes and std >= 0
        sharp = torch.eye(classes, dtype=torch.float64).repeat(5, 1) * 1000
        assert inception_score(sharp, splits=1)[0] == pytest.approx(classes)
