"""Tables of names between our networks and those of others, applied in both directions."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import ConfigError, DataError

Names = Mapping[str, tuple[str, ...]]  # our linear layers, each with theirs, whose rows one after another are ours
PARTS = ("weight", "bias")
ONLY_HERE = "only `ldm sample` draws from this denoiser"  # a remedy


def refuse_settings(their_class: str, *settings: tuple[str, object, str]) -> None:
    """Raise ConfigError for a setting of a denoiser that a class of diffusers does not have.

    settings: the name of each, its value, false where it is as there, and what their class does in its place.
    """
    for name, value, instead in settings:
        if value:
            what = f"{name} {value} of the denoiser cannot be expressed in diffusers' {their_class}, which {instead}"
            raise ConfigError(what, ONLY_HERE)


@dataclass(frozen=True)
class Weights:
    """Tensors of others by name. path, remedy: of errors."""

    tensors: Mapping[str, Tensor]
    path: Path
    remedy: str

    def get(self, name: str, dims: int | None = None) -> Tensor:
        """Return a tensor. Raises DataError where it is missing, or has another number of dimensions."""
        if name not in self.tensors:
            raise DataError(f"{self.path} lacks {name}", self.remedy)
        tensor = self.tensors[name]
        if dims not in (None, tensor.dim()):
            raise DataError(f"{self.path}: {name} has shape {tuple(tensor.shape)}", self.remedy)
        return tensor

    def ours(self, names: Names, wanted: Collection[str] | None = None) -> dict[str, Tensor]:
        """Return our tensors, with `wanted` those of them alone. Raises DataError naming one that they lack."""
        return {
            f"{mine}.{part}": torch.cat([self.get(f"{name}.{part}") for name in theirs])
            for mine, theirs in names.items()
            for part in PARTS
            if wanted is None or f"{mine}.{part}" in wanted
        }


def to_theirs(own: Mapping[str, Tensor], names: Names) -> dict[str, Tensor]:
    """Return their tensors, copies of ours."""
    return {
        f"{name}.{part}": piece.clone()
        for mine, theirs in names.items()
        for part in PARTS
        if f"{mine}.{part}" in own
        for name, piece in zip(theirs, own[f"{mine}.{part}"].chunk(len(theirs)), strict=True)
    }
