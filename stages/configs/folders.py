"""Settings of the tools that read folders: `ldm verify` and `ldm inspect`."""

from ...core.settings.fields import Location, Section, option

_WHAT = "A run, a stage's folder, a checkpoint, a network, an export, or a folder of any"


class Verify(Section):
    """Settings of `ldm verify`."""

    path: Location = option(..., f"{_WHAT}.", "PATH")


class Inspect(Section):
    """Settings of `ldm inspect`."""

    path: Location = option(..., f"{_WHAT}; or an image that ldm drew.", "PATH")
