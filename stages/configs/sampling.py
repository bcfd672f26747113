"""Settings of `ldm sample`: which images; the model and the options of drawing are in core."""

from typing import ClassVar

from ...core.pipeline.settings import Asking, Drawing
from ...core.settings.fields import Count, Location, option


class Sample(Drawing, Asking):
    """Settings of `ldm sample`."""

    command: ClassVar[str] = "sample"
    kind: ClassVar[str] = "samples"

    num: Count = option(16, "Images of each class.", "--num,--count", ge=1)
    like: Location | None = option(
        None, "Image of ldm sample to draw again, with the changes that are given.", "--like", identity=False
    )
    metadata: bool = option(
        True, "Let each image carry what it was drawn by, for ldm inspect and --like.", "--metadata/--no-metadata"
    )
    progressive: bool = option(
        False, "Also write the path from noise to image, as a strip and animated.", "--progressive"
    )
