"""Captions of images as latents have them: which conditioning they make, and the fields of each sample."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from ..conditioning.captions import TEXT_FIELD, Fields, SyntheticShare, TextEncoder, fields_of_captions
from ..conditioning.conditioning import Conditioning
from ..conditioning.names import KIND_NAMES
from ..conditioning.own_encoder import OWN, OwnEncoder, seen
from ..conditioning.text import TEXT, TextConditioning, with_prompts
from ..errors import ConfigError
from ..features.texts import TEXT_ENCODER, open_encoders, with_padding
from ..images.captions import AUTO
from ..images.dataset import ImageSource
from ..images.order import pieces, spread
from ..images.sets import CAPTIONS, ImageSources
from ..progress import Progress
from .settings import TextSettings

SHARE_HELD = 0.999  # of the captions that the default length is to hold
MOST_TOKENS = 128  # of the default length
NUM_PROMPTS = 8  # captions of held-out images, of which previews are drawn
_STEP, _AT_ONCE = 8, 256


class Captions:
    """Captions as the condition of images; see `ImageCondition`.

    settings: what encodes them; by default a text network that is trained with the denoiser.
    """

    mirrors: ClassVar[bool] = False  # Captions tell left from right.

    def __init__(self, images: ImageSources, settings: TextSettings | None, device: torch.device) -> None:
        self.settings = settings or TextSettings()
        self.images = images.with_captions()
        self.encoder = open_encoder(self.settings, device)
        self._input = self.images.caption_input  # which hashes all captions

    @property
    def inputs(self) -> dict[str, dict[str, Any]]:
        return {**self._input, **encoder_inputs(self.encoder)}

    @property
    def fingerprint(self) -> str:
        fingerprint: str = self._input[CAPTIONS]["fingerprint"]
        return fingerprint

    def conditioning(self, train: ImageSource, val: ImageSource, progress: Progress | None = None) -> TextConditioning:
        share = self.images.data.synthetic_share
        return text_conditioning(train, val, self.encoder, self.settings.length, share, progress)

    def names(self, conditioning: Conditioning) -> tuple[str, ...]:
        return (*conditioning.stored, TEXT_FIELD)

    def fields(self, conditioning: Conditioning, source: ImageSource) -> Callable[[Sequence[int]], list[Fields]]:
        return captions_of(source, self.encoder, _length(conditioning))

    def summary(self, conditioning: Conditioning, source: ImageSource) -> dict[str, str]:
        count = sum(map(len, source.captions or ())) + sum(map(len, source.synthetic or ()))
        return {"captions": f"{count:,} for training, of at most {_length(conditioning)} tokens"}


def _length(conditioning: Conditioning) -> int:
    assert isinstance(conditioning, TextConditioning)
    return conditioning.length


def reads_captions(images: ImageSources, kind: str) -> bool:
    """Return whether images are to be conditioned on their captions.

    kind: what was asked for; where that is not the name of a kind, captions are read where images have them, and no
    class folders, or where they were named.
    """
    if kind in KIND_NAMES:
        return kind == TEXT
    named = images.data.captions != AUTO or images.data.caption_template is not None
    return images.captioned and (named or not images.train.labelled)


def open_encoder(config: TextSettings, device: torch.device) -> TextEncoder:
    """Open what reads captions. Raises ConfigError for `own` together with others."""
    padded = config.padding == "seen"
    if config.encoder == (OWN,):
        if padded:
            raise ConfigError(
                "`text.padding=seen` is for frozen encoders; an own one masks its padding", "leave it out"
            )
        return OwnEncoder()
    if OWN in config.encoder:
        raise ConfigError("`text.encoder=own` is alone: a text network is trained in place of others", "leave it out")
    encoder = open_encoders([*map(Path, config.encoder)], config.layer, device)
    return with_padding(encoder, config.length) if padded else encoder


def encoder_inputs(encoder: TextEncoder) -> dict[str, dict[str, Any]]:
    """Return the folders of frozen encoders as inputs of the stage."""
    names = (TEXT_ENCODER, *(f"{TEXT_ENCODER}_{number}" for number in range(2, len(encoder.files) + 1)))
    files = zip(names, encoder.files.items(), strict=False)
    return {name: {"path": folder, "fingerprint": sha256} for name, (folder, sha256) in files}


def text_conditioning(
    train: ImageSource,
    val: ImageSource,
    encoder: TextEncoder,
    length: int | None,
    share: float,
    progress: Progress | None = None,
) -> TextConditioning:
    """Return the conditioning on the captions of training images, with captions of some held-out ones as prompts.

    length: tokens of a caption, by default as many as nearly all training captions have. share: of synthetic captions,
    where there are some. progress: is warned of captions that are cut.
    """
    texts = list(dict.fromkeys(_all_texts(train)))
    counts = np.array([count for some in _pieces_of(texts) for count in encoder.lengths(some)])
    if encoder.fixed is not None:
        length = encoder.fixed
    elif length is None:
        needed = int(np.quantile(counts, SHARE_HELD, method="higher"))
        length = min(_STEP * -(-needed // _STEP), MOST_TOKENS, encoder.most)
    if length > encoder.most:
        raise ConfigError(f"`text.length={length}` is more than the encoder takes", f"give at most {encoder.most}")
    if progress is not None and (cut := int((counts > length).sum())):
        longest = texts[int(counts.argmax())]
        progress.warn(
            f"{cut:,} of {len(texts):,} captions are longer than {length} tokens, and cut there; the longest has"
            f" {counts.max():,}: {longest[:60]!r}…"
        )
    conditioning = TextConditioning(
        encoder.describe(), length, share=None if train.synthetic is None else SyntheticShare(share)
    )
    if isinstance(encoder, OwnEncoder):
        encoded = (each for some in _pieces_of(texts) for each in encoder.encode(some, length))
        conditioning = replace(conditioning, vocabulary=seen(encoded))
    else:
        empty = encoder.encode([""], length)[0]
        widths = empty.rows.shape[1], 0 if empty.pooled is None else len(empty.pooled)
        conditioning = replace(conditioning, widths=widths)
    assert val.captions is not None
    chosen = dict.fromkeys(val.captions[row][0] for row in spread(len(val), len(val)))
    return with_prompts(conditioning, [*chosen][:NUM_PROMPTS], encoder)


def captions_of(source: ImageSource, encoder: TextEncoder, length: int) -> Callable[[Sequence[int]], list[Fields]]:
    """Return what gives the fields of the captions of images, by their indices, all encoded together."""
    captions, second = source.captions, source.synthetic
    assert captions is not None

    def fields(indices: Sequence[int]) -> list[Fields]:
        synthetic = [() if second is None else second[index] for index in indices]
        texts = [(*captions[index], *more) for index, more in zip(indices, synthetic, strict=True)]
        encoded = iter(encoder.encode([text for each in texts for text in each], length))
        return [
            fields_of_captions(
                encoder.rows_field,
                each,
                [next(encoded) for _ in each],
                None if second is None else len(more),
            )
            for each, more in zip(texts, synthetic, strict=True)
        ]

    return fields


def _all_texts(source: ImageSource) -> Iterator[str]:
    for captions in (source.captions, source.synthetic):
        for texts in captions or ():
            yield from texts


def _pieces_of(texts: list[str]) -> Iterator[list[str]]:
    for rows in pieces(np.arange(len(texts)), _AT_ONCE):
        yield [texts[row] for row in rows]
