"""Settings of `ldm show`."""

from ...core.settings.fields import Run, option


class Show(Run):
    """Settings of `ldm show`."""

    examples = (
        "ldm show",
        "ldm show mine",
        "ldm show mine --port 8000 --device cpu",
    )

    name: str = option("default", "Run to show: the folder RUNS_DIR/RUN.", "RUN,--name", identity=False)
    port: int = option(0, "Port of this machine to listen on; 0 takes a free one.", "--port", ge=0, le=65_535)
    device: str = option("auto", "Where the page's drawings are computed, as for ldm sample.", "--device")
