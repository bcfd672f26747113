"""The remedies that commands print, harvested while tests run, and the forms of them that R26 follows to the letter.

What else names a command only says where to look something up, or what other model to take.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ldm.core.errors import UserError

RUNS = (
    *("mend it", "make it again", "make it", "make one", "make some", "finish it", "write it again"),
    "go on with the training, which writes it",
)
FOLLOWED = (
    rf"({'|'.join(RUNS)}): ldm .+",
    r"remove /\S+(: .+)?",
    r"restore one, or remove /\S+ to start over",
    r"go on with (`replace`|--replace): .+",
    r"take its last state, or .+",
    r"give the same settings(, another (`\w+`|--\w+))?, or (`replace`|--replace) to start over",
    r"move /.+ away",  # of an export, followed in the tests of exports
    r"give (`replace`|--replace), or a new folder",
)
ADVICE = (
    r".* --help (lists|shows) .+",
    r"correct it; `ldm recipes show mnist` prints a valid recipe",
    r"take them off the list, or make it again with `ldm data dedup --exclude-out`",
    r"only `ldm sample` draws from this denoiser; .+",
    r"use one with a trained encoder: .+",
    r"give another name, or (`replace`|--replace)",
)
_OURS = re.compile(r"\bldm [a-z]|`replace`|--replace|\b(remove|move) /")


def unknown(remedy: str) -> list[str]:
    """Return the parts of a remedy that name a command, a place to remove or `replace`, and that no test follows."""
    asking = [part.strip() for part in remedy.split("; then ") if _OURS.search(part)]
    forms = (*FOLLOWED, *ADVICE)
    return [part for part in asking if not any(re.fullmatch(form, part, re.DOTALL) for form in forms)]


@contextmanager
def heard() -> Iterator[set[str]]:
    """Collect the remedies of the errors that are made inside a block."""
    found: set[str] = set()
    whole = UserError.__init__

    def listen(self: UserError, message: str, remedy: str | None = None) -> None:
        whole(self, message, remedy)
        if remedy:
            found.add(remedy)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UserError, "__init__", listen)
        yield found
