"""The named fields of a sample of latents: their names and forms.

A field is named by the ending of its member in a shard: `npy`, the latent, is KEY.npy. Others may be its
posterior's deviation, a label, captions or their tokens and embeddings, token maps, features: whatever the codec and
the data offer. `flip.NAME` is field NAME of the mirrored image, `crop1.NAME` that of its first crop.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

LATENT, STD, TOKENS, LABEL, FLIP = "npy", "std.npy", "tokens.npy", "cls", "flip."
MASK = "mask.npy"  # uint8 (h, w): how much of each latent pixel the loss counts
CROPS = "crop.npy"  # float32 (N, 3): the conditions of N crops
TEXT = "text"
# The arrays of every folder written before manifests listed fields.
ARRAYS = (LATENT, FLIP + LATENT, STD, FLIP + STD)
_VIEW = re.compile(r"(flip|crop\d+)\.")


def crop_prefix(number: int) -> str:
    """Return what the name of a field of a crop begins with, 1, 2, 3 …; 0 is the whole image."""
    return f"crop{number}." if number else ""


def view_prefixes(crops: int) -> list[str]:
    """Return what the names of the fields of an image's views begin with: the whole one and its crops, each mirrored.

    One that is mirrored follows the one that is not.
    """
    return [mirror + crop_prefix(number) for number in range(crops + 1) for mirror in ("", FLIP)]


def is_of_view(name: str) -> bool:
    """Return whether a field is that of another view than the whole image as it is."""
    return _VIEW.match(name) is not None


@dataclass(frozen=True)
class Field:
    """The form of one field, the same for all samples.

    dtype: numpy's name of its numbers, or "text" for UTF-8. shape: of one sample; None as the first axis where lengths
    differ.
    """

    dtype: str
    shape: tuple[int | None, ...] = ()

    @property
    def num_bytes(self) -> int | None:
        """The size of one sample; None where sizes differ."""
        if self.dtype == TEXT or None in self.shape:
            return None
        return prod(self.shape) * np.dtype(self.dtype).itemsize  # type: ignore[arg-type]

    def describe(self, made_by: str) -> dict[str, Any]:
        """Return its entry in a manifest. made_by: the fingerprint of the input that it comes from."""
        return {"dtype": self.dtype, "shape": list(self.shape), "made_by": made_by}

    def merged(self, other: "Field") -> "Field":
        """Return the form that covers both: the length is open where theirs differ. Raises ValueError if none can."""
        same = self.dtype == other.dtype and len(self.shape) == len(other.shape) and self.shape[1:] == other.shape[1:]
        if not same:
            raise ValueError(f"{other.dtype} of shape {other.shape} beside {self.dtype} of shape {self.shape}")
        return self if self.shape == other.shape else Field(self.dtype, (None, *self.shape[1:]))


def form_of(content: np.ndarray | str) -> Field:
    """Return the form of one sample's array or text."""
    return Field(TEXT) if isinstance(content, str) else Field(content.dtype.name, content.shape)


def merge(forms: Iterable[Mapping[str, Field]]) -> dict[str, Field]:
    """Return all fields of several sets of samples, each in the form that covers all. Raises ValueError if none can."""
    covering: dict[str, Field] = {}
    for each in forms:
        for name, form in each.items():
            covering[name] = covering[name].merged(form) if name in covering else form
    return covering


def fields_of(metadata: Mapping[str, Any]) -> dict[str, Field] | None:
    """Return the fields that a manifest lists; None for an older manifest, which does not list them."""
    if "fields" not in metadata:
        return None
    return {name: Field(form["dtype"], tuple(form["shape"])) for name, form in metadata["fields"].items()}
