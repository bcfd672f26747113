"""The page: self-contained, escaped, and with charts in the page's own ink."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm.core.figures import Panel, line, svg
from ldm.core.images.decode import write_png
from ldm.stages.tools.reporting.page import Card, Chapter, Gap, Page, Picture, Table, render

HOSTILE = "<script>alert('x')</script>\"&"


class Outline(HTMLParser):
    """Collects tags that were opened, and every address that the page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]


def page(tmp_path: Path, text: str = "plain") -> str:
    write_png(tmp_path / "a.png", np.zeros((4, 4, 3), dtype=np.uint8))
    chart = svg(Panel("", "x", text, [line(text, [(0, 1.0), (1, 0.5)])]))
    chapter = Chapter(
        text,
        text,
        pictures=[Picture(text, tmp_path / "a.png", command=text), Picture(text, svg=chart)],
        tables=[Table((text, text), [(text, text)], text)],
    )
    card = Card(text, "complete", [text], {text: text})
    return render(Page(text, text, [card], [chapter], [text]))


def outline(html: str) -> Outline:
    parser = Outline()
    parser.feed(html)
    return parser


def test_nothing_outside_of_the_file_is_asked_for(tmp_path: Path) -> None:
    addresses = outline(page(tmp_path)).addresses
    assert any(address.startswith("data:image/png;base64,") for address in addresses)
    assert all(address.startswith(("data:", "#")) for address in addresses)


def test_text_from_data_is_escaped_everywhere(tmp_path: Path) -> None:
    html = page(tmp_path, HOSTILE)
    assert HOSTILE not in html and "script" not in outline(html).tags


def test_charts_take_the_pages_ink_and_width() -> None:
    chart = svg(Panel("", "x", "y", [line("a", [(1, 1.0), (2, 30.0)]), line("b", [(1, 2.0)])], log="y"))
    assert chart.startswith("<svg") and "currentColor" in chart and "#000000" not in chart
    assert not re.search(r'<svg[^>]* width="', chart) and "viewBox" in chart
    assert chart.count("<text") > 5


def test_the_same_numbers_give_the_same_chart() -> None:
    first, second = (svg(Panel("", "x", "y", [line("a", [(1, 1.0), (2, 3.0)])])) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("points", [[(1, 0.0), (2, 1.0)], [(1, -1.0)]])
def test_a_logarithmic_axis_is_not_forced_on_what_has_no_logarithm(points: list[tuple[float, float]]) -> None:
    assert svg(Panel("", "x", "y", [line("a", points)], log="y")).startswith("<svg")


def test_a_heavy_picture_is_made_lighter_and_a_light_one_left_as_it_is(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1200, 3000, 3), dtype=np.uint8)
    write_png(tmp_path / "heavy.png", noise)
    write_png(tmp_path / "light.png", noise[:20, :20])
    heavy, light = Picture("", tmp_path / "heavy.png"), Picture("", tmp_path / "light.png")
    assert light.size == (20, 20) and light.source.startswith("data:image/png;")
    assert base64.b64decode(light.source.partition(",")[2]) == (tmp_path / "light.png").read_bytes()
    assert heavy.source.startswith("data:image/webp;")
    with Image.open(io.BytesIO(base64.b64decode(heavy.source.partition(",")[2]))) as smaller:
        assert smaller.size == (2400, 960)


def test_few_marked_points_are_the_ticks_and_large_numbers_are_brief() -> None:
    few = svg(Panel("", "x", "y", [line("a", [(1, 1.0), (1.5, 2.0), (5, 3.0)], marked=True)]))
    assert all(f">{tick}</text>" in few for tick in ("1", "1.5", "5")) and ">2</text>" not in few.partition("y")[0]
    many = svg(Panel("", "x", "y", [line("a", [(0, 1.0), (2_000_000, 3.0)])]))
    assert ">2M</text>" in many and ">500k</text>" in many


def test_gaps_and_folded_tables_are_on_the_page(tmp_path: Path) -> None:
    tables = [Table(("", "n"), [("shown", "1")]), Table(("", "n"), [("hidden", "2")], folded=True)]
    cards = [Card("chain", "complete"), Card("aside", "missing", beside="judges")]
    html = render(Page("t", "s", cards, [Chapter("c", tables=tables)], [], [Gap(HOSTILE, "ldm sample")]))
    assert html.index("shown") < html.index("<details>") < html.index("hidden") < html.index("ldm</span> <span>sample")
    assert HOSTILE not in html and html.index("chain</b>") < html.index('class="pipeline beside"') < html.index(
        "aside</b>"
    )
