"""ldm: train latent diffusion models from the command line, one stage at a time.

The code lives in the folders `cli`, `stages` and `core`; an installed wheel maps them to `ldm.cli`,
`ldm.stages` and `ldm.core`. In a checkout they are found one folder up.

From Python, `ldm.open("runs/mine")` returns a run to draw with: `sample`, `edit`, `encode`, `decode`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .core.pipeline.session import Session

__version__ = "0.1.0"

_here = Path(__file__).resolve().parent
if not (_here / "core").is_dir() and (_here.parent / "core").is_dir():
    __path__.append(str(_here.parent))


def open(run: str | Path, checkpoint: str = "final", **machine: Any) -> "Session":
    """Open a run's generator for drawing: `ldm.open("runs/mine").sample("cat", seeds=range(4), cfg=3)`.

    checkpoint: `latest` for a training that is not finished, or `best`. machine: settings of the section `machine`,
    such as `device="cuda"` and `precision="bf16"`; by default the best there is. Raises DataError where the run has no
    such generator.
    """
    from .core.pipeline.session import Session  # here, since importing ldm loads nothing

    return Session(Path(run), checkpoint, **machine)
