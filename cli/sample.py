"""`ldm sample`: one drawing, or several with the networks loaded once: those of a file, or those that are typed."""

import importlib
from typing import Any

from ..core.progress import Outcome
from ..stages.configs import Sample


def run(config: Sample, console: Any) -> Outcome:
    """Draw what is asked for. console: a `Progress`; for what is typed, a console of the command line."""
    if config.jobs is not None:
        return _module("cli.jobs").run(config, console)
    if config.interactive:
        return _module("cli.interactive").run(config, console)
    return _module("stages.sample").run(config, console)


def _module(name: str) -> Any:
    return importlib.import_module(f"..{name}", __package__)
