"""Settings of `ldm doctor`."""

from pathlib import Path

from ...core.settings.fields import Location, Section, option, section
from ...core.system.settings import Machine


class Doctor(Section):
    """Settings of `ldm doctor`."""

    examples = (
        "ldm doctor",
        "ldm doctor --quick",
        "ldm doctor --runs-dir /data/runs --device cuda --json",
    )

    runs_dir: Location = option(Path("runs"), "Folder that holds the runs; it need not exist yet.", "--runs-dir")
    quick: bool = option(False, "Leave the self-test of the stages out.", "--quick")
    machine: Machine = section(Machine)
