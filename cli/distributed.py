"""Under torchrun: which commands several processes may share, and which process reports an error."""

import os

from ..core.errors import ConfigError, LostProcess
from ..stages.table import COMMANDS


def is_follower() -> bool:
    """Return whether another process of the run is the main one."""
    return os.environ.get("RANK", "0") != "0"


def refuse_several(command: str) -> None:
    """Raise ConfigError for a command that is not shared, where torchrun started several processes."""
    size = os.environ.get("WORLD_SIZE", "1")
    if size != "1" and not COMMANDS[command].shared:
        raise ConfigError(f"WORLD_SIZE is {size}, but {command} is the work of one process", "run it without torchrun")


def is_reported_here(error: BaseException) -> bool:
    """Return whether this process reports an error: the one in which it happened does, where others end because of it.

    An error before the processes have joined is that of all, and reported once on each machine. A lost process is
    reported by all: it may be the very one that would report.
    """
    reported = getattr(error, "reported", False) or isinstance(error, LostProcess)
    return reported or os.environ.get("LOCAL_RANK", "0") == "0"
