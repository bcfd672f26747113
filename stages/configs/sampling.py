"""Settings of `ldm sample`: which images of which denoiser; the options of drawing are in core."""

from typing import ClassVar, Literal

from ...core.pipeline.settings import Drawing
from ...core.settings.fields import Count, Label, Location, option, section
from ...core.system.settings import Machine


class Sample(Drawing):
    """Settings of `ldm sample`."""

    command: ClassVar[str] = "sample"
    kind: ClassVar[str] = "samples"

    denoiser: Location | None = option(None, "Denoiser stage to sample; by default the run's own.", "--denoiser")
    checkpoint: Literal["final", "best"] = option(
        "final", "Weights at the end of the training, or the best measured by metrics.every.", "--checkpoint"
    )
    label: Label | None = option(
        None, "Name of the output under samples/; by default made from the settings.", "--label", False
    )
    classes: str = option("all", "Classes by name or index: 3, tench, 0-4, cat,dog, all.", "--class")
    num: Count = option(16, "Images of each class.", "--num,--count", ge=1)
    batch_size: int = option(
        64,
        "Images written at once; does not change them, and a small number costs time.",
        "--batch-size",
        ge=1,
        identity=False,
    )
    progressive: bool = option(
        False, "Also write the path from noise to image, as a strip and animated.", "--progressive"
    )
    machine: Machine = section(Machine)
