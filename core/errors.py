"""Errors that a user can fix: one class per exit code, each message with its remedy."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

SETTING = re.compile(r"`([a-z_]+(?:\.[a-z_0-9]+)?)(?:=([^`]*))?`")  # a setting in an error's text, and its value


class UserError(Exception):
    """An error that the user can fix: what is wrong (with the file or setting and the value seen) and what to do.

    Settings are in backquotes in both texts, as `cfg=3` or `train.batch_size`; the command line shows the flag of the
    command that was typed. Shown as one line and a remedy, without a traceback. exit_code: the process's exit status.
    section: of the stage's settings that the named settings belong to, where only that section was read.
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
    """A flag, key or combination of settings that ldm cannot follow."""


class DataError(UserError):
    """Images, labels, weights or a stage's directory that are missing, damaged or of another kind."""

    exit_code = 3


class NewerFormat(DataError):  # noqa: N818
    """A whole file of a format that this version does not know: another version wrote it."""


class Diverged(UserError):  # noqa: N818
    """Training had too many non-finite steps to continue."""

    exit_code = 4


class Stopped(UserError):  # noqa: N818
    """A signal stopped the work; the same command continues from there."""

    exit_code = 75


class LostProcess(UserError):  # noqa: N818
    """Another process of the same run has ended: killed, out of memory, or its machine is down."""

    exit_code = 1


class Notice(UserWarning):
    """Something that a user should know of, given by `warnings.warn` from where there is no `Progress`."""


class OtherProcessFailed(Exception):  # noqa: N818
    """Another process of the same run failed and reports it; this one ends silently with the same exit code."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"another process of this run ended with {exit_code}")
        self.exit_code = exit_code


@contextmanager
def as_data_error(message: str, remedy: str | None = None) -> Iterator[None]:
    """Turn any error of a parser of external files into a DataError with its reason, except running out of memory.

    Only for calls of such parsers, and of trackers: those of images, archives and headers document no complete list of
    what they raise.
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


@contextmanager
def with_remedy(remedy: str) -> Iterator[None]:
    """Give a remedy to DataErrors that have none."""
    try:
        yield
    except DataError as error:
        error.remedy = error.remedy or remedy
        raise


_NO_MEMORY = (
    *("DefaultCPUAllocator: can't allocate memory", "Cannot allocate memory", "can't start new thread"),
    *("cannot allocate memory", "failed to map segment"),  # of the loader of libraries, in an ImportError
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means out of memory; torch's is known by its class on a GPU, by its text on a CPU."""
    return (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError | ImportError) and any(words in str(error) for words in _NO_MEMORY))
        or (isinstance(error, ImportError) and error.__context__ is not None and is_out_of_memory(error.__context__))
    )
