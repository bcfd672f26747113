"""Settings of `ldm sample`: which images; the model and the options of drawing are in core."""

from typing import ClassVar

from ...core.pipeline.settings import Drawing
from ...core.settings.fields import Count, option


class Sample(Drawing):
    """Settings of `ldm sample`."""

    command: ClassVar[str] = "sample"
    kind: ClassVar[str] = "samples"

    classes: str = option("all", "Classes by name or index: 3, tench, 0-4, cat,dog, all.", "--class")
    num: Count = option(16, "Images of each class.", "--num,--count", ge=1)
    progressive: bool = option(
        False, "Also write the path from noise to image, as a strip and animated.", "--progressive"
    )
