"""ldm: train latent diffusion models from the command line, one stage at a time.

The code lives in the folders `cli`, `stages` and `core`; an installed wheel maps them to `ldm.cli`,
`ldm.stages` and `ldm.core`. In a checkout they are found one folder up.
"""

from pathlib import Path

__version__ = "0.1.0"

_here = Path(__file__).resolve().parent
if not (_here / "core").is_dir() and (_here.parent / "core").is_dir():
    __path__.append(str(_here.parent))
