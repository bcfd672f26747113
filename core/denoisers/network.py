"""The interface of denoising networks of every family."""

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..diffusion.conditions import Cond
from ..errors import DataError
from .config import DenoiserConfig


class DenoiserNetwork(nn.Module):
    """A network of (x_t, t, cond); the prediction type defines its output.

    config: its family's, which refuses latent sizes that the network does not take. blocks: the parts that it has many
    of in a row, to be compiled or sharded one by one. uniform: whether these are alike, so that compiling pays: others
    are compiled only where that is asked for, and as a whole, which takes minutes. fields: those of a condition that it
    takes; with takes_scalars, those of `config.scalars` too. any_size: whether x_t may have another height and width
    than the latents that it was trained on. checkpointing: recompute each block's activations in the backward pass,
    which saves memory and costs a quarter of the speed.
    """

    fields: ClassVar[tuple[str, ...]] = ()
    takes_scalars: ClassVar[bool] = False
    uniform: ClassVar[bool] = True
    any_size: ClassVar[bool] = False
    config: DenoiserConfig
    blocks: nn.ModuleList
    checkpointing = False

    @property
    @abstractmethod
    def training_flops(self) -> float:
        """Floating point operations per latent in a training step, about."""

    @abstractmethod
    def forward(self, x_t: Tensor, t: Tensor, cond: Cond, taps: tuple[int, ...] = ()) -> Any:
        """Return the output (B, C or 2C, h, w) in x_t's dtype; with taps, also the hidden states after those blocks.

        x_t: (B, C, h, w). t: (B,) in [0, 1]. cond: plain, or prepared. A sample's output does not depend on the
        others in its batch, up to the rounding of matrix products (1e-5 in fp32).
        """

    def prepare(self, cond: Cond) -> Cond:
        """Return what depends on the condition alone, fields with the batch first: once for all steps of sampling."""
        return cond


def channels_last(network: nn.Module) -> None:
    """Store the weights of convolutions with the channels last, as convolutions of such maps take them."""
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def check_latents(config: DenoiserConfig, latent_shape: tuple[int, ...] | None, path: Path, remedy: str) -> None:
    """Refuse a config, read from a path, of latents of another shape than (C, H, W), if not None.

    Weights alone do not show it: they have the same shapes for two sizes. Raises DataError with the remedy.
    """
    if latent_shape not in (None, config.latent_shape):
        own, wanted = (" × ".join(map(str, shape)) for shape in (config.latent_shape, latent_shape))
        raise DataError(f"{path} takes latents of {own}, not {wanted}", remedy)
