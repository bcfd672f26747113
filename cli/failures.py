"""From exception to exit code: the one table.

0 done; 2 usage, settings, or a path that cannot be written; 3 bad data; 4 training diverged; 75 stopped by a signal,
to be resumed; 130 interrupted; 1 out of memory, a GPU that failed, another process of the run gone without a word, or
a defect of this program (which shows its traceback).
"""

import errno
from dataclasses import dataclass

import typer

from ..core.errors import UserError, is_out_of_memory
from ..stages.table import COMMANDS

INTERRUPTED = 130
UsageError: type[Exception] = typer.BadParameter.__mro__[1]  # of whichever click typer brings with it

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError)
_UNUSABLE = (errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP)
_DISK_FAILED = (errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODEV)
_GPU_FAILED = ("CUDA error", "HIP error", "NCCL error")
_OWN_DEFECT = "device-side assert"  # an index out of range, say: its traceback is wanted
MENDABLE = (UserError, UsageError, OSError, MemoryError, RuntimeError, ImportError, KeyboardInterrupt)


@dataclass(frozen=True)
class Failure:
    """What ended a command: one line, what to do about it, and the exit code."""

    message: str
    remedy: str | None
    exit_code: int


def explain(error: BaseException, command: str) -> Failure | None:
    """Return what to show the user about an exception; None if it is a defect, whose traceback should be seen.

    command: as typed, `train-dit`, for the remedy.
    """
    if isinstance(error, UserError):
        from .refusals import in_flags  # loads pydantic

        message, remedy = (in_flags(text, command, error.section) for text in (error.message, error.remedy or ""))
        return Failure(message, remedy or None, error.exit_code)
    if isinstance(error, UsageError):
        message = error.format_message().rstrip(".")  # type: ignore[attr-defined]
        return Failure(message, f"{' '.join(filter(None, ('ldm', command)))} --help shows how", 2)
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return Failure("interrupted", None, INTERRUPTED)
    if isinstance(error, OSError) and error.errno != errno.ENOMEM:
        return _explain_os_error(error)
    if is_out_of_memory(error):
        return Failure(f"out of memory: {_first_line(error)}", _memory_remedy(command), 1)
    if isinstance(error, RuntimeError) and str(error).startswith(_GPU_FAILED) and _OWN_DEFECT not in str(error):
        remedy = "run the same command again: it goes on from what was saved; if it fails again, leave that GPU out"
        return Failure(f"the GPU failed: {_first_line(error)}", remedy, 1)
    return None


def _explain_os_error(error: OSError) -> Failure | None:
    where = f" {error.filename}" if error.filename else ""
    reason = (error.strerror or str(error)).lower()
    if error.errno in _FULL:
        return Failure(f"disk: cannot write{where}: {reason}", "free some room, then run the same command", 2)
    if isinstance(error, _REFUSED) or error.errno in _UNUSABLE:
        return Failure(f"cannot use{where}: {reason}", "choose another folder or change who may write there", 2)
    if error.errno in _DISK_FAILED:
        return Failure(f"the disk failed: cannot use{where}: {reason}", "run the same command again once it works", 2)
    return None


def _memory_remedy(command: str) -> str:
    settings = COMMANDS[command].settings.model_fields if command in COMMANDS else {}
    if "sampler" in settings:
        return "take --precision bf16, or a device with more memory; the images that are there stay"
    if "train" in settings:
        split = "split the batch into passes with train.accumulate=2 (or 4, 8)"
        return f"{split}, or begin another run with a smaller --batch-size; what was saved is intact"
    return "give a smaller --batch-size"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
