"""Captions as a condition, with that of the empty caption as null.

A text network that is trained with the denoiser takes ids: `ids`, int64 (B, L), and `mask`, bool (B, L), true where
there is a token. Of the vocabulary it knows the ids that training captions have, counted from 0, and after them one
that stands for all others. A frozen encoder gives `tokens`, float32 (B, L, W), `mask`, and `pooled`, float32 (B, P).
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..diffusion.conditions import Cond
from ..errors import ConfigError, DataError
from . import bpe
from .captions import (
    IDS_FIELD,
    LENGTHS_FIELD,
    POOLED_FIELD,
    SYNTHETIC_FIELD,
    TOKENS_FIELD,
    Encoded,
    SyntheticShare,
    Take,
    TextEncoder,
    drawn_captions,
)
from .conditioning import Conditioning, Request, no_null, refuse_unknown
from .own_encoder import OWN, OwnEncoder

TEXT = "text"
PROMPT = "prompt"  # the setting, and the record of an image
IDS, TOKENS, MASK, POOLED = "ids", "tokens", "mask", "pooled"
_SHOWN = 60  # letters of a prompt in a message
_MOST_KEPT = 1 << 20  # letters, of all packed texts of a manifest


@dataclass(frozen=True)
class TextConditioning:
    """Captions.

    encoder: as its `describe` returns it. length: tokens that the network takes. vocabulary: the ids that the network
    knows, rising; of a frozen encoder none. widths: of its tokens and its vector of the whole. prompts: some captions
    of held-out images, of which previews are drawn. known: texts that were encoded before, the null and the prompts
    among them; of a frozen encoder only. share: of synthetic captions, where the data have some. opened: what opens the
    frozen encoder that was described; none where the known texts are enough.
    """

    encoder: Mapping[str, Any]
    length: int
    vocabulary: tuple[int, ...] = ()
    widths: tuple[int, int] = (0, 0)
    prompts: tuple[str, ...] = ()
    known: Mapping[str, Mapping[str, str]] | None = None
    share: SyntheticShare | None = None
    has_null: bool = True
    opened: Callable[[Mapping[str, Any]], TextEncoder] | None = field(default=None, compare=False)
    kind = TEXT
    asks = PROMPT
    class_names = ()

    @property
    def is_own(self) -> bool:
        """Whether the text network is trained with the denoiser."""
        return bool(self.encoder.get("name") == OWN)

    @property
    def fields(self) -> tuple[str, ...]:
        if self.is_own:
            return (IDS, MASK)
        return (TOKENS, MASK, POOLED) if self.widths[1] else (TOKENS, MASK)

    @property
    def row_names(self) -> tuple[str, ...]:
        parts = bpe.parts()
        return tuple(parts[number] for number in self.vocabulary)

    @property
    def stored(self) -> tuple[str, ...]:
        pooled = (POOLED_FIELD,) if self.widths[1] else ()
        synthetic = () if self.share is None else (SYNTHETIC_FIELD,)
        return (self._rows_field, LENGTHS_FIELD, *pooled, *synthetic)

    @property
    def sizes(self) -> dict[str, int]:
        if self.is_own:
            return {"vocabulary": len(self.vocabulary) + 1, "text_length": self.length}
        return {"token_width": self.widths[0], "pooled_width": self.widths[1], "text_length": self.length}

    def null(self, n: int, device: torch.device) -> Cond:
        """Return the empty caption n times; ConfigError where training dropped none."""
        if not self.has_null:
            raise no_null()
        cond = self._cond(self._encoded([""]))
        return {name: field.to(device).expand(n, *field.shape[1:]) for name, field in cond.items()}

    def read(self, take: Take, positions: np.ndarray, seed: int) -> Cond:
        pooled = bool(self.widths[1])
        return self._cond(drawn_captions(take, self._rows_field, positions, seed, self.share, pooled))

    def request(self, asked: Mapping[str, Any]) -> Request:
        """Return a row for each prompt; without any, for those of the previews. Its notes name what was not understood.

        Raises DataError where a frozen encoder is needed that is missing, or another.
        """
        refuse_unknown(asked, (PROMPT,), "texts")
        if PROMPT not in asked:
            return self.groups()
        given = asked[PROMPT]
        return self._rows([given] if isinstance(given, str) else given)

    def recall(self, record: Mapping[str, Any]) -> dict[str, Any]:
        return {PROMPT: record[PROMPT]} if PROMPT in record else {}

    def groups(self) -> Request:
        return self._rows(self.prompts or ("",))

    def describe(self) -> dict[str, Any]:
        described: dict[str, Any] = {"kind": self.kind, "encoder": dict(self.encoder), "length": self.length}
        if self.is_own:
            described["vocabulary"] = list(self.vocabulary)
        else:
            described |= {"widths": list(self.widths), "known": {k: dict(v) for k, v in (self.known or {}).items()}}
        if self.share is not None:
            described["synthetic_share"] = self.share.share
        return {**described, "prompts": list(self.prompts), "has_null": self.has_null}

    @property
    def _rows_field(self) -> str:
        return IDS_FIELD if self.is_own else TOKENS_FIELD

    @cached_property
    def _dense(self) -> np.ndarray:
        """The network's number of each id, int64 (NUM_IDS,)."""
        table = np.full(bpe.NUM_IDS, len(self.vocabulary), dtype=np.int64)
        table[list(self.vocabulary)] = np.arange(len(self.vocabulary))
        return table

    @cached_property
    def _loaded(self) -> TextEncoder:
        """The encoder, loaded. Raises DataError where it is missing, or another."""
        if not self.is_own:
            assert self.opened is not None, "a text that was not encoded before"
            return self.opened(self.encoder)
        encoder = OwnEncoder()
        if encoder.describe() != dict(self.encoder):
            raise DataError("the model reads texts by another vocabulary than this ldm has", "upgrade ldm")
        return encoder

    def _encoded(self, texts: Sequence[str]) -> list[Encoded]:
        """Encode texts; those that were encoded before need no encoder."""
        known = self.known or {}
        missing = [text for text in dict.fromkeys(texts) if text not in known]
        found = dict(zip(missing, self._loaded.encode(missing, self.length), strict=True)) if missing else {}
        return [found[text] if text in found else unpacked(known[text], self.widths) for text in texts]

    def _rows(self, texts: Sequence[str]) -> Request:
        encoded = self._encoded(texts)
        notes = [*self._cut(texts, encoded), *self._unknown(texts, encoded)]
        return Request(self._cond(encoded), tuple(texts), tuple({PROMPT: text} for text in texts), tuple(notes))

    def _cond(self, encoded: Sequence[Encoded]) -> Cond:
        lengths = torch.tensor([len(each.rows) for each in encoded])
        mask = torch.arange(self.length) < lengths[:, None]
        if self.is_own:
            ids = np.zeros((len(encoded), self.length), dtype=np.int64)
            for place, each in enumerate(encoded):
                ids[place, : len(each.rows)] = self._dense[each.rows]
            return {IDS: torch.from_numpy(ids), MASK: mask}
        tokens = np.zeros((len(encoded), self.length, self.widths[0]), dtype=np.float32)
        for place, each in enumerate(encoded):
            tokens[place, : len(each.rows)] = each.rows
        cond: dict[str, Tensor] = {TOKENS: torch.from_numpy(tokens), MASK: mask}
        if self.widths[1]:
            cond[POOLED] = torch.from_numpy(np.stack([each.pooled for each in encoded]).astype(np.float32))  # type: ignore
        return cond

    def _cut(self, texts: Sequence[str], encoded: Sequence[Encoded]) -> list[str]:
        cut = [text for text, each in zip(texts, encoded, strict=True) if each.cut]
        if not cut:
            return []
        return [f"longer than the {self.length} tokens that the model reads, and cut there: {_quoted(cut)}"]

    def _unknown(self, texts: Sequence[str], encoded: Sequence[Encoded]) -> list[str]:
        """Name the words of prompts that no training caption has."""
        if not self.is_own:
            return []
        known, strange = set(self.vocabulary), dict[str, None]()
        for text, each in zip(texts, encoded, strict=True):
            if not known.issuperset(each.rows.tolist()):
                strange |= dict.fromkeys(word for word in bpe.words(text) if not known.issuperset(bpe.ids_of(word)))
        them = "it" if len(strange) == 1 else "them"
        return [f"no training caption has {_quoted([*strange])}: the model does not know {them}"] if strange else []


def with_prompts(conditioning: TextConditioning, prompts: Sequence[str], encoder: TextEncoder) -> TextConditioning:
    """Return the conditioning with the prompts of previews; of a frozen encoder, encoded here once for all.

    They are kept with the manifest, so that there are fewer of them where their vectors are large.
    """
    if conditioning.is_own:
        return replace(conditioning, prompts=tuple(prompts))
    known, size = dict[str, dict[str, str]](), 0
    for text, encoded in zip(("", *prompts), encoder.encode(["", *prompts], conditioning.length), strict=True):
        letters = packed(encoded)
        size += sum(map(len, letters.values()))
        if text and size > _MOST_KEPT:
            break
        known[text] = letters
    return replace(conditioning, known=known, prompts=tuple(text for text in prompts if text in known))


def mixed(conditioning: Conditioning, share: float | None, first: int, falling: int) -> Conditioning:
    """Return the conditioning as a training reads captions; see `SyntheticShare`. share: None keeps what was recorded.

    Raises ConfigError where any is given and the data have no synthetic captions.
    """
    if share is None and not first and not falling:
        return conditioning
    if not isinstance(conditioning, TextConditioning) or conditioning.share is None:
        given = {"share": share, "first": first or None, "falling": falling or None}
        asked = " ".join(f"`synthetic_{name}={value:g}`" for name, value in given.items() if value is not None)
        raise ConfigError(
            f"{asked}: the data have no synthetic captions",
            "leave it out, or encode images with `data.synthetic_captions=FILE`",
        )
    last = conditioning.share.share if share is None else share
    return replace(conditioning, share=SyntheticShare(last, first, falling))


def packed(encoded: Encoded) -> dict[str, str]:
    """Return a text's vectors as letters, for JSON: little-endian float16 in base64."""
    arrays = {TOKENS: encoded.rows, **({} if encoded.pooled is None else {POOLED: encoded.pooled})}
    return {name: base64.b64encode(array.astype("<f2").tobytes()).decode() for name, array in arrays.items()}


def unpacked(text: Mapping[str, str], widths: tuple[int, int]) -> Encoded:
    """Return the vectors of a packed text."""
    arrays = {name: np.frombuffer(base64.b64decode(letters), dtype="<f2") for name, letters in text.items()}
    return Encoded(arrays[TOKENS].reshape(-1, widths[0]), arrays.get(POOLED))


def rebuilt_text(described: Mapping[str, Any]) -> TextConditioning:
    """Return the conditioning that `describe` described. Of samples only the encoder is recorded."""
    (width, pooled), share = described.get("widths", (0, 0)), described.get("synthetic_share")
    return TextConditioning(
        encoder=described["encoder"],
        length=int(described.get("length", 0)),
        vocabulary=tuple(described.get("vocabulary", ())),
        widths=(int(width), int(pooled)),
        prompts=tuple(described.get("prompts", ())),
        known=described.get("known"),
        share=None if share is None else SyntheticShare(share),
        has_null=bool(described.get("has_null", True)),
    )


def _quoted(texts: Sequence[str], most: int = 5) -> str:
    shown = [repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…") for text in texts[:most]]
    return ", ".join(shown) + (f" and {len(texts) - most:,} more" if len(texts) > most else "")
