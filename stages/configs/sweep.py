"""Settings of `ldm sweep`."""

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from ...core.diffusion.names import SAMPLERS, SpacingName, require
from ...core.features.settings import EXTRACTOR_HELP, ExtractorName
from ...core.pipeline.settings import Asking
from ...core.settings.fields import Count, Location, option, section
from ...core.system.settings import Machine


def _split(value: object) -> object:
    """Read names with commas, in one text or in several."""
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        return value
    return tuple(name.strip() for text in texts for name in text.split(","))


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        require(name, SAMPLERS, "sampler")
    return names


Samplers = Annotated[tuple[str, ...], BeforeValidator(_split), AfterValidator(_known)]


class Sweep(Asking):
    """Settings of `ldm sweep`: scales and step counts, and the settings of `ldm sample` and `ldm eval` for each."""

    command: ClassVar[str] = "sweep"
    kind: ClassVar[str] = "sweep"
    examples = (
        "ldm sweep --cfg 1,1.5,2,3,5",
        "ldm sweep --cfg 3 --steps 5,10,20,50 --sampler dpmpp-2m",
        "ldm sweep --cfg 1,1.5,2,3 --autoguide early --autoguide-scale 1,2",
    )

    cfg: tuple[Annotated[float, Field(ge=0)], ...] = option((1.0, 1.5, 2.0, 3.0, 5.0), "Guidance scales.", "--cfg")
    steps: tuple[Annotated[int, Field(ge=1)], ...] = option((20,), "Numbers of steps.", "--steps")
    num: Count = option(20, "Images of each class.", "--num,--count", ge=1)
    sampler: Samplers = option(("ddim",), "Samplers, with commas: ddim,dpmpp-2m.", "--sampler", min_length=1)
    spacing: SpacingName = option(
        "trailing", "Which of the schedule's steps; uniform and flow do not use its table.", "--spacing"
    )
    shift: float | None = option(
        None, "Move the samplers' times towards noise (above 1) or data; by default as in training.", gt=0
    )
    autoguide: Location | None = option(
        None,
        "Weaker denoiser of the same latents to guide away from as well; early is the denoiser's own state after"
        " train.early images.",
        "--autoguide",
    )
    autoguide_scale: tuple[Annotated[float, Field(ge=0)], ...] = option(
        (2.0,), "Autoguidance scales, with --autoguide; 1 is without.", "--autoguide-scale", min_length=1
    )
    students: bool = option(
        True,
        "Compare with the run's students that draw in these steps, where there are any.",
        "--students/--no-students",
    )
    reference: str | None = option(
        None, "Data source, folder or saved statistics; by default the training images.", "--reference"
    )
    features: Literal["auto", ExtractorName] = option("auto", EXTRACTOR_HELP, "--features")
    weights: Location | None = option(None, "File or folder with the extractor's weights.", "--weights")
    limit: Count = option(10_000, "Reference images at most; 0 for no limit.", "--limit")
    machine: Machine = section(Machine)
