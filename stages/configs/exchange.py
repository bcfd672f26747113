"""The configurations of `ldm export` and `ldm import`. Imports no torch."""

from typing import Literal

from ...core.pipeline.settings import Prompted, TextReading
from ...core.settings.fields import Location, Run, option


class Export(Prompted, TextReading, Run):
    """Settings of `ldm export`."""

    examples = (
        "ldm export --to diffusers mine-diffusers",
        "ldm export --name mine exports/mine --replace",
        "ldm export --part autoencoder exports/autoencoder",
    )

    directory: Location = option(..., "Folder to write; new, empty, or an export to --replace.", "DIR")
    to: Literal["diffusers"] = option("diffusers", "Format: a folder for a pipeline of diffusers.", "--to")
    part: Literal["all", "autoencoder", "prompts"] = option(
        "all",
        "Export all of a model, the autoencoder alone, or prompts as tensors for its network.",
        "--part",
    )
    denoiser: Location | None = option(None, "Denoiser stage to export; by default the run's own.", "--denoiser")
    cfg: float | None = option(
        None,
        "Guidance scale that a distilled denoiser is fixed to, which takes it as an input; by default as it samples.",
        "--cfg",
        ge=0,
    )
    replace: bool = option(False, "Overwrite an earlier export.", "--replace")


class Import(Run):
    """Settings of `ldm import`."""

    examples = (
        "ldm import DiT-XL-2-256x256.pt --autoencoder sd-vae-ft-ema --name dit-xl",
        "ldm import path/to/pipeline --name theirs",
        "ldm import path/to/autoencoder --name theirs --image-size 64",
    )

    path: Location = option(
        ...,
        "A checkpoint of facebookresearch/DiT (.pt), or a folder of a pipeline of diffusers or of an autoencoder.",
        "PATH",
    )
    autoencoder: Location | None = option(
        None, "Autoencoder folder that the denoiser was trained on; by default a pipeline's own.", "--autoencoder"
    )
    class_names: Location | None = option(
        None, "Text file with the name of a class on each line; by default the pipeline's own.", "--class-names"
    )
    heads: int | None = option(None, "Attention heads of a checkpoint; known for DiT-S, B, L and XL.", "--heads", ge=1)
    num_classes: int | None = option(
        None,
        "Classes of a checkpoint; by default one fewer than the rows of its table.",
        "--num-classes",
        ge=1,
    )
    image_size: int | None = option(
        None, "Side of an autoencoder's images, pixels; by default its sample_size.", "--image-size", ge=1
    )
    replace: bool = option(False, "Discard other models in the run.", "--replace")

    @property
    def words(self) -> list[str]:
        """The command line of the same import, without the run."""
        words = ["ldm", "import", self.path.as_posix()]
        for name in ("autoencoder", "class_names", "heads", "num_classes", "image_size"):
            if getattr(self, name) is not None:
                words += [f"--{name.replace('_', '-')}", str(getattr(self, name))]
        return words
