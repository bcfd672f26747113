"""What a user can mend: one class per exit code, each message with its remedy."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

SETTING = re.compile(r"`([a-z_]+(?:\.[a-z_0-9]+)?)(?:=([^`]*))?`")  # a setting in an error's text, and its value


class UserError(Exception):
    """Something the user can mend: what is wrong (with the file or setting and the value seen) and what to do.

    Settings stand in backquotes in both texts, as `cfg=3` or `train.batch_size`; the command line shows the flag of the
    command that was typed. Shown as one line and a remedy, without a traceback. exit_code: the process's exit status.
    section: of the stage's settings in which these were given, where a part of it was asked on its own.
    """

    exit_code = 2
    section: str | None = None

    def __init__(self, message: str, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    @property
    def setting(self) -> str | None:
        """The first setting that the message names."""
        named = SETTING.search(self.message)
        return named[1] if named else None

    def __str__(self) -> str:
        return f"{self.message} ({self.remedy})" if self.remedy else self.message


class ConfigError(UserError):
    """A flag, key or combination of settings that cannot be honoured."""


class DataError(UserError):
    """Images, labels, weights or a stage's directory that are missing, damaged or of another kind."""

    exit_code = 3


class Diverged(UserError):  # noqa: N818
    """Training produced too many non-finite steps to go on."""

    exit_code = 4


class Stopped(UserError):  # noqa: N818
    """A signal stopped the work at a point from which the same command goes on."""

    exit_code = 75


class LostProcess(UserError):  # noqa: N818
    """Another process of the same run is gone: killed, out of memory, or its machine is down."""

    exit_code = 1


class OtherProcessFailed(Exception):  # noqa: N818
    """Another process of the same run failed and reports why; this one ends silently with the same exit code."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"another process of this run ended with {exit_code}")
        self.exit_code = exit_code


@contextmanager
def as_data_error(message: str, remedy: str | None = None) -> Iterator[None]:
    """Turn whatever a parser of others' bytes raises into a DataError with its reason; want of memory is none.

    For the borders of parsers alone: nobody knows all that those of images, archives and headers raise on damage.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{message}: {first_line}", remedy) from error


_NO_MEMORY = ("DefaultCPUAllocator: can't allocate memory", "Cannot allocate memory", "can't start new thread")


def is_out_of_memory(error: BaseException) -> bool:
    """Tell an error for want of memory, by torch too: an accelerator's by its class, the processor's by its text."""
    return (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY))
    )
