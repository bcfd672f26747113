"""Texts of several encoders, of which each may be dropped alone (Esser et al. 2024, Stable Diffusion 3)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..diffusion.conditions import Cond
from ..errors import ConfigError
from .conditioning import Conditioning
from .text import POOLED, TOKENS, TextConditioning

_BESIDE = "clip"  # the kind of encoders whose vectors stand side by side


@dataclass(frozen=True)
class Place:
    """Which rows and columns of a text's tokens an encoder made, and which of its vector of the whole."""

    rows: slice
    columns: slice
    whole: slice


def places(described: Mapping[str, Any]) -> list[Place]:
    """Return the place of each encoder of a description, in its order.

    Those whose vectors stand side by side come first, and after their tokens those of the others. Each has the same
    number of tokens in all texts, as where their padding is seen.
    """
    parts: Sequence[Mapping[str, Any]] = described["parts"]
    beside = [part["tokens"] for part in parts if part["name"] == _BESIDE]
    column, row, whole, found = 0, max(beside, default=0), 0, []
    for part in parts:
        width, pooled = part["widths"]
        first, start = (0, column) if part["name"] == _BESIDE else (row, 0)
        rows, columns = slice(first, first + part["tokens"]), slice(start, start + width)
        found.append(Place(rows, columns, slice(whole, whole + pooled)))
        whole += pooled
        if part["name"] == _BESIDE:
            column += width
        else:
            row += part["tokens"]
    return found


def require_encoders(conditioning: Conditioning, shares: Sequence[float]) -> None:
    """Raise ConfigError where texts are not of as many encoders as there are shares, each with tokens of its own."""
    if not shares:
        return
    parts = conditioning.encoder.get("parts", ()) if isinstance(conditioning, TextConditioning) else ()
    if len(parts) != len(shares):
        raise ConfigError(
            f"`encoder_dropout` has {len(shares)} shares, and texts are read by {len(parts)} frozen encoders",
            "give one for each, in the order in which they were given to encode" if parts else "use `label_dropout`",
        )
    if not all("tokens" in part for part in parts):
        raise ConfigError(
            "`encoder_dropout` needs texts of as many tokens each: masked ones do not say which encoder made which",
            "encode with `text.padding=seen`",
        )


def drop_encoders(
    conditioning: TextConditioning, cond: Cond, uniforms: Sequence[Tensor], shares: Sequence[float]
) -> Cond:
    """Put in what each encoder makes of the empty caption, where a sample's draw for it is below its share.

    uniforms: of each encoder, (B,) in [0, 1).
    """
    tokens, pooled = cond[TOKENS].clone(), cond[POOLED].clone() if POOLED in cond else None
    null = conditioning.null(len(tokens), tokens.device)
    for place, drawn, share in zip(places(conditioning.encoder), uniforms, shares, strict=True):
        chosen = (drawn < share).to(tokens.device).nonzero()[:, 0]
        tokens[chosen, place.rows, place.columns] = null[TOKENS][chosen, place.rows, place.columns]
        if pooled is not None:
            pooled[chosen, place.whole] = null[POOLED][chosen, place.whole]
    return {**cond, TOKENS: tokens, **({} if pooled is None else {POOLED: pooled})}
