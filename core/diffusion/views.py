"""One image that is two: by views of it, by bands of frequency, or on the way from one to the other.

All of it is a wrapper `Denoiser → Denoiser` that asks the denoiser under two conditions. Guidance belongs inside.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .conditions import Cond
from .denoisers import Denoiser
from .schedules import Schedule
from .times import broadcast

PIECES = 4  # a side of the jigsaw


@dataclass(frozen=True)
class View:
    """Another way to look at an image (B, C, H, W): linear and orthogonal, so that white noise stays white.

    signed: whether it changes the sign, about the channels' centre. pieces: in how many equal parts it cuts a side.
    """

    apply: Callable[[Tensor], Tensor]
    undo: Callable[[Tensor], Tensor]
    signed: bool = False
    pieces: int = 1

    def of(self, x: Tensor, centre: Tensor) -> Tensor:
        """Return the view of x, whose middle between black and white is `centre`, broadcast against it."""
        return 2 * centre + self.apply(x) if self.signed else self.apply(x)

    def back(self, x: Tensor, centre: Tensor) -> Tensor:
        """Return what x is the view of."""
        return 2 * centre + self.undo(x) if self.signed else self.undo(x)


def _same(x: Tensor) -> Tensor:
    return x


def _flip(x: Tensor) -> Tensor:
    return x.flip(-2)


def _turned(quarters: int) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.rot90(x, quarters, (-2, -1))


def _transposed(x: Tensor) -> Tensor:
    return x.transpose(-2, -1)


def _shuffled(order: Tensor) -> Callable[[Tensor], Tensor]:
    """Return what puts piece order[i] of an image, row by row, at place i."""

    def shuffle(x: Tensor) -> Tensor:
        b, c, height, width = x.shape
        h, w = height // PIECES, width // PIECES
        # (B, C, rows, h, columns, w) → (B, C, rows columns, h, w)
        cut = x.reshape(b, c, PIECES, h, PIECES, w).transpose(3, 4).reshape(b, c, PIECES**2, h, w)
        placed = cut[:, :, order.to(x.device)]
        return placed.reshape(b, c, PIECES, PIECES, h, w).transpose(3, 4).reshape(b, c, height, width)

    return shuffle


_ORDER = torch.from_numpy(np.random.Generator(np.random.Philox(7)).permutation(PIECES**2))

VIEWS: dict[str, View] = {
    "none": View(_same, _same),
    "flip": View(_flip, _flip),
    "rotate180": View(_turned(2), _turned(2)),
    "rotate90": View(_turned(1), _turned(-1)),
    "transpose": View(_transposed, _transposed),
    "negate": View(torch.neg, torch.neg, signed=True),
    "jigsaw": View(_shuffled(_ORDER), _shuffled(_ORDER.argsort()), pieces=PIECES),
}


def anagram(denoise: Denoiser, view: View, other: Cond, schedule: Schedule, centre: Tensor) -> Denoiser:
    """Return the mean of two estimates: as it is under its condition, and through the view under `other`.

    Visual anagrams (Geng et al. 2024, equation 3), on x0, which is the same for linear views. centre: of each channel's
    black and white, as x0, (C, 1, 1).
    """

    def seen(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        alpha, _ = schedule.alpha_sigma(broadcast(t, x_t))
        viewed = denoise(view.of(x_t, alpha * centre), t, other)
        return (denoise(x_t, t, cond) + view.back(viewed, centre)) / 2

    return seen


def anagram_of_decoded(
    denoise: Denoiser,
    view: View,
    other: Cond,
    schedule: Schedule,
    of: Callable[[Tensor], Tensor],
    back: Callable[[Tensor], Tensor],
) -> Denoiser:
    """Return the same for latents of which no map is the view: decode the estimate, look at it, and encode that.

    of, back: x0 → x0, the view of the decoded image and its inverse, encoded. The noise, which has no image, is viewed
    as it is.
    """

    def seen(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        alpha, _ = schedule.alpha_sigma(broadcast(t, x_t))
        x0 = denoise(x_t, t, cond)
        viewed = alpha * of(x0) + view.apply(x_t - alpha * x0)
        return (x0 + back(denoise(viewed, t, other))) / 2

    return seen


def hybrid(denoise: Denoiser, far: Cond, sigma: float) -> Denoiser:
    """Return the fine detail of the estimate under its condition over the coarse of that under `far`.

    Hybrid images, by factorized diffusion (Geng et al. 2024): low(far) + high(near), high being what low leaves. sigma:
    of the blur, in pixels of x.
    """

    def joined(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        near = denoise(x_t, t, cond)
        return near + blur(denoise(x_t, t, far) - near, sigma)

    return joined


def blur(x: Tensor, sigma: float) -> Tensor:
    """Blur (B, C, H, W) by a Gaussian of `sigma` pixels, up to eight of them away; the edges are reflected."""
    for axis in (-2, -1):
        radius = min(math.ceil(8 * sigma), x.shape[axis] - 1)
        offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
        weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
        kernel = (weights / weights.sum()).to(x)
        padding = (0, 0, radius, radius) if axis == -2 else (radius, radius, 0, 0)
        shape = (-1, 1) if axis == -2 else (1, -1)
        padded = F.pad(x, padding, mode="reflect")
        weight = kernel.view(1, 1, *shape).repeat(x.shape[1], 1, 1, 1)
        x = F.conv2d(padded, weight, groups=x.shape[1])
    return x


def between(denoise: Denoiser, other: Cond, share: Tensor) -> Denoiser:
    """Return the estimate between those under two conditions; share: of the other, (B, 1, 1, 1) in [0, 1]."""

    def mixed(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return torch.lerp(denoise(x_t, t, cond), denoise(x_t, t, other), share)

    return mixed


def slerp(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """Return the noise between a and b, (B, ...), on the arc between them, where it keeps its length.

    share: of b, (B,) in [0, 1]. Shoemake 1985.
    """
    flat_a, flat_b = a.double().flatten(1), b.double().flatten(1)
    cosine = (flat_a * flat_b).sum(1) / (flat_a.norm(dim=1) * flat_b.norm(dim=1))
    angle = cosine.clamp(-1, 1).acos().clamp(min=1e-6)
    ways = torch.stack([torch.sin((1 - share.double()) * angle), torch.sin(share.double() * angle)]) / torch.sin(angle)
    first, second = (way.view(-1, *(1,) * (a.ndim - 1)).to(a) for way in ways)
    return first * a + second * b
