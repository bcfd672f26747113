"""Pipelines of diffusers: which parts each has, how it reads texts, and from which of our runs it draws as they do."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ..conditioning.conditioning import Conditioning
from ..conditioning.text import TextConditioning, with_prompts
from ..errors import DataError
from ..features.texts import FROZEN, FrozenEncoder, open_encoders, open_recorded

CLIP = "clip"


@dataclass(frozen=True)
class Slot:
    """The place of a text encoder in a pipeline. encoder, tokenizer: the names of these parts.

    clip: whether it is a CLIP, or else any other. layer: of which the pipeline takes the output. projected: whether it
    is of the class with a projection. optional: whether the pipeline draws without one. tokens: to which it pads texts.
    """

    encoder: str
    tokenizer: str
    clip: bool
    layer: str
    projected: bool = False
    optional: bool = False
    tokens: int = 77


@dataclass(frozen=True)
class Stock:
    """A pipeline. name: of its class. network, autoencoder: the names of these parts, the latter one of `classes`.

    slots: of its text encoders, none where it takes no texts. seen: whether it sees the padding of texts. lower:
    whether it reads them in lower case. flow: the scheduler that draws rectified flow in it. multiple: what sides of
    images have to be multiples of. shifts: whether it adds the shift_factor of the autoencoder. options: arguments
    of a call beside prompt, guidance and steps, in Python. made_with, scheduled: further arguments of its constructor
    and its scheduler's.
    """

    name: str
    network: str
    autoencoder: str
    classes: tuple[str, ...] = ()
    slots: tuple[Slot, ...] = ()
    seen: bool = False
    lower: bool = False
    flow: str | None = None
    multiple: int = 1
    shifts: bool = False
    options: Callable[[Mapping[str, Any], int], dict[str, str]] = lambda described, length: {}
    made_with: Mapping[str, Any] = field(default_factory=dict)
    scheduled: Mapping[str, Any] = field(default_factory=dict)

    def why_not(self, conditioning: Conditioning, autoencoder: str, is_flow: bool, image_size: int) -> str | None:
        """Return why it cannot draw from prompts as this run does, a sentence; None where it can.

        autoencoder: the class of diffusers that it becomes.
        """
        if autoencoder not in self.classes:
            return f"{self.name} decodes by an {' or '.join(self.classes)}, and this run by a {autoencoder}"
        if is_flow and self.flow is None:
            return f"{self.name} has no scheduler for rectified flow"
        if image_size % self.multiple:
            return f"{self.name} draws sides that are multiples of {self.multiple}, not {image_size}"
        if not isinstance(conditioning, TextConditioning):
            return f"{self.name} reads prompts, and this run classes"
        if conditioning.encoder.get("name") != FROZEN:
            return "its text network was trained with it, and is not a class of transformers"
        return self._encoders_differ(conditioning.encoder)

    def _encoders_differ(self, described: Mapping[str, Any]) -> str | None:
        parts = described["parts"]
        wanted = [slot for slot in self.slots if not slot.optional]
        most = len(self.slots)
        if not len(wanted) <= len(parts) <= most or described.get("blank"):
            return f"{self.name} reads texts by {_several(len(wanted), most)}, and this run by {len(parts)}"
        for slot, part in zip(self.slots, parts, strict=False):
            if (part["name"] == CLIP) != slot.clip:
                kind = "a CLIP" if slot.clip else "no CLIP"
                return f"the {slot.encoder} of a {self.name} is {kind}, and that of this run {part['name']}"
            if part["layer"] != slot.layer:
                return f"{self.name} takes the {slot.layer} layer of a text encoder (`text.layer={slot.layer}`)"
            if ("tokens" in part) != self.seen:
                value = "seen" if self.seen else "masked"
                return f"in {self.name} the padding of texts is {value} (`ldm encode text.padding={value}`)"
            if self.seen and slot.clip and part["tokens"] != slot.tokens:
                return f"{self.name} pads texts to {slot.tokens} tokens, this run to {part['tokens']}"
        beside = sum(part["widths"][0] for part in parts if part["name"] == CLIP) if self.seen else 0
        if any(part["widths"][0] < beside for part in parts if part["name"] != CLIP and self.seen):
            return f"{self.name} takes no encoder of narrower vectors than its CLIPs have together"
        return None

    def filled(self, encoder: FrozenEncoder) -> dict[str, Any]:
        """Return its text encoders and tokenizers as parts of it."""
        parts: dict[str, Any] = {name: None for slot in self.slots for name in (slot.encoder, slot.tokenizer)}
        for slot, part in zip(self.slots, encoder.parts, strict=False):
            parts |= {slot.encoder: part.network, slot.tokenizer: part.tokenizer}
        return parts

    def absent(self, described: Mapping[str, Any]) -> list[str]:
        """Return the names of parts that a pipeline with these encoders is without."""
        slots = self.slots[len(described.get("parts", ())) :]
        return [name for slot in slots for name in (slot.encoder, slot.tokenizer)]

    def encoders(self, conditioning: TextConditioning, folders: tuple[str, ...]) -> FrozenEncoder | str:
        """Open the text encoders of a run that `why_not` has nothing against, or return why they are not its own.

        folders: where they were moved. Raises DataError where one is gone, or another.
        """
        encoder = open_recorded(conditioning.encoder, folders)
        for slot, part in zip(self.slots, encoder.parts, strict=False):
            if slot.clip and hasattr(part.network, "text_projection") != slot.projected:
                kind = "with" if slot.projected else "without"
                return f"the {slot.encoder} of a {self.name} is a CLIP {kind} projection"
        return encoder

    def read_texts(
        self, folder: Path, index: Mapping[str, Any], width: int, recorded: Mapping[str, Any] | None
    ) -> TextConditioning:
        """Return how a pipeline's folder reads texts. width: of the vectors that its network takes.

        index: its model_index.json. recorded: of an export of ours, what `lengths_of` returned. Raises DataError where
        a text encoder is missing, or is not one.
        """
        given = [slot for slot in self.slots if (index.get(slot.encoder) or [None])[0] is not None]
        if lacking := [slot for slot in self.slots if slot not in given and not slot.optional]:
            raise DataError(f"{folder} is without its {lacking[0].encoder}", "give the whole folder of the pipeline")
        opened = open_encoders([folder / slot.encoder for slot in given], "auto", torch.device("cpu")).parts
        tokens = [min(slot.tokens, part.most) for slot, part in zip(given, opened, strict=True)]
        if recorded is not None:
            tokens = recorded["tokens"] or [recorded["length"]]
        parts = [
            replace(part, layer=slot.layer, tokens=count if self.seen else None)
            for slot, part, count in zip(given, opened, tokens, strict=True)
        ]
        # In the place of an encoder that it can be without, the pipeline has tokens of zeros; our own runs have none.
        blank = sum(slot.tokens for slot in self.slots if slot not in given) if recorded is None else 0
        encoder = FrozenEncoder(tuple(parts), (blank, width if blank else 0), self.lower)
        length = encoder.fixed or tokens[0]
        empty = encoder.encode([""], length)[0]
        widths = empty.rows.shape[1], 0 if empty.pooled is None else len(empty.pooled)
        return with_prompts(TextConditioning(encoder.describe(), length, widths=widths), [], encoder)


def lengths_of(conditioning: Conditioning) -> dict[str, Any]:
    """Return the tokens of texts, and of each encoder where padding is seen, JSON; nothing for other conditions."""
    if not isinstance(conditioning, TextConditioning) or conditioning.is_own:
        return {}
    tokens = [part["tokens"] for part in conditioning.encoder["parts"] if "tokens" in part]
    return {"length": conditioning.length, "tokens": tokens}


def _several(least: int, most: int) -> str:
    number = f"{least}" if least == most else f"{least} or {most}"
    return f"{number} encoder{'s' * (most > 1)}"
