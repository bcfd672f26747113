"""The null class, label dropout and the range of labels."""

import pytest
import torch

from ldm.core.conditioning.labels import LabelConditioning, LabelEmbedding
from ldm.core.errors import ConfigError, DataError


def test_ten_percent_of_labels_are_dropped_to_the_null_class() -> None:
    condition, labels = LabelConditioning(10), torch.arange(40_000) % 10
    uniforms = torch.rand(40_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    dropped = condition.drop(labels, uniforms, 0.1)
    assert (dropped == 10).float().mean().item() == pytest.approx(0.10, abs=0.01)
    assert torch.equal(dropped[dropped != 10], labels[dropped != 10])


def test_a_samples_label_is_dropped_by_its_own_draw_only() -> None:
    condition = LabelConditioning(3)
    labels, uniforms = torch.tensor([2, 1, 0, 2]), torch.tensor([0.05, 0.1, 0.0999, 0.9])
    assert condition.drop(labels, uniforms, 0.1).tolist() == [3, 1, 3, 2]
    alone = [condition.drop(labels[i : i + 1], uniforms[i : i + 1], 0.1).item() for i in range(4)]
    assert alone == [3, 1, 3, 2]


def test_dropout_zero_leaves_labels_and_has_no_null_row() -> None:
    condition = LabelConditioning(3, has_null=False)
    labels = torch.tensor([0, 1, 2])
    assert torch.equal(condition.drop(labels, torch.zeros(3), 0.0), labels)
    assert LabelEmbedding(condition, 8).table.weight.shape == (3, 8)
    with pytest.raises(ConfigError, match="no null class"):
        condition.null(labels)


def test_the_null_class_is_the_last_row_of_the_table() -> None:
    condition = LabelConditioning(3)
    embedding = LabelEmbedding(condition, 8)
    null = condition.null(torch.tensor([0, 2]))
    assert null.tolist() == [3, 3]
    assert torch.equal(embedding(null), embedding.table.weight[[3, 3]])


@pytest.mark.parametrize("label", [-1, 10, 10**6])
def test_a_label_outside_the_classes_is_refused_by_value_and_place(label: int) -> None:
    with pytest.raises(DataError, match=rf"shard-3: label {label} at position 1 is outside 0..9"):
        LabelConditioning(10).check(torch.tensor([0, label, 3]), "shard-3")


def test_labels_in_range_come_back_as_int64() -> None:
    checked = LabelConditioning(10).check(torch.tensor([0, 9], dtype=torch.int16), "here")
    assert checked.dtype == torch.int64
    assert checked.tolist() == [0, 9]
