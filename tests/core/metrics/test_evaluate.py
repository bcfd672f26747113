"""The report: names, floor, class accuracy, and what is refused."""

import pytest
import torch
from torch import Tensor

from ldm.core.errors import ConfigError, DataError
from ldm.core.features.extractor import Extractor, Features
from ldm.core.metrics.evaluate import Settings, class_accuracy, class_columns, compare, evaluate, split_reference

QUICK = Settings(kernel_subsets=3, kernel_subset_size=50, score_splits=2)
NUMBERS = (
    "frechet_distance",
    "kernel_distance",
    "kernel_distance_std",
    "precision",
    "recall",
    "density",
    "coverage",
    "nearest_ratio",
    "inception_score",
    "inception_score_std",
)


def draw(n: int, dim: int, seed: int = 0) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


def seen(n: int, seed: int, move: float = 0.0) -> Features:
    features = draw(n, 6, seed) + move
    return Features(features, features[:, :3])


def extractor(name: str = "toy", class_names: tuple[str, ...] | None = ("a", "b", "c")) -> Extractor:
    return Extractor(name, 6, "abc", "none", class_names, torch.device("cpu"), lambda x: (x, x))


def test_every_number_names_its_extractor_and_stands_beside_its_floor() -> None:
    report = evaluate(seen(100, 1), seen(40, 2), extractor(), settings=QUICK)
    assert set(report.numbers) == set(report.floor) == {f"{name}[toy]" for name in NUMBERS}
    assert report.conditions["weights_sha256"] == "abc"
    assert report.conditions["resize"] == "none"
    assert (report.conditions["n_reference"], report.conditions["n_samples"]) == (100, 40)
    assert report.conditions["n_floor"] == [60, 40]
    assert report.conditions["kernel_subset_size"] == 40


def test_nearest_neighbours_are_sought_among_so_many_images_and_the_rest_count_for_the_other_numbers() -> None:
    real, fake = draw(300, 4, 1), draw(90, 4, 2)
    few = Settings(kernel_subsets=3, kernel_subset_size=50, manifold_images=40)
    numbers, whole = compare(real, fake, "toy", few), compare(real, fake, "toy", QUICK)
    assert all((40 * numbers[f"{name}[toy]"]) % 1 == pytest.approx(0) for name in ("precision", "recall", "coverage"))
    assert numbers["recall[toy]"] != whole["recall[toy]"]
    assert numbers["frechet_distance[toy]"] == whole["frechet_distance[toy]"]


def test_only_inception_is_called_fid_and_kid() -> None:
    real, fake = draw(20, 4, 1), draw(20, 4, 2)
    assert {"fid[inception]", "kid[inception]"} <= set(compare(real, fake, "inception", QUICK))
    assert not any(name.startswith(("fid", "kid")) for name in compare(real, fake, "mobilenet-v2", QUICK))


def test_real_images_are_at_the_floor_and_others_are_not() -> None:
    name = "frechet_distance[toy]"
    alike = evaluate(seen(400, 1), seen(200, 2), extractor(), settings=QUICK)
    apart = evaluate(seen(400, 1), seen(200, 2, move=1.0), extractor(), settings=QUICK)
    assert alike.numbers[name] == pytest.approx(alike.floor[name], abs=0.3)
    assert apart.numbers[name] > 10 * apart.floor[name]
    assert apart.floor == alike.floor


def test_floor_takes_disjoint_parts_as_many_as_there_are_fakes_at_most_half() -> None:
    for n_real, n_fake, count in ((100, 30, 30), (100, 80, 50), (7, 100, 3)):
        chosen, rest = split_reference(n_real, n_fake, seed=0)
        assert len(chosen) == count
        assert sorted([*chosen.tolist(), *rest.tolist()]) == list(range(n_real))


@pytest.mark.promise("R24")
def test_precision_and_recall_are_not_exchanged_in_the_report() -> None:
    real = seen(300, 4)
    within = real.features[:, 0] > 0.5
    report = evaluate(real, Features(real.features[within], real.logits[within]), extractor(), settings=QUICK)
    assert report.numbers["precision[toy]"] > 0.99
    assert report.numbers["recall[toy]"] < 0.8


def test_accuracy_among_the_asked_classes_forgives_confusion_with_others() -> None:
    logits = torch.tensor([[9.0, 1, 0, 0], [0, 1, 2, 9], [0, 1, 2, 0], [0, 3, 2, 9]])
    numbers = class_accuracy(logits, torch.tensor([0, 1, 1, 1]), [0, 2], "toy")
    assert numbers == {"class_accuracy[toy]": 0.5, "class_accuracy_among_2[toy]": 1.0}


def test_accuracy_is_reported_for_labels_in_the_datas_own_order_of_classes() -> None:
    fake = Features(draw(20, 6), torch.eye(3)[torch.arange(20) % 3])
    labels = torch.tensor([1, 2, 0])[torch.arange(20) % 3]  # Into the names below: a, b, c.
    report = evaluate(seen(40, 1), fake, extractor(), labels, class_columns(["c", "a", "b"], ["a", "b", "c"]), QUICK)
    assert report.numbers["class_accuracy[toy]"] == 1


def test_class_names_match_by_synonym_without_case_or_underscores() -> None:
    known = ["background", "tench, Tinca tinca", "chain saw, chainsaw", "crane", "crane, bird"]
    assert class_columns(["chain_saw", "Tench", "Tinca-Tinca", "crane"], known) == [2, 1, 1, 3]


def test_a_class_name_that_is_the_same_wins_over_those_that_are_alike() -> None:
    assert class_columns(["a", "A", "cat-dog", "cat_dog"], ["A", "a", "cat_dog", "cat-dog"]) == [1, 0, 3, 2]


@pytest.mark.parametrize(("name", "said"), [("horse", "no class"), ("bird", "2 classes")])
def test_class_without_one_match_is_named(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"'{name}' matches {said}"):
        class_columns([name], ["dog", "crane, bird", "hen, bird"])


def test_too_few_images_are_refused() -> None:
    with pytest.raises(DataError, match="the samples: 5 images"):
        evaluate(seen(40, 1), seen(5, 2), extractor(), settings=QUICK)
    with pytest.raises(DataError, match="the reference: 11 images"):
        evaluate(seen(11, 1), seen(40, 2), extractor(), settings=QUICK)
