"""Class labels as a condition, with the null class that stands for "no class" in classifier-free guidance.

Labels are int64 (B,), 0 .. num_classes - 1; the null class is `num_classes`, and nobody but this file knows.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import ConfigError, DataError


@dataclass(frozen=True)
class LabelConditioning:
    """What labels there are. has_null: whether a null class was trained, that is, label dropout was above 0."""

    num_classes: int
    has_null: bool = True

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise ConfigError(f"num_classes is {self.num_classes}", "give at least one class")

    def check(self, labels: Tensor, source: str) -> Tensor:
        """Return the labels as int64; DataError naming `source` and the first label outside 0 .. num_classes - 1."""
        outside = torch.nonzero((labels < 0) | (labels >= self.num_classes)).flatten()
        if len(outside):
            index = int(outside[0])
            raise DataError(
                f"{source}: label {int(labels[index])} at position {index} is outside 0..{self.num_classes - 1}",
                "correct the label, or train on data that has this class",
            )
        return labels.to(torch.int64)

    def null(self, labels: Tensor) -> Tensor:
        """Return the null class in the place of every label; ConfigError where none was trained."""
        if not self.has_null:
            raise ConfigError(
                "this model was trained with label dropout 0 and has no null class to guide away from",
                "use --cfg 1, or train with --label-dropout 0.1",
            )
        return torch.full_like(labels, self.num_classes)

    def drop(self, labels: Tensor, uniforms: Tensor, p: float) -> Tensor:
        """Replace labels by the null class where the sample's own draw, uniforms (B,) in [0, 1), is below p.

        Ho & Salimans 2022, "Classifier-free diffusion guidance": p is the probability of unconditional training.
        """
        assert uniforms.shape == labels.shape, f"{tuple(uniforms.shape)} draws for {tuple(labels.shape)} labels"
        if p == 0:
            return labels
        return torch.where(uniforms < p, self.null(labels), labels)


class LabelEmbedding(nn.Module):
    """A vector (B, width) for each label (B,), with a last row for the null class where there is one."""

    def __init__(self, conditioning: LabelConditioning, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(conditioning.num_classes + conditioning.has_null, width)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, labels: Tensor) -> Tensor:
        return self.table(labels)
