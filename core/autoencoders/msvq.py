"""The multi-scale residual VQ-VAE, whose tokens a next-scale transformer learns (Tian et al. 2024).

Its latents are f̂, the sum of all scales: what the decoder takes, and what `from_tokens` gives.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..distributed import processes
from .blocks import ConfiguredCodec, Decoder, Encoder, channels_last, parts_around
from .codec import Between, Draws, Posterior, Reconstruction, untouched
from .msvq_config import MSVQConfig
from .multiscale import MultiScaleQuantizer
from .quantizers import Assignment, perplexity, usage


@dataclass(frozen=True)
class Observed:
    """Of a pass: which vectors took which codes, by scale; in validation, each scale's squared errors (K, B)."""

    assignments: tuple[Assignment, ...]
    errors: Tensor | None = None


class MSVQ(ConfiguredCodec):
    """Encoder, residual quantiser over scales, decoder; a `TrainableCodec` and a `TokenCodec` of several maps."""

    kind = "msvq"
    synchronous = True  # The codebook moves.

    def __init__(self, config: MSVQConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config, config.latent_channels)
        self.quantizer = MultiScaleQuantizer(config)
        self.decoder = Decoder(config)
        channels_last(self)

    @property
    def latent_sides(self) -> Sequence[int]:
        return self.config.scales[-1:]

    @property
    def num_tokens(self) -> int:
        return self.config.codebook_size

    def encode(self, images: Tensor) -> Posterior:
        """Return f̂ of all scales, float32 (B, C, h, w), which is not random."""
        return Posterior(self.quantizer(self._features(images)).prefixes[-1])

    def decode(self, latents: Tensor) -> Tensor:
        """Decode f̂ (B, C, h, w), of all scales or of some first ones."""
        return self.decoder(latents)

    def tokens(self, images: Tensor) -> list[Tensor]:
        """Return a map of the codes' numbers for each scale, int64 (B, p, p)."""
        return self.quantizer(self._features(images)).tokens

    def from_tokens(self, tokens: Sequence[Tensor]) -> Tensor:
        """Return f̂ (B, C, h, w) of the first maps."""
        return list(self.quantizer.prefixes(tokens))[-1]

    @property
    def last_layer(self) -> Tensor:
        return self.decoder.conv_out.weight

    @property
    def parts(self) -> Mapping[str, Sequence[nn.Module]]:
        return parts_around(self, self.encoder, self.decoder, between=[self.quantizer])

    @property
    def compile_units(self) -> Sequence[nn.Module]:
        return self.encoder, self.decoder

    def forward(self, images: Tensor, draws: Draws | None = None, between: Between = untouched) -> Reconstruction:
        """Reconstruct images (B, 3, H, W) in [-1, 1]; some from fewer scales in training, see `truncation`."""
        features = between(self._features(images))
        out = self.quantizer(features)
        tokens = torch.cat([each.flatten() for each in out.tokens])
        counts = torch.bincount(tokens, minlength=self.config.codebook_size)
        numbers = {"perplexity": perplexity(counts), "usage": usage(counts)}
        taken = out.prefixes[-1] if draws is None else self._truncated(out.prefixes, draws)
        # Straight through: the decoder sees the codes, the encoder gets the gradient.
        decoded = self.decoder(features + (taken - features).detach())
        errors = None if draws is not None else self._errors(images, out.prefixes)
        return Reconstruction(decoded, out.loss, numbers, Observed(out.assignments, errors))

    @torch.no_grad()
    def initialise(self, images: Tensor, draws: Draws) -> None:
        """Place the codes among the latents of images (B, 3, H, W)."""
        self.quantizer.initialise(self._features(images), draws.generator("codebook"))

    def after_step(self, observed: Sequence[Observed], draws: Draws) -> None:
        """Move the codebook by the residuals of all scales and processes, unless the encoder is frozen."""
        if not self.encoder.conv_out.weight.requires_grad:
            return
        gather = processes.all_gather_rows
        own = [assignment for each in observed for assignment in each.assignments]
        everyones = [Assignment(gather(each.vectors), gather(each.indices)) for each in own]
        self.quantizer.codebook.update(everyones, draws.generator("dead codes"))
        processes.broadcast_from_main(self.quantizer.codebook.state_dict().values())

    def summarise(self, observed: Sequence[Observed]) -> dict[str, float]:
        """Return the codebook's use and the PSNR (dB) after each scale, named by its side, over all batches.

        The first scale has one vector an image: few codes there are right.
        """
        numbers: dict[str, float] = {}
        total = torch.zeros(self.config.codebook_size, dtype=torch.int64)
        for k, side in enumerate(self.config.scales):
            indices = torch.cat([each.assignments[k].indices for each in observed]).cpu()
            counts = torch.bincount(indices, minlength=self.config.codebook_size)
            numbers[f"usage_{side}"] = float(usage(counts))
            total += counts
        errors = [each.errors for each in observed if each.errors is not None]
        if errors:
            # Images are in [-1, 1], a range of 2.
            means = (10 * torch.log10(4 / torch.cat(errors, dim=1).double().clamp_min(1e-12))).mean(dim=1)
            numbers |= {f"psnr_{side}": float(each) for side, each in zip(self.config.scales, means, strict=True)}
        return {"usage": float(usage(total)), "perplexity": float(perplexity(total))} | numbers

    def rotate(self, rotation: Tensor) -> bool:
        """Do nothing: the mixers do not commute with a rotation."""
        return False

    def _features(self, images: Tensor) -> Tensor:
        return self.encoder(images).float()

    def _truncated(self, prefixes: Tensor, draws: Draws) -> Tensor:
        """Return for each image f̂ of all scales, or, by its own draw, of a random number of them."""
        num_scales, count = prefixes.shape[:2]
        u, share = draws.uniform("scales"), self.config.truncation
        last = torch.full((count,), num_scales - 1)
        if share:
            last = torch.where(u < share, (u / share * num_scales).long().clamp(max=num_scales - 1), last)
        return prefixes[last.to(prefixes.device), torch.arange(count, device=prefixes.device)]

    @torch.no_grad()
    def _errors(self, images: Tensor, prefixes: Tensor) -> Tensor:
        """Return the mean squared error of each image decoded from each number of scales, (K, B)."""
        decoded = (self.decoder(prefix).float().clamp(-1, 1) for prefix in prefixes)
        return torch.stack([(each - images).square().flatten(1).mean(dim=1) for each in decoded])
