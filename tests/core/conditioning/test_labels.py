"""The null class, label dropout and the range of labels."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from ldm.core.conditioning.conditioning import Conditioning, NoConditioning, Request, drop, unconditional
from ldm.core.conditioning.labels import LabelConditioning, LabelEmbedding
from ldm.core.conditioning.names import KIND_NAMES
from ldm.core.conditioning.registry import KINDS, conditioning_of, rebuilt, recorded
from ldm.core.diffusion.conditions import Cond, index
from ldm.core.errors import ConfigError, DataError


def classes(number: int, has_null: bool = True) -> LabelConditioning:
    return LabelConditioning(tuple(f"class {index}" for index in range(number)), has_null)


def test_ten_percent_of_labels_are_dropped_to_the_null_class() -> None:
    labels = torch.arange(40_000) % 10
    uniforms = torch.rand(40_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    dropped = drop(classes(10), {"labels": labels}, uniforms, 0.1)["labels"]
    assert (dropped == 10).float().mean().item() == pytest.approx(0.10, abs=0.01)
    assert torch.equal(dropped[dropped != 10], labels[dropped != 10])


def test_a_samples_label_is_dropped_by_its_own_draw_only() -> None:
    cond, uniforms = {"labels": torch.tensor([2, 1, 0, 2])}, torch.tensor([0.05, 0.1, 0.0999, 0.9])
    assert drop(classes(3), cond, uniforms, 0.1)["labels"].tolist() == [3, 1, 3, 2]
    alone = [
        drop(classes(3), index(cond, slice(i, i + 1)), uniforms[i : i + 1], 0.1)["labels"].item() for i in range(4)
    ]
    assert alone == [3, 1, 3, 2]


def test_dropout_zero_leaves_labels_and_has_no_null_row() -> None:
    cond = {"labels": torch.tensor([0, 1, 2])}
    assert drop(classes(3, has_null=False), cond, torch.zeros(3), 0.0) is cond
    assert LabelEmbedding(3, has_null=False, width=8).table.weight.shape == (3, 8)


@pytest.mark.parametrize("conditioning", [classes(3, has_null=False), NoConditioning()])
def test_without_a_null_there_is_nothing_to_guide_away_from(conditioning: Conditioning) -> None:
    with pytest.raises(ConfigError, match="no null class"):
        unconditional(conditioning, {"labels": torch.tensor([0])})


def test_the_null_class_is_the_last_row_of_the_table() -> None:
    embedding = LabelEmbedding(3, has_null=True, width=8)
    null = classes(3).null(2, torch.device("cpu"))["labels"]
    assert null.tolist() == [3, 3] and null.dtype == torch.int64
    assert torch.equal(embedding(null), embedding.table.weight[[3, 3]])


@dataclass(frozen=True)
class Pairs:
    """Labels and words, the null of each its own, as a conditioning of both has it."""

    kind = "pairs"
    fields = ("labels", "words")
    has_null = True
    class_names = ()

    def null(self, n: int, device: torch.device) -> Cond:
        return {"labels": torch.full((n,), 3, device=device), "words": torch.zeros(n, 2, 4, device=device)}

    def request(self, asked: Mapping[str, str]) -> Request:
        raise NotImplementedError

    def recall(self, record: Mapping[str, Any]) -> dict[str, str]:
        raise NotImplementedError

    def groups(self) -> Request:
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind}


def test_all_fields_of_a_sample_are_dropped_by_one_draw_and_scalars_stay() -> None:
    cond = {"labels": torch.tensor([0, 1]), "words": torch.ones(2, 2, 4), "guidance": torch.tensor([2.0, 3.0])}
    dropped = drop(Pairs(), cond, torch.tensor([0.05, 0.5]), 0.1)
    assert dropped["labels"].tolist() == [3, 1] and dropped["words"].mean((1, 2)).tolist() == [0, 1]
    assert dropped["guidance"].tolist() == [2, 3]


@pytest.mark.parametrize("conditioning", [classes(3), classes(2, has_null=False), NoConditioning()])
def test_a_conditioning_is_rebuilt_from_what_it_describes(conditioning: Conditioning) -> None:
    described = json.loads(json.dumps(conditioning.describe()))
    assert rebuilt(described) == conditioning == conditioning_of({"conditioning": described}, conditioning.has_null)


def test_manifests_that_name_classes_and_no_conditioning_are_of_labels() -> None:
    names = {"class_names": ["cat", "dog"]}
    assert conditioning_of({**names, "label_dropout": 0.1}) == LabelConditioning(("cat", "dog"))
    assert conditioning_of({**names, "label_dropout": 0.0}) == LabelConditioning(("cat", "dog"), has_null=False)
    assert conditioning_of(names, dropout=0.2) == LabelConditioning(("cat", "dog"))


def test_a_request_has_a_row_for_each_class_that_it_names() -> None:
    request = classes(4).request({"classes": "2,0"})
    assert request.cond["labels"].tolist() == [2, 0] and request.titles == ("class 2", "class 0")
    assert request.records[0] == {"label": 2, "class": "class 2"}
    assert classes(4).request({}).titles == classes(4).groups().titles == classes(4).class_names


def test_a_model_is_asked_only_for_conditions_of_its_own_kind() -> None:
    assert NoConditioning().request({"classes": "all"}) == NoConditioning().groups()
    assert NoConditioning().groups().cond == {} and NoConditioning().groups().records == ({},)
    for conditioning, asked in ((NoConditioning(), {"classes": "cat"}), (classes(2), {"prompt": "a cat"})):
        with pytest.raises(ConfigError, match=r"=(a )?cat`: this model is conditioned on"):
            conditioning.request(asked)


def test_of_an_unconditional_model_nothing_is_dropped() -> None:
    cond = {"guidance": torch.tensor([2.0, 3.0])}
    assert drop(NoConditioning(), cond, torch.zeros(2), 0.5) is cond


@pytest.mark.parametrize("described", [{"kind": "smells"}, {"kind": "labels"}, {"kind": ["labels"]}])
def test_a_conditioning_that_cannot_be_read_is_refused(described: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="cannot read"):
        conditioning_of({"conditioning": described})


@pytest.mark.parametrize("label", [-1, 10, 10**6])
def test_a_label_outside_the_classes_is_refused_by_value_and_place(label: int) -> None:
    with pytest.raises(DataError, match=rf"shard-3: label {label} at position 1 is outside 0..9"):
        classes(10).check(torch.tensor([0, label, 3]), "shard-3")


def test_labels_in_range_come_back_as_int64() -> None:
    checked = classes(10).check(torch.tensor([0, 9], dtype=torch.int16), "here")
    assert checked.dtype == torch.int64
    assert checked.tolist() == [0, 9]


@pytest.mark.parametrize("conditioning", [NoConditioning(), LabelConditioning(("cat", "dog"), has_null=False)])
def test_what_a_manifest_records_is_the_conditioning_again(conditioning: Conditioning) -> None:
    assert conditioning_of(json.loads(json.dumps(recorded(conditioning)))) == conditioning


def test_settings_name_the_kinds_that_the_registry_has() -> None:
    assert {*KIND_NAMES} == KINDS.keys()
