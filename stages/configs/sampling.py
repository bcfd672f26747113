"""Settings of `ldm sample`: which images; the model and the options of drawing are in core."""

from typing import ClassVar

from ...core.pipeline.settings import Asking, Drawing, Repeatable, Seeded
from ...core.settings.fields import Location, option


class Sample(Drawing, Asking, Seeded, Repeatable):
    """Settings of `ldm sample`."""

    command: ClassVar[str] = "sample"
    kind: ClassVar[str] = "samples"

    jobs: Location | None = option(
        None,
        "File of drawings, to be made one after the other: options of each on a line, or YAML, settings by label.",
        "--jobs",
        identity=False,
    )
    interactive: bool = option(
        False, "Ask for classes and options, and draw them with the model that is loaded.", "--interactive", False
    )
    progressive: bool = option(
        False, "Also write the path from noise to image, as a strip and animated.", "--progressive"
    )
