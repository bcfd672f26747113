"""All numbers of a set of images against a reference, in one extractor's features, with their conditions.

Every number has a floor: the same number for real images in place of the fakes.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, DataError
from ..features.extractor import INCEPTION, Extractor, Features
from ..seeds import generator
from .frechet import GaussianStatistics, frechet_distance, statistics_of
from .inception_score import inception_score
from .kernel import kernel_distance
from .precision_recall import density_coverage, nearest_ratio, precision_recall


@dataclass(frozen=True)
class Settings:
    """What the numbers depend on besides the images; the defaults are those of the papers.

    manifold_images: of each side, at most, for precision, recall, density, coverage and the nearest ratio, whose cost
    grows with the square; chosen by the seed.
    """

    kernel_subsets: int = 100
    kernel_subset_size: int = 1000
    precision_k: int = 3
    density_k: int = 5
    manifold_images: int = 10_000
    score_splits: int = 10
    seed: int = 0

    @property
    def least(self) -> int:
        """How many images a set needs."""
        return max(2, self.score_splits, self.precision_k + 1, self.density_k + 1)


@dataclass(frozen=True)
class Report:
    """numbers: by name, the extractor in the name; floor: the same names, real against real; conditions: JSON."""

    numbers: dict[str, float]
    floor: dict[str, float]
    conditions: dict[str, Any]


def require_enough(num_reference: int, num_samples: int, settings: Settings | None = None) -> None:
    """Raise DataError for sets that are too small to compare; called also before they are read."""
    least = (settings or Settings()).least
    for role, number, needed in (("reference", num_reference, 2 * least), ("samples", num_samples, least)):
        if number < needed:
            raise DataError(f"the {role}: {number} images are too few", f"give at least {needed}")


def evaluate(
    real: Features,
    fake: Features,
    extractor: Extractor,
    labels: Tensor | None = None,
    columns: Sequence[int] | None = None,
    settings: Settings | None = None,
) -> Report:
    """Compare fakes with the reference, and where the extractor knows their classes, count those read as their own.

    labels: int64 (N_fake,), of the fakes, -1 for those of no class; columns: the extractor's logit of each class, see
    `class_columns`. Raises DataError for too few images.
    """
    settings = settings or Settings()
    require_enough(len(real), len(fake), settings)
    numbers = compare(real.features, fake.features, extractor.name, settings)
    numbers |= score(fake.logits, extractor.name, settings)
    chosen, _ = split_reference(len(real), len(fake), settings.seed)
    floor = compare_reals(real, len(fake), extractor.name, settings)
    floor |= score(real.logits[chosen], extractor.name, settings)
    if labels is not None and columns is not None:
        numbers |= class_accuracy(fake.logits, labels, columns, extractor.name)
    conditions = conditions_of(extractor, len(real), len(fake), settings)
    return Report(numbers, floor, conditions)


def compare_reals(real: Features, num_samples: int, extractor_name: str, settings: Settings) -> dict[str, float]:
    """Return the floor of `compare`: some real images, as many as samples if possible, against the rest."""
    chosen, rest = split_reference(len(real), num_samples, settings.seed)
    return compare(real.features[rest], real.features[chosen], extractor_name, settings)


def conditions_of(extractor: Extractor, num_reference: int, num_samples: int, settings: Settings) -> dict[str, Any]:
    """Return what the numbers depend on besides the images and how they were drawn, JSON."""
    chosen, rest = split_reference(num_reference, num_samples, settings.seed)
    return {
        "extractor": extractor.name,
        "weights_sha256": extractor.weights_sha256,
        "resize": extractor.resize,
        "n_reference": num_reference,
        "n_samples": num_samples,
        "n_floor": [len(rest), len(chosen)],
        **asdict(settings),
        "kernel_subset_size": min(settings.kernel_subset_size, num_reference, num_samples),
    }


def compare(real: Tensor, fake: Tensor, extractor_name: str, settings: Settings | None = None) -> dict[str, float]:
    """Return all distances of features fake (M, D) from real (N, D), by name; those that are defined."""
    settings = settings or Settings()
    seed, subsets, size = settings.seed, settings.kernel_subsets, settings.kernel_subset_size
    kernel = kernel_distance(real, fake, subsets, size, seed)
    some_real, some_fake = (_some(features, settings) for features in (real, fake))
    manifold = precision_recall(real=some_real, fake=some_fake, k=settings.precision_k)
    balls = density_coverage(real=some_real, fake=some_fake, k=settings.density_k)
    nearest = nearest_ratio(real=some_real, fake=some_fake)
    kernel_name = "kid" if extractor_name == INCEPTION else "kernel_distance"
    return {
        **compare_statistics(statistics_of(real), statistics_of(fake), extractor_name),
        f"{kernel_name}[{extractor_name}]": kernel.mean,
        f"{kernel_name}_std[{extractor_name}]": kernel.std,
        f"precision[{extractor_name}]": manifold.precision,
        f"recall[{extractor_name}]": manifold.recall,
        f"density[{extractor_name}]": balls.density,
        f"coverage[{extractor_name}]": balls.coverage,
        **({} if nearest is None else {f"nearest_ratio[{extractor_name}]": nearest}),
    }


def compare_statistics(real: GaussianStatistics, fake: GaussianStatistics, extractor_name: str) -> dict[str, float]:
    """Return the Fréchet distance by name: all that saved statistics allow. Only in Inception's features is it FID."""
    name = "fid" if extractor_name == INCEPTION else "frechet_distance"
    return {f"{name}[{extractor_name}]": frechet_distance(real, fake)}


def score(logits: Tensor, extractor_name: str, settings: Settings | None = None) -> dict[str, float]:
    """Return the inception score in this extractor's classes, mean and standard deviation over the splits, by name.

    Nothing where it has no classes.
    """
    if not logits.shape[1]:
        return {}
    settings = settings or Settings()
    mean, std = inception_score(logits, settings.score_splits, settings.seed)
    return {f"inception_score[{extractor_name}]": mean, f"inception_score_std[{extractor_name}]": std}


def split_reference(n_real: int, n_fake: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw the images that replace the fakes in the floor, and return the rest, the reference.

    As many as there are fakes, at most half the reference, so that neither side is in the other. Two int64 index
    tensors, disjoint, together all of range(n_real).
    """
    order = torch.from_numpy(generator(seed, "real-against-real floor").permutation(n_real))
    count = min(n_fake, n_real // 2)
    return order[:count], order[count:]


def class_accuracy(logits: Tensor, labels: Tensor, columns: Sequence[int], extractor_name: str) -> dict[str, float]:
    """Return the share of images read as their class, in [0, 1]: among all classes, and among those asked for.

    logits (N, K); labels int64 (N,) in 0..len(columns)-1, or -1 for images of no class, which do not count; columns:
    the logit of each label.
    """
    assert len(logits) == len(labels) > 0, f"{len(logits)} logits, {len(labels)} labels"
    labels = labels.cpu()
    logits, labels = logits[labels >= 0], labels[labels >= 0]
    if not len(labels):
        return {}
    chosen = torch.tensor(columns, dtype=torch.int64)
    wanted = chosen[labels]
    numbers = {f"class_accuracy[{extractor_name}]": float((logits.argmax(1) == wanted).double().mean())}
    if len(columns) < logits.shape[1]:
        right = chosen[logits[:, chosen].argmax(1)] == wanted
        numbers[f"class_accuracy_among_{len(columns)}[{extractor_name}]"] = float(right.double().mean())
    return numbers


def class_columns(class_names: Sequence[str], extractor_names: Sequence[str]) -> list[int]:
    """Return the extractor's index of each class, matched by name or by one of its comma-separated synonyms.

    Case, underscores and hyphens are ignored where no name is equal. Raises ConfigError naming a class that has no
    match, or several.
    """
    names = [_plain(name) for name in extractor_names]
    columns = []
    for name in class_names:
        matches = [i for i, known in enumerate(extractor_names) if name == known]
        matches = matches or [i for i, known in enumerate(names) if _plain(name) == known]
        matches = matches or [i for i, known in enumerate(names) if _plain(name) in known.split(", ")]
        if len(matches) != 1:
            seen = f"{len(matches)} classes" if matches else "no class"
            raise ConfigError(
                f"class {name!r} matches {seen} of the feature extractor",
                "rename the class folder to one of its names, or use another extractor",
            )
        columns += matches
    return columns


def _some(features: Tensor, settings: Settings) -> Tensor:
    """Return at most `manifold_images` of the features, chosen by the seed."""
    if len(features) <= settings.manifold_images:
        return features
    order = generator(settings.seed, "manifold").permutation(len(features))[: settings.manifold_images]
    return features[torch.from_numpy(order)]


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())
