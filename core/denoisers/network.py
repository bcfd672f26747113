"""What every denoising network has, whatever its family."""

from abc import abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn

from ..conditioning.conditioning import Conditioning
from ..diffusion.conditions import Cond
from ..errors import ConfigError


class DenoiserNetwork(nn.Module):
    """Network of (x_t, t, cond); what its output means is the prediction type's affair.

    config: its family's, of JSON values, which refuses latent sizes that the network does not take. latent_shape:
    (C, h, w). blocks: the parts that it has many of in a row, to be compiled or sharded one by one. fields: those of
    a condition that it takes. checkpointing: recompute each block's activations in the backward pass, which saves
    memory and costs a quarter of the speed.
    """

    fields: ClassVar[tuple[str, ...]] = ()
    config: Any
    blocks: nn.ModuleList
    checkpointing = False

    @property
    @abstractmethod
    def latent_shape(self) -> tuple[int, int, int]: ...

    @property
    @abstractmethod
    def training_flops(self) -> float:
        """About how many floating point operations a latent costs in a training step."""

    @abstractmethod
    def forward(self, x_t: Tensor, t: Tensor, cond: Cond, taps: tuple[int, ...] = ()) -> Any:
        """Return the output (B, C or 2C, h, w) in x_t's dtype; with taps, also the hidden states after those blocks.

        x_t: (B, C, h, w). t: (B,) in [0, 1]. cond: as it is, or prepared. A sample's output does not depend on the
        others in its batch, up to the rounding of matrix products (1e-5 in fp32).
        """

    def prepare(self, cond: Cond) -> Cond:
        """Return what follows from the condition alone, fields with the batch first: once for all steps of sampling."""
        return cond


def require_fields(network: type[DenoiserNetwork], conditioning: Conditioning) -> None:
    """Raise ConfigError where the data's conditions have fields that a kind of network does not take."""
    unknown = sorted(set(conditioning.fields) - set(network.fields))
    if unknown:
        raise ConfigError(
            f"a {network.__name__} takes {' and '.join(network.fields) or 'no condition'}, not {', '.join(unknown)}",
            "choose a preset of another family",
        )
