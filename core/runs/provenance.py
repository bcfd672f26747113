"""Provenance of an artifact: command line, versions, machine, git commit, time."""

import platform
import subprocess
import sys
import time
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

CREATED = "%Y-%m-%dT%H:%M:%SZ"


def provenance() -> dict[str, Any]:
    """Return the provenance: command line, versions, machine, git commit, and the time now."""
    return {
        "argv": sys.argv,
        "ldm": _own_version(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in ("torch", "numpy", "pillow", "safetensors", "diffusers")},
        "platform": platform.platform(),
        "git": _git_commit(Path(__file__).resolve().parent),
        "created": time.strftime(CREATED, time.gmtime()),
    }


def _own_version() -> str:
    from ... import __version__

    return __version__


@cache
def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@cache
def _git_commit(here: Path) -> str | None:
    """The commit of the checkout this code runs from, with `+` when files differ from it; None outside one."""
    if not (here.parents[1] / ".git").exists():  # Installed, perhaps inside another project's checkout.
        return None
    try:
        commit = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return commit.stdout.strip() or None
