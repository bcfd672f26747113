"""A report as one HTML file: nothing outside of it is needed to read it, and whatever comes from data is escaped."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from PIL import Image

from ....core.runs.run import StageRun

TEMPLATE = "report.html"
_HEAVY, _LONGEST = 1_500_000, 2_400  # bytes of an image; pixels of one that has more
_WIDE = 1_400  # pixels of an image that half a page would be too small for
_TYPES = {".png": "image/png", ".webp": "image/webp", ".jpg": "image/jpeg"}


@dataclass(frozen=True)
class Card:
    """A stage in the diagram of the pipeline.

    state: complete, unfinished or missing. beside: for what, where it stands beside the chain.
    """

    title: str
    state: str
    lines: Sequence[str] = ()
    changed: Mapping[str, str] = field(default_factory=dict)
    beside: str = ""


@dataclass(frozen=True)
class Picture:
    """An image file, or a chart drawn as SVG, with what it shows and the command that made it.

    run: the stage whose manifest lists the file, if it does. folded: an image that is shown when asked for. beside: how
    many images share its row, where they are compared.
    """

    caption: str
    file: Path | None = None
    run: StageRun | None = None
    svg: str | None = None
    command: str | None = None
    folded: bool = False
    beside: int = 0

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the image, pixels."""
        assert self.file is not None
        with Image.open(self.file) as image:
            return image.size

    @property
    def layout(self) -> str:
        """How much room the image is given: `wide` is all there is, `tall` half of that."""
        width, height = self.size
        return "wide" if width > 1.4 * height or width > _WIDE else "tall"

    @property
    def source(self) -> str:
        """The image as a data URI; one of many bytes, which a page of many would be too heavy with, made smaller."""
        assert self.file is not None
        content, kind = self.file.read_bytes(), _TYPES[self.file.suffix]
        if len(content) > _HEAVY:
            content, kind = _lighter(content), "image/webp"
        return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@dataclass(frozen=True)
class Table:
    """Rows of texts under a heading for each column; the first column names the row. folded: shown when asked for."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Chapter:
    """A part of the report: its title, a few words, pictures and tables."""

    title: str
    words: str = ""
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()


@dataclass(frozen=True)
class Gap:
    """Something that the report would show, or that its numbers advise, and the command that adds or does it."""

    what: str
    command: str = ""


@dataclass(frozen=True)
class Page:
    """A whole report."""

    title: str
    subtitle: str
    cards: Sequence[Card] = ()
    chapters: Sequence[Chapter] = ()
    colophon: Sequence[str] = ()
    advice: Sequence[Gap] = ()
    gaps: Sequence[Gap] = ()


def _lighter(content: bytes) -> bytes:
    """Encode an image anew with some loss, at most `_LONGEST` pixels long and wide."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(content)) as image:
        smaller = image.convert("RGB")
        smaller.thumbnail((_LONGEST, _LONGEST), Image.Resampling.LANCZOS)
        smaller.save(buffer, "webp", quality=88)
    return buffer.getvalue()


def render(page: Page) -> str:
    """Return the report as HTML."""
    import jinja2

    text = resources.files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(text).render(page=page)
