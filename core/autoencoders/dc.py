"""The deep-compression autoencoder (Chen et al. 2024, DC-AE): latents of many channels, 8 to 64 times smaller.

Shortcuts without weights carry the image around every resampler and around the latents; the lowest levels have linear
attention. There is neither a codebook nor a random posterior.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import ConfiguredCodec, channels_last
from .codec import Between, Draws, Posterior, Reconstruction, untouched
from .dc_blocks import AttentionBlock, Downsample, ResBlock, Upsample, average_groups, repeat_channels
from .dc_config import DCConfig
from .norms import ChannelRMSNorm


class Encoder(nn.Module):
    """Images (B, in_channels, H, W) to latents (B, latent_channels, h, w)."""

    def __init__(self, config: DCConfig) -> None:
        super().__init__()
        self.config, widths = config, config.widths
        if config.encoder_depths[0]:
            self.conv_in: nn.Module = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        else:
            self.conv_in = Downsample(config.in_channels, widths[1], config.resampling, shortcut=False)
        levels = []
        for level, depth in enumerate(config.encoder_depths):
            layers = [_block(config, level) for _ in range(depth)]
            if depth and level < len(widths) - 1:
                layers.append(Downsample(widths[level], widths[level + 1], config.resampling, config.shortcuts))
            levels.append(nn.Sequential(*layers))
        self.down_blocks = nn.ModuleList(levels)
        self.conv_out = nn.Conv2d(widths[-1], config.latent_channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        h = self.conv_in(images)
        for level in self.down_blocks:
            h = level(h)
        z = self.conv_out(h)
        return z + average_groups(h, z.shape[1]) if self.config.shortcuts else z


class Decoder(nn.Module):
    """Latents (B, latent_channels, h, w) to images (B, in_channels, H, W)."""

    def __init__(self, config: DCConfig) -> None:
        super().__init__()
        self.config, widths, depths = config, config.widths, config.depths_of_decoder
        self.conv_in = nn.Conv2d(config.latent_channels, widths[-1], 3, padding=1)
        levels = []
        for level, depth in enumerate(depths):
            layers = [_block(config, level, batch_norm=level < config.batch_norm_levels) for _ in range(depth)]
            if depth and level < len(widths) - 1:
                layers.insert(0, Upsample(widths[level + 1], widths[level], config.resampling, config.shortcuts))
            levels.append(nn.Sequential(*layers))
        self.up_blocks = nn.ModuleList(levels)
        finest = widths[0] if depths[0] else widths[1]
        self.norm_out = ChannelRMSNorm(finest)
        if depths[0]:
            self.conv_out: nn.Module = nn.Conv2d(finest, config.in_channels, 3, padding=1)
        else:
            self.conv_out = Upsample(finest, config.in_channels, config.resampling, shortcut=False)

    def forward(self, latents: Tensor) -> Tensor:
        h = self.conv_in(latents)
        h = h + repeat_channels(latents, h.shape[1]) if self.config.shortcuts else h
        for level in reversed(self.up_blocks):
            h = level(h)
        return self.conv_out(F.relu(self.norm_out(h)))


class DCAutoencoder(ConfiguredCodec):
    """Encoder, decoder; a `TrainableCodec`."""

    kind = "dc"
    latent_sides = None
    synchronous = False

    def __init__(self, config: DCConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        channels_last(self)

    def encode(self, images: Tensor) -> Posterior:
        """Return latents (B, C, h, w), which are not random."""
        return Posterior(self.encoder(images))

    def decode(self, latents: Tensor) -> Tensor:
        """Return images (B, 3, H, W), not clamped, of latents (B, C, h, w)."""
        return self.decoder(latents)

    def forward(self, images: Tensor, draws: Draws | None = None, between: Between = untouched) -> Reconstruction:
        """Reconstruct images (B, 3, H, W) in [-1, 1]; no draw is made, and there is no term of its own."""
        decoded = self.decode(between(self.encode(images).mean))
        return Reconstruction(decoded, decoded.new_zeros((), dtype=images.dtype), {})

    @property
    def last_layer(self) -> Tensor:
        last = self.decoder.conv_out
        conv = last.conv if isinstance(last, Upsample) else last
        assert isinstance(conv, nn.Conv2d)
        return conv.weight

    @property
    def parts(self) -> Mapping[str, Sequence[nn.Module]]:
        """All; what is around the latents, and the lowest level; the decoder; its finest level and the output."""
        encoder, decoder = self.encoder, self.decoder
        middle = [encoder.down_blocks[-1], encoder.conv_out, decoder.conv_in, decoder.up_blocks[-1]]
        finest = next(level for level in decoder.up_blocks if len(list(level.children())))
        head = [finest, decoder.norm_out, decoder.conv_out]
        return {"all": [self], "middle": middle, "decoder": [decoder], "head": head}

    @property
    def compile_units(self) -> Sequence[nn.Module]:
        return self.encoder, self.decoder

    def initialise(self, images: Tensor, draws: Draws) -> None:
        """Do nothing: no part starts from data."""

    def after_step(self, observed: Sequence[Any], draws: Draws) -> None:
        """Do nothing: only gradients change it."""

    def summarise(self, observed: Sequence[Any]) -> dict[str, float]:
        """Return nothing: reconstructions are all there is to measure."""
        return {}

    def rotate(self, rotation: Tensor) -> bool:
        """Return False: there is no codebook."""
        return False


def _block(config: DCConfig, level: int, batch_norm: bool = False) -> nn.Module:
    """Return a block of a level, counted from the finest: with attention at the lowest ones."""
    width = config.widths[level]
    if level < len(config.widths) - config.attention_levels:
        return ResBlock(width, batch_norm)
    return AttentionBlock(width, config.head_width, config.attention_scales, batch_norm)
