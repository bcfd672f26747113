"""Residual quantisation over scales (Tian et al. 2024, "Visual autoregressive modeling", algorithms 1 and 2).

A latent f (B, C, h, w) becomes maps of tokens, coarse to fine. Each scale quantises what the scales before have left:

    codes_k = nearest codes of area-down(f - f̂_(k-1), p_k),    f̂_k = f̂_(k-1) + φ(bicubic-up(codes_k, h))

φ(h) = (1 - m) h + m conv(h). The last scale is the latent's own: nothing is resized there. One codebook serves all.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from .msvq_config import MSVQConfig
from .quantizers import Assignment, Quantizer


@dataclass(frozen=True)
class MultiScale:
    """A quantised batch.

    prefixes: f̂ after each scale, (K, B, C, h, w). loss: scalar, averaged over the scales. tokens: (B, p, p) for each
    scale. assignments: of each scale.
    """

    prefixes: Tensor
    loss: Tensor
    tokens: list[Tensor]
    assignments: tuple[Assignment, ...]


def quantizer_of(codec: object) -> "MultiScaleQuantizer":
    """Return a codec's quantiser over scales. Raises ConfigError for a codec without one."""
    quantizer = getattr(codec, "quantizer", None)
    if not isinstance(quantizer, MultiScaleQuantizer):
        raise ConfigError(
            "the latents have no tokens of several scales",
            "train the autoencoder with a preset that has them, such as `model.preset=msvq-s`",
        )
    return quantizer


class MultiScaleQuantizer(nn.Module):
    """One codebook for all scales, and the mixers φ."""

    def __init__(self, config: MSVQConfig) -> None:
        super().__init__()
        self.config = config
        self.codebook = Quantizer(config)
        channels = config.latent_channels
        self.mixers = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(config.num_mixers))

    def forward(self, latents: Tensor) -> MultiScale:
        """Quantise latents (B, C, h, w), float32. Gradients reach them by the loss alone."""
        total, loss = torch.zeros_like(latents), latents.new_zeros(())
        prefixes, tokens, assignments = [], [], []
        for k, side in enumerate(self.config.scales):
            rest = (latents - total).detach()
            vectors = self._shrink(rest, side).movedim(1, -1)
            indices, codes = self.codebook.choose(vectors.flatten(0, -2))
            total = total + self._enlarge(codes.view(vectors.shape).movedim(-1, 1), k)
            # The terms of van den Oord et al. 2017 on what all scales so far add up to; beta is on the encoder's.
            loss = loss + self.config.commitment * F.mse_loss(latents, total.detach())
            loss = loss + F.mse_loss(total, latents.detach())
            prefixes.append(total)
            tokens.append(indices.view(vectors.shape[:-1]))
            assignments.append(Assignment(vectors.flatten(0, -2), indices))
        return MultiScale(torch.stack(prefixes), loss / len(self.config.scales), tokens, tuple(assignments))

    def prefixes(self, tokens: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield f̂ (B, C, h, w), float32, after each map of tokens, int64 (B, p, p); maps of some first scales do."""
        total: Tensor | None = None
        for k, indices in enumerate(tokens):
            total = self.add(total, indices, k)
            yield total

    def add(self, total: Tensor | None, tokens: Tensor, k: int) -> Tensor:
        """Return f̂ with scale k's tokens (B, p, p) added to that of the scales before, None where k is 0."""
        return self.add_codes(total, self.codebook.embed(tokens), k)

    def add_codes(self, total: Tensor | None, codes: Tensor, k: int) -> Tensor:
        """Return f̂ with scale k's codes (B, C, p, p) added to that of the scales before, None where k is 0."""
        contribution = self._enlarge(codes, k)
        return contribution if total is None else total + contribution

    def next_input(self, total: Tensor, k: int) -> Tensor:
        """Return what predicts scale k from f̂ (B, C, h, w) of the scales before it: (B, p_k p_k, C), row by row."""
        return self._shrink(total, self.config.scales[k]).flatten(2).transpose(1, 2)

    def inputs(self, tokens: Sequence[Tensor]) -> Tensor:
        """Return `next_input` of all scales but the first, one after the other, (B, L - p_0 p_0, C)."""
        before = self.prefixes(tokens[:-1])
        parts = [self.next_input(total, k) for k, total in enumerate(before, start=1)]
        if parts:
            return torch.cat(parts, dim=1)
        return self.codebook.codes.new_zeros(len(tokens[0]), 0, self.config.latent_channels)

    @torch.no_grad()
    def initialise(self, latents: Tensor, generator: torch.Generator) -> None:
        """Place the codes among the vectors of latents (B, C, h, w) and of their smaller versions."""
        shrunk = [self._shrink(latents, side) for side in self.config.scales]
        vectors = torch.cat([each.movedim(1, -1).flatten(0, -2) for each in shrunk])
        self.codebook.initialise(vectors, generator)

    def _shrink(self, latents: Tensor, side: int) -> Tensor:
        # The last scale is not resized.
        return latents if side == latents.shape[-1] else F.interpolate(latents, size=(side, side), mode="area")

    def _enlarge(self, codes: Tensor, k: int) -> Tensor:
        """Return scale k's codes (B, C, p, p) at the latent's size, mixed by its φ."""
        side = self.config.scales[-1]
        if codes.shape[-1] != side:
            codes = F.interpolate(codes, size=(side, side), mode="bicubic")
        mixer = self.mixers[self.config.mixer_of_scale[k]]
        # In fp32, also under autocast: other digits would be other codes.
        with torch.autocast(codes.device.type, enabled=False):
            return torch.lerp(codes, mixer(codes), self.config.mixing)
