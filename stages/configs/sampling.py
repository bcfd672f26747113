"""Settings of `ldm sample`: which images; the model and the options of drawing are in core."""

from typing import ClassVar

from ...core.pipeline.settings import Asking, Drawing
from ...core.settings.fields import Count, option


class Sample(Drawing, Asking):
    """Settings of `ldm sample`."""

    command: ClassVar[str] = "sample"
    kind: ClassVar[str] = "samples"

    num: Count = option(16, "Images of each class.", "--num,--count", ge=1)
    progressive: bool = option(
        False, "Also write the path from noise to image, as a strip and animated.", "--progressive"
    )
