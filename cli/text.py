"""Text for terminals, on which control characters in names from data are written out, and for Markdown pages."""

import re
import sys
from collections.abc import Iterable

import typer

# Control characters (C0, DEL, C1), and those that reverse the order in which what follows is shown (Unicode's bidi
# embeddings, overrides and isolates: "Trojan Source", Boucher & Anderson 2021). Surrogates stand for bytes of names
# that are not UTF-8, which no strict stream takes.
_STEERING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Return a text of any number of lines with what steers terminals as escapes: `\\x1b[2J`."""
    return _STEERING.sub(_written_out, text)


def one_line(text: str) -> str:
    """Return a text as `printable` does, and on one line: a name from data begins no line of its own."""
    return printable(text).replace("\n", "\\n")


def listed(text: str) -> str:
    """Return a text on one line, but for the indented lines of a list below it."""
    return "\n  ".join(map(one_line, text.split("\n  ")))


def echo(text: str, newline: bool = True) -> None:
    """Write to stdout: the very text to a file or a program, what is `printable` of it to a terminal."""
    typer.echo(printable(text) if sys.stdout.isatty() else text, nl=newline)


def codes(words: Iterable[str]) -> str:
    """Return words as code, with commas."""
    return ", ".join(f"`{word}`" for word in words)


def escaped(text: str) -> str:
    """Return text so that Markdown shows it as it stands; what is in backticks is code."""
    return "".join(
        p if p.startswith("`") else re.sub(r"([*_<>\[\]|])", r"\\\1", p) for p in re.split("(`[^`]*`)", text)
    )


def _written_out(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
