"""Conditions: named tensors, all with the batch axis first, that a denoiser's output depends on.

Guidance, samplers and editing pass conditions on and call the functions here. They never look inside: only the
conditioning and the network know the fields. Scalars of a sample, such as a guidance scale, are fields (B,).
Without a condition the dict is empty.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Cond = dict[str, Tensor]


def each(cond: Cond, function: Callable[[Tensor], Tensor]) -> Cond:
    """Return the condition with every field replaced by `function` of it."""
    return {name: function(field) for name, field in cond.items()}


def cat(*conds: Cond) -> Cond:
    """Join conditions of the same fields along the batch axis."""
    names = conds[0].keys()
    assert all(cond.keys() == names for cond in conds), f"other fields: {[sorted(cond) for cond in conds]}"
    return {name: torch.cat([cond[name] for cond in conds]) for name in names}


def index(cond: Cond, rows: Any) -> Cond:
    """Return the samples that `rows` chooses: a slice, or whole numbers."""
    return each(cond, lambda field: field[rows])


def where(chosen: Tensor, yes: Cond, no: Cond) -> Cond:
    """Take each sample, all fields at once, from `yes` where chosen (B,) holds and from `no` elsewhere."""
    return {
        name: torch.where(chosen.view(-1, *(1,) * (field.ndim - 1)), yes[name], field) for name, field in no.items()
    }


def once(function: Callable[[Cond], Cond]) -> Callable[[Cond], Cond]:
    """Return `function` with its last result kept: samplers pass the same condition at every step."""
    last: tuple[Cond, Cond] | None = None

    def remembered(cond: Cond) -> Cond:
        nonlocal last
        if last is None or last[0] is not cond:
            last = cond, function(cond)
        return last[1]

    return remembered
