"""The documentation holds together: links lead somewhere, every page is on the site, and the site can be built."""

import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
BESIDE = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
PAGES = [*(ROOT / name for name in BESIDE), *sorted(DOCS.rglob("*.md"))]
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]*))?\)")


def prose(path: Path) -> str:
    return re.sub(r"^(`{3,}).*?^\1$", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)


@cache
def anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", prose(path), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def broken_links(path: Path) -> list[str]:
    """List a page's links that lead to no file, or to no heading of a page."""
    broken = []
    for target, anchor in LINK.findall(prose(path)):
        found = (path.parent / target).resolve() if target else path
        lost = anchor and (found.suffix != ".md" or anchor not in anchors(found))
        if not found.exists() or lost:
            broken.append(f"{target}#{anchor}" if anchor else target)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_leads_to_a_file_and_to_a_heading_in_it(page: Path) -> None:
    assert not broken_links(page)


def test_the_check_of_links_tells_good_from_bad(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# Two words, `code`\n")
    page = tmp_path / "page.md"
    page.write_text("[a](other.md) [b](other.md#two-words-code) [c](https://x.org) ![d](gone.png) [e](other.md#gone)\n")
    assert broken_links(page) == ["gone.png", "other.md#gone"]


def leaves(nav: Any) -> list[str]:
    """List the pages in a navigation."""
    if isinstance(nav, str):
        return [nav]
    return [page for part in (nav.values() if isinstance(nav, dict) else nav) for page in leaves(part)]


def test_the_navigation_has_every_page_once() -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    pages = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")]
    assert sorted(leaves(settings["nav"])) == sorted([*pages, *BESIDE.values()])


@pytest.mark.parametrize(("page", "folder"), [("gallery/README.md", "gallery"), ("what-wrong-looks-like.md", "wrong")])
def test_every_picture_of_the_gallery_and_of_faults_stands_above_the_command_that_made_it(
    page: str, folder: str
) -> None:
    text = (DOCS / page).read_text(encoding="utf-8").replace(f"]({folder}/", "](")
    pictures = [path.name for path in (DOCS / folder).iterdir() if path.suffix in (".png", ".webp")]
    assert sorted(re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)) == sorted(pictures)
    for below in re.split(r"!\[[^\]]+\]\([^)]+\)", text)[1:]:
        assert re.match(r"\s*```sh\n((make|ldm) .*\n)+```\n", below), below[:80]
    for recipe, run in re.findall(r"RECIPE=([\w/.-]+) RUN=([\w-]+)", text):
        assert (ROOT / recipe).stem == run and (ROOT / recipe).is_file()


def test_a_command_of_make_is_listed_for_every_target_that_is_meant_for_people() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = set(re.search(r"^\.PHONY: (.*)$", makefile, re.M)[1].split())  # type: ignore[index]
    assert phony == set(re.findall(r"^([a-z-]+):.*## ", makefile, re.M))


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="the documentation's tools are not installed: make docs")
    pytest.importorskip("latex2mathml", reason="the documentation's tools are not installed: make docs")
    mkdocs = shutil.which("mkdocs", path=Path(sys.executable).parent)
    command = [mkdocs] if mkdocs else [sys.executable, "-m", "mkdocs"]
    done = subprocess.run(
        [*command, "build", "--strict", "--site-dir", str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    fetched = re.compile(
        r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"(?:https?:)?//[^\"]*\"|url\(\"?https?:|@import"
    )
    for page in tmp_path.rglob("*.html"):
        assert not fetched.findall(page.read_text()), page
    theory = (tmp_path / "theory.html").read_text()
    assert theory.count("<math ") > 150 and "elumrof" not in theory and "$" not in re.sub(r"<.*?>", "", theory)
    assert 'href="source/core/diffusion/schedules.py.html#__codelineno-0-' in theory
