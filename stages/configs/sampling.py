"""Settings of `ldm sample`: which images; the model and the options of drawing are in core."""

from typing import ClassVar

from ...core.pipeline.settings import Asking, Drawing, Repeatable, Seeded
from ...core.settings.fields import Location, option


class Sample(Drawing, Asking, Seeded, Repeatable):
    """Settings of `ldm sample`."""

    command: ClassVar[str] = "sample"
    kind: ClassVar[str] = "samples"
    examples = (
        "ldm sample --class 3 --cfg 3",
        "ldm sample --class cat,dog --count 8 --seed 17",
        "ldm sample --class 0-4 --sampler dpmpp-2m --progressive",
        "ldm sample --class 3 --cfg 1 --classifier-scale 2",
        "ldm sample --class 3 --checkpoint best",
        "ldm sample --class cat --seeds 0-15,40 --preview-every 10",
        "ldm sample --jobs jobs.txt --cfg 3",
        "ldm sample --interactive",
    )

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
