"""Settings of `ldm doctor`."""

from pathlib import Path

from ...core.settings.fields import Location, Section, option, section
from ...core.system.settings import Machine


class Doctor(Section):
    """Settings of `ldm doctor`."""

    runs_dir: Location = option(Path("runs"), "Folder that holds the runs; it need not exist yet.", "--runs-dir")
    quick: bool = option(False, "Leave the self-test of the stages out.", "--quick")
    machine: Machine = section(Machine)
