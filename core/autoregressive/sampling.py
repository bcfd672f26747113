"""Drawing of tokens scale by scale (Tian et al. 2024): as many passes as there are scales, keys and values kept."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .. import seeds
from ..autoencoders.multiscale import MultiScaleQuantizer
from ..diffusion import conditions
from ..diffusion.conditions import Cond
from ..system.precision import Policy
from .var import NextScaleTransformer, Past


@dataclass(frozen=True)
class TokenSampling:
    """How tokens are drawn.

    cfg: guidance scale s of the last scale; logits are u + s_k (c - u), s_k growing linearly from 1 at the first scale.
    The paper's cfg is s - 1. top_k: keep the k likeliest tokens, 0 all; then top_p: of these, the likeliest that reach
    the share p. temperature: logits are divided by it; 0 takes the likeliest. smooth: mix codes by a Gumbel-softmax
    instead, which looks smoother and belongs in no metric.
    """

    cfg: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    temperature: float = 1.0
    smooth: bool = False

    @property
    def recorded(self) -> dict[str, Any]:
        """What manifests record of it."""
        return {**vars(self)}


@dataclass(frozen=True)
class Given:
    """Tokens that are not drawn: those of the first scales, and at later ones those outside of a mask.

    tokens: of every scale, int64 (B, p, p). scales: how many are kept whole. redraw: (B, 1, h, w) at the latent's size,
    1 where tokens are drawn; None draws all of the later scales.
    """

    tokens: Sequence[Tensor]
    scales: int = 0
    redraw: Tensor | None = None

    def of(self, rows: np.ndarray) -> "Given":
        """Return what is given of some images."""
        chosen = torch.from_numpy(rows)
        redraw = None if self.redraw is None else self.redraw[chosen.to(self.redraw.device)]
        return Given([each[chosen.to(each.device)] for each in self.tokens], self.scales, redraw)

    def put(self, drawn: Tensor, k: int) -> Tensor:
        """Return scale k's drawn tokens (B, p, p) with the given ones in their places."""
        if k < self.scales:
            return self.tokens[k]
        if self.redraw is None:
            return drawn
        # Any overlap with the mask redraws a token.
        inside = F.adaptive_max_pool2d(self.redraw.float(), drawn.shape[-1])[:, 0] > 0
        return torch.where(inside, drawn, self.tokens[k])


OnScale = Callable[[int, Tensor], None]  # scale, and f̂ (B, C, h, w) of the scales so far


@torch.no_grad()
def draw_tokens(
    network: NextScaleTransformer,
    quantizer: MultiScaleQuantizer,
    cond: Cond,
    null: Callable[[Cond], Cond],
    seed_indices: np.ndarray,
    sampling: TokenSampling,
    policy: Policy,
    given: Given | None = None,
    on_scale: OnScale | None = None,
) -> Tensor:
    """Draw the tokens of one image per seed; return f̂ of all scales, float32 (B, C, h, w), which the decoder takes.

    cond: of B images, on the device. null: what stands for it in guidance. Each token has a random number of its own,
    by the image's seed, the scale and the place: an image does not depend on the others of its batch, up to the
    rounding of products of other heights.
    """
    scales, count = network.config.scales, len(seed_indices)
    guided = sampling.cfg != 1.0
    both = conditions.cat(cond, null(cond)) if guided else cond
    with policy.autocast():
        vector = network.vector(both, count)
    past: list[Past] = [[] for _ in network.blocks]
    total: Tensor | None = None
    for k, side in enumerate(scales):
        # Logits of this scale, from what the scales before add up to; guided more the finer the scale is.
        inputs = None if total is None else quantizer.next_input(total, k)
        if inputs is not None and guided:
            inputs = torch.cat([inputs, inputs])
        with policy.autocast():
            logits = network.scale_logits(k, inputs, vector, past).float()
        if guided:
            conditional, unconditional = logits.chunk(2)
            scale = 1 + (sampling.cfg - 1) * k / max(len(scales) - 1, 1)
            logits = unconditional + scale * (conditional - unconditional)

        # Draw, and add the codes to the latent.
        numbers = _uniform(seed_indices, k, (side * side,)).to(policy.device)
        drawn = choose(logits, numbers, sampling).view(count, side, side)
        if given is not None:
            drawn = given.put(drawn, k)
        if sampling.smooth and (given is None or (k >= given.scales and given.redraw is None)):
            codes = _smooth(logits, quantizer, seed_indices, k, sampling).view(count, side, side, -1)
            total = quantizer.add_codes(total, codes.movedim(-1, 1), k)
        else:
            total = quantizer.add(total, drawn, k)
        if on_scale is not None:
            on_scale(k, total)
    assert total is not None, "scales"
    return total


def choose(logits: Tensor, uniforms: Tensor, sampling: TokenSampling) -> Tensor:
    """Return tokens, int64 (B, n), drawn by the inverse of their distribution at uniforms (B, n) in [0, 1).

    logits: (B, n, V), float32.
    """
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    shares = restricted(logits, sampling).double().softmax(dim=-1).cumsum(dim=-1)
    # Tokens of probability 0 have the cumulative share of the one before them, and are never the first above.
    target = uniforms.double()[..., None] * shares[..., -1:]
    return torch.searchsorted(shares, target, right=True)[..., 0].clamp(max=logits.shape[-1] - 1)


def restricted(logits: Tensor, sampling: TokenSampling) -> Tensor:
    """Return logits (B, n, V) over the temperature, -inf where top-k, and then top-p, leave a token out."""
    if sampling.temperature != 0:
        logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if sampling.top_p < 1:
        ranked, order = logits.sort(dim=-1, descending=True)
        shares = ranked.softmax(dim=-1)
        # A token stays while those before it have not reached p: the likeliest always does.
        late = shares.cumsum(dim=-1) - shares >= sampling.top_p
        out = torch.zeros_like(late).scatter(-1, order, late)
        logits = logits.masked_fill(out, -torch.inf)
    return logits


def _smooth(
    logits: Tensor, quantizer: MultiScaleQuantizer, seed_indices: np.ndarray, k: int, sampling: TokenSampling
) -> Tensor:
    """Return codes (B, n, C) mixed by a Gumbel-softmax that sharpens from scale to scale."""
    share = k / max(len(quantizer.config.scales) - 1, 1)
    uniforms = _uniform(seed_indices, k, tuple(logits.shape[1:]), "Gumbel noise").to(logits.device)
    gumbel = -torch.log(-torch.log(uniforms.clamp(1e-12, 1 - 1e-12)))
    temperature = max(0.27 * (1 - 0.95 * share), 0.005)
    weights = ((restricted(logits, sampling) * (1 + share) + gumbel) / temperature).softmax(dim=-1)
    return weights.float() @ quantizer.codebook.codes.float()


def _uniform(seed_indices: np.ndarray, k: int, shape: tuple[int, ...], purpose: str = "tokens") -> Tensor:
    """Draw numbers in [0, 1), float64 (B, *shape), by each image's seed and the scale."""
    return torch.cat([seeds.uniform(int(seed), purpose, [k], shape) for seed in seed_indices])
