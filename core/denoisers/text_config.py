"""Fields in the config of denoisers that take text: what the data give, and the size of a text network. No torch."""

from pydantic import Field

from ..errors import ConfigError
from ..settings.fields import option
from .config import DenoiserConfig

_HEAD_WIDTH = 64


class TextDenoiserConfig(DenoiserConfig):
    """The config of a denoiser that takes text as well.

    vocabulary: of ids, for which a text network is trained with the denoiser; text_length: the most of them in a text.
    token_width, pooled_width: of vectors that a frozen encoder made, of each token and of the whole text. 0 is absent.
    """

    vocabulary: int = Field(default=0, ge=0, le=10_000_000)
    text_length: int = Field(default=0, ge=0, le=65_536)
    token_width: int = Field(default=0, ge=0, le=65_536)
    pooled_width: int = Field(default=0, ge=0, le=65_536)
    text_width: int = option(256, "Width of the text network that is trained with it.", ge=8, le=65_536, multiple_of=8)
    text_layers: int = option(2, "Layers of the text network that is trained with it.", ge=0, le=256)

    def check(self) -> None:
        super().check()
        if self.vocabulary and (self.token_width or not self.text_length):
            raise ConfigError("a vocabulary goes with a text_length, and not with tokens of a frozen encoder")
        if self.vocabulary and self.text_width % self.text_heads:
            raise ConfigError(
                f"text_width {self.text_width} does not divide into {self.text_heads} heads",
                f"choose a multiple of {_HEAD_WIDTH}",
            )

    @property
    def takes_text(self) -> bool:
        """Whether a condition has text."""
        return bool(self.vocabulary or self.token_width)

    @property
    def context_width(self) -> int:
        """Width of the tokens of a text: a frozen encoder's, or those of a network that is trained with it."""
        return self.token_width or self.text_width

    @property
    def summary_width(self) -> int:
        """Width of the one vector of a text: a frozen encoder's own, or the mean of its tokens."""
        return self.pooled_width or self.context_width

    @property
    def text_heads(self) -> int:
        """Attention heads of its text network."""
        return max(1, self.text_width // _HEAD_WIDTH)
