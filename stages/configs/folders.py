"""Settings of the tools that read folders: `ldm verify` and `ldm inspect`."""

from ...core.errors import DataError
from ...core.settings.fields import Location, Section, option

_WHAT = "A run, a stage's folder, a checkpoint, a network, an export, or a folder of any"


class _OfPath(Section):
    path: Location

    def require_places(self) -> None:
        if not self.path.exists():
            raise DataError(f"{self.path} does not exist", "give a folder")


class Verify(_OfPath):
    """Settings of `ldm verify`."""

    examples = (
        "ldm verify runs/default",
        "ldm verify runs/mine/latents",
        "ldm verify runs/mine/dit/checkpoints",
    )

    path: Location = option(..., f"{_WHAT}.", "PATH")


class Inspect(_OfPath):
    """Settings of `ldm inspect`."""

    examples = (
        "ldm inspect runs/default",
        "ldm inspect runs/mine/dit",
        "ldm inspect runs/mine/dit/final --json",
    )

    path: Location = option(..., f"{_WHAT}; or an image that ldm drew.", "PATH")
