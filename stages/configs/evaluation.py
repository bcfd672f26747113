"""Settings of `ldm eval`."""

from typing import ClassVar, Literal

from pydantic import model_validator

from ...core.metrics.settings import Comparison
from ...core.settings.fields import Location, Place, option, section
from ...core.system.settings import Machine


class Eval(Comparison):
    """Settings of `ldm eval`."""

    command: ClassVar[str] = "eval"
    kind: ClassVar[str] = "eval"
    examples = (
        "ldm eval",
        "ldm eval --of reconstructions",
        "ldm eval --bits-per-dim",
        "ldm eval --samples path/to/images --reference photos/",
    )

    of: Literal["samples", "reconstructions"] = option("samples", "What to evaluate.", "--of")
    bits_per_dim: bool = option(
        False, "Evaluate the denoiser instead: bound its likelihood of held-out latents.", "--bits-per-dim"
    )
    times: int = option(16, "With --bits-per-dim: terms of the bound drawn for each latent.", ge=1)
    samples: Place | None = option(
        None, "Label or folder of the samples; by default the only ones in the run.", "--samples", identity="contents"
    )
    autoencoder: Location | None = option(
        None,
        "Autoencoder stage whose images are the reference; by default the run's own.",
        "--autoencoder",
        identity="contents",
    )
    denoiser: Location | None = option(
        None, "With --bits-per-dim: denoiser stage; by default the run's own.", "--denoiser", identity="contents"
    )
    clip: Location | None = option(
        None,
        "Folder with a CLIP of transformers: measure how samples go with their prompts.",
        "--clip",
        identity="contents",
    )
    image_size: int | None = option(
        None,
        "With --of reconstructions: side of square images, of autoencoders that take any; by default as trained.",
        "--image-size",
        ge=11,
    )
    lpips: Location | None = option(None, "Folder with LPIPS weights, for reconstructions.", "--lpips")
    machine: Machine = section(Machine)

    @model_validator(mode="after")
    def _size_is_of_reconstructions(self) -> "Eval":
        if self.image_size is not None and self.of != "reconstructions":
            raise ValueError(f"`image_size={self.image_size}` is for `of=reconstructions`: samples have their own size")
        return self
