"""CLIP score: how well images and texts go together, to a CLIP of transformers that the user has.

Hessel et al. 2021, "CLIPScore": the cosine of the embeddings of image and text, 0 where it is negative. Here times 100,
as torchmetrics has it; the paper takes 2.5.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..colours import in_rgb
from ..errors import DataError
from ..features.extractor import Extractor
from ..features.texts import Part, open_encoders
from ..features.transformers import open_transformers
from ..images.decode import as_tensor
from ..images.loader import ImageLoader
from ..images.order import spread

NAME = "clip_score"
SCALE = 100.0
_AT_ONCE = 64


@dataclass(frozen=True)
class Clip:
    """A CLIP: its network of images, and that of texts. sha256: of its files."""

    images: Extractor
    texts: Part
    sha256: str

    def scores(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        """Return the score of each image, float32 (B, 3, H, W) in [-1, 1], and its text: float32 (B,), 0 to 100."""
        vectors = [whole for _, whole in self.texts.vectors(self.texts.ids(texts, self.texts.most))]
        wholes = torch.stack([each for each in vectors if each is not None])
        cosine = F.cosine_similarity(self.images.features(images).cpu(), wholes, dim=1)
        return SCALE * cosine.clamp(min=0)


def open_clip(folder: Path, device: torch.device) -> Clip:
    """Open a folder with both networks of a CLIP. Raises ConfigError and DataError as its parts do."""
    images = open_transformers(folder, device)
    texts = open_encoders([folder], "last", device).parts[0]
    whole = texts.vectors(texts.ids(["a"], None))[0][1]
    if whole is None or len(whole) != images.dim:
        raise DataError(f"{folder} is not a CLIP of images and texts", "give the folder of a whole CLIP")
    return Clip(images, texts, texts.sha256)


def clip_score(clip: Clip, images: ImageLoader, limit: int | None = None) -> float:
    """Return the mean score of images and their first captions. limit: of how many, chosen evenly."""
    captions = images.source.captions
    assert captions is not None, "captioned images"
    chosen = spread(len(images), len(images) if limit is None else limit)

    def batches() -> Iterator[Tensor]:
        for rows, pixels in images.in_turn(_AT_ONCE, chosen):
            yield clip.scores(in_rgb(as_tensor(pixels)), [captions[row][0] for row in rows])

    return float(torch.cat(list(batches())).double().mean())
