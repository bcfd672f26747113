"""Fields in the config of every denoiser, of any family: those set by data and training. Imports no torch."""

from pydantic import Field

from ..settings.families import NetworkConfig


class DenoiserConfig(NetworkConfig):
    """The config of a denoiser, beside its family's own settings.

    latent_size: side, or (height, width), of the latents; `check` refuses those that the network does not take.
    num_classes: 0 for latents without labels. label_dropout: only whether it is above 0 matters here: then there is a
    null class. learn_sigma: whether the output has a second half, for the variance. time_scale: of times in [0, 1].
    scalars: fields of the condition that the network takes beside its family's own and adds to the time: numbers (B,),
    and the condition of crops (B, 3).
    """

    latent_channels: int = Field(ge=1, le=4096)
    latent_size: int | tuple[int, int]
    num_classes: int = Field(default=0, ge=0, le=10_000_000)
    label_dropout: float = Field(default=0.1, ge=0, lt=1)
    learn_sigma: bool = False
    time_scale: float = 1000.0
    scalars: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the latents."""
        return (self.latent_size, self.latent_size) if isinstance(self.latent_size, int) else self.latent_size

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the latents."""
        return self.latent_channels, *self.size

    @property
    def has_null(self) -> bool:
        """Whether there is a null class."""
        return self.label_dropout > 0

    @property
    def out_channels(self) -> int:
        """Channels of the output: those of the latent, twice with a learned variance."""
        return self.latent_channels * (2 if self.learn_sigma else 1)

    @property
    def num_blocks(self) -> int | None:
        """The number of the network's `blocks`, where the config has it."""
        return None
