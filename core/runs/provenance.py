"""Provenance of an artifact: command line, versions, machine, git commit, time."""

import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any


def provenance() -> dict[str, Any]:
    """Return the provenance: command line, versions, machine, git commit, and the time now."""
    packages: dict[str, str | None] = {}
    for package in ("torch", "numpy", "pillow", "safetensors", "diffusers"):
        try:
            packages[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            packages[package] = None
    return {
        "argv": sys.argv,
        "ldm": _own_version(),
        "python": platform.python_version(),
        "packages": packages,
        "platform": platform.platform(),
        "git": _git_commit(),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _own_version() -> str:
    from ... import __version__

    return __version__


def _git_commit() -> str | None:
    """The commit of the checkout this code runs from, with `+` when files differ from it; None outside one."""
    here = Path(__file__).resolve().parent
    if not (here.parent / ".git").exists():  # Installed, perhaps inside another project's checkout.
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
