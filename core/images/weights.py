"""Masks beside images, `x-mask.png` of `x.png`: how much each pixel's error counts. White counts, black does not."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import DataError
from .dataset import ImageSource
from .loader import ImageLoader
from .order import mirrored

ENDING = "-mask"  # of a mask's name, before that of its format


def with_masks(source: ImageSource) -> ImageSource:
    """Return a source without the masks among its images, which those that they belong to have as theirs.

    Raises DataError where there are none, and for a mask of no image.
    """
    stems = [_stem(name) for name in source.names]
    masks = {stem.removesuffix(ENDING): row for row, stem in enumerate(stems) if stem.endswith(ENDING)}
    images = [row for row, stem in enumerate(stems) if not stem.endswith(ENDING)]
    alone = sorted(masks.keys() - {stems[row] for row in images})
    if alone:
        name = source.names[masks[alone[0]]]
        raise DataError(f"{source.location}: {name} is a mask, by its name, of no image", "add that, or rename it")
    if not masks:
        raise DataError(f"{source.location} has no masks", f"name that of x.png x{ENDING}.png, or use `data.masks=no`")
    rows = np.array([masks.get(stems[row], -1) for row in images], dtype=np.int64)
    return replace(source.subset(images), masks=np.where(rows < 0, -1, source.rows[rows]))


def advice_on_masks(names: Sequence[str]) -> str | None:
    """Return what to do about images that are masks of others, by their names; None where there are none."""
    named = [name for name in names if f"{ENDING}." in name]
    stems = {_stem(name) for name in names} if named else set()
    masks = [name for name in named if _stem(name).removesuffix(ENDING) in stems]
    if not masks:
        return None
    return (
        f"{len(masks):,} of {len(names):,} images are masks of others, by their names ({masks[0]}), and trained on as"
        " images; did you mean `data.masks=yes`?"
    )


def _stem(name: str) -> str:
    return str(PurePath(name).with_suffix(""))


def mask_fingerprint(source: ImageSource) -> str:
    """Return a sha256, hex, of the sorted (name, mask) of all images that have one."""
    whole = hashlib.sha256()
    for index in sorted(range(len(source)), key=lambda index: source.names[index]):
        content = source.read_mask(index)
        if content is not None:
            data = content if isinstance(content, bytes) else content.tobytes()
            whole.update(hashlib.sha256(source.names[index].encode("utf-8", "surrogateescape")).digest())
            whole.update(hashlib.sha256(data).digest())
    return whole.hexdigest()


def training_masks(images: ImageLoader, samples: np.ndarray, positions: np.ndarray, seed: int, flips: bool) -> Tensor:
    """Return the masks of samples (B,), float32 (B, 1, H, W) in [0, 1], mirrored as `training_images` are."""
    masks = torch.from_numpy(images.masks(samples))[:, None].float() / 255
    return flipped(masks, mirrored(positions, seed)) if flips else masks


def flipped(masks: Tensor, chosen: np.ndarray) -> Tensor:
    """Return masks (B, 1, h, w) of which the chosen ones, bool (B,), are mirrored."""
    return torch.where(torch.from_numpy(chosen).to(masks.device)[:, None, None, None], masks.flip(-1), masks)


def shrunk(masks: Tensor, downsampling: int) -> Tensor:
    """Return what masks (B, 1, H, W) leave of each latent pixel, the mean of its share, (B, 1, h, w)."""
    return F.avg_pool2d(masks, downsampling)


def loss_weights(masks: Tensor) -> Tensor:
    """Return how much each pixel's error counts, (B, 1, h, w), of mean 1 in each image: all images count the same.

    masks: (B, 1, h, w), at least 0. Those of an image whose mask is black all over are 0.
    """
    return masks / masks.mean(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)
