"""A report as one HTML file: nothing outside of it is needed to read it, and whatever comes from data is escaped."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

TEMPLATE = "report.html"
_TYPES = {".png": "image/png", ".webp": "image/webp", ".jpg": "image/jpeg"}


@dataclass(frozen=True)
class Card:
    """A stage in the diagram of the pipeline. state: complete, unfinished or missing."""

    title: str
    state: str
    lines: Sequence[str] = ()
    changed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Picture:
    """An image file, or a chart drawn as SVG, with what it shows and the command that made it."""

    caption: str
    file: Path | None = None
    svg: str | None = None
    command: str | None = None

    @property
    def source(self) -> str:
        """The image as a data URI."""
        assert self.file is not None
        return f"data:{_TYPES[self.file.suffix]};base64,{base64.b64encode(self.file.read_bytes()).decode()}"


@dataclass(frozen=True)
class Table:
    """Rows of texts under a heading for each column; the first column names the row."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


@dataclass(frozen=True)
class Chapter:
    """A part of the report: its title, a few words, pictures and tables."""

    title: str
    words: str = ""
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()


@dataclass(frozen=True)
class Page:
    """A whole report."""

    title: str
    subtitle: str
    cards: Sequence[Card]
    chapters: Sequence[Chapter]
    colophon: Sequence[str]


def render(page: Page) -> str:
    """Return the report as HTML."""
    import jinja2

    text = resources.files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(text).render(page=page)
