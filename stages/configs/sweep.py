"""Settings of `ldm sweep`."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ...core.diffusion.names import SamplerName
from ...core.features.settings import EXTRACTOR_HELP, ExtractorName
from ...core.pipeline.settings import Asking
from ...core.settings.fields import Count, Location, option, section
from ...core.system.settings import Machine


class Sweep(Asking):
    """Settings of `ldm sweep`: scales and step counts, and the settings of `ldm sample` and `ldm eval` for each."""

    command: ClassVar[str] = "sweep"
    kind: ClassVar[str] = "sweep"

    cfg: tuple[Annotated[float, Field(ge=0)], ...] = option((1.0, 1.5, 2.0, 3.0, 5.0), "Guidance scales.", "--cfg")
    steps: tuple[Annotated[int, Field(ge=1)], ...] = option((20,), "Numbers of steps.", "--steps")
    num: Count = option(20, "Images of each class.", "--num,--count", ge=1)
    sampler: SamplerName = option("ddim", "Sampler.", "--sampler")
    reference: str | None = option(
        None, "Data source, folder or saved statistics; by default the training images.", "--reference"
    )
    features: Literal["auto", ExtractorName] = option("auto", EXTRACTOR_HELP, "--features")
    weights: Location | None = option(None, "File or folder with the extractor's weights.", "--weights")
    limit: Count = option(10_000, "Reference images at most; 0 for no limit.", "--limit")
    machine: Machine = section(Machine)
