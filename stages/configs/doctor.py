"""Settings of `ldm doctor`."""

from pathlib import Path

from ..settings import Location, Machine, Section, option, section


class Doctor(Section):
    """Settings of `ldm doctor`."""

    runs_dir: Location = option(Path("runs"), "Folder that holds the runs; it need not be there yet.", "--runs-dir")
    quick: bool = option(False, "Leave the self-test of the stages out.", "--quick")
    machine: Machine = section(Machine)
