"""What the documentation's site adds to the files in docs/: the README and its neighbours as pages, the sources that
pages point at, and formulas as MathML, so that the site needs nothing from elsewhere."""

import ast
import os
import posixpath
import re
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).resolve().parents[2]
# Pages that stand beside docs/, where people look for them on a forge.
BESIDE = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".cff": "yaml", ".json": "json"}
_FENCED = re.compile(r"^(`{3,}|~{3,}).*?^\1[ \t]*$", re.M | re.S)
_LINK = re.compile(r"(?<=\])\((?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?\)")
_BLOCK = re.compile(r"^```math\n(.*?)^```$", re.M | re.S)
_INLINE = re.compile(r"(`[^`\n]*`)|\$([^$\n]+)\$")
_FORMULA = re.compile(r"formula(\d+)elumrof")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages beside docs/, and a page for each source file that any page points at."""
    pages = {ROOT / "docs" / file.src_uri: file.content_string for file in files.documentation_pages()}
    for name, uri in BESIDE.items():
        pages[ROOT / name] = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, uri, content=pages[ROOT / name]))
    sources = {target for path, text in pages.items() for target in _targets(path, text) if _is_source(target)}
    for path in sorted(sources):
        uri = _page_of(path)
        if files.get_file_from_path(uri) is None:
            source = File.generated(config, uri, content=_source_page(path))
            source.inclusion = InclusionLevel.NOT_IN_NAV
            files.append(source)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Point links at the site's own pages, and set formulas aside so that Markdown leaves them as they are."""
    if page.file.src_uri.startswith("source/"):
        return markdown
    page.formulas = []
    path = next((ROOT / n for n, uri in BESIDE.items() if uri == page.file.src_uri), ROOT / "docs" / page.file.src_uri)
    markdown = _BLOCK.sub(lambda found: f"\n{_set_aside(page.formulas, found[1], 'block')}\n", markdown)
    parts, at = [], 0
    for fence in _FENCED.finditer(markdown):
        parts += [_prose(markdown[at : fence.start()], path, page), fence[0]]
        at = fence.end()
    return "".join([*parts, _prose(markdown[at:], path, page)])


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Put formulas in their places, and tell the build which lines of a source can be linked to."""
    page.present_anchor_ids = {*page.present_anchor_ids, *re.findall(r'id="(__codelineno-[^"]+)"', html)}
    formulas = getattr(page, "formulas", [])
    html = _FORMULA.sub(lambda found: formulas[int(found[1])], html)
    assert not formulas or "<math" in html
    return html


def _prose(text: str, path: Path, page: Any) -> str:
    """Return Markdown between fences as the site has it."""

    def inline(found: re.Match[str]) -> str:
        return found[1] or _set_aside(page.formulas, found[2], "inline")

    text = _INLINE.sub(inline, text)

    def linked(found: re.Match[str]) -> str:
        target = _target(path, found[1])
        if target.is_dir() and (target / "README.md").is_file():
            target /= "README.md"
        if not target.is_file():
            return found[0]  # left as it is for the build to complain of
        anchor = found[2] or _line_of(target, text[: found.start()])
        here = posixpath.dirname(page.file.src_uri)
        return f"({posixpath.relpath(_page_of(target), here or '.')}{anchor})"

    return _LINK.sub(linked, text)


def _set_aside(formulas: list[str], latex: str, display: str) -> str:
    """Keep a formula as MathML; return the word that stands for it."""
    mathml = convert(latex.strip(), display=display)
    formulas.append(mathml.replace("<math ", f'<math alttext="{escape(latex.strip())}" ', 1))
    return f"formula{len(formulas) - 1}elumrof"


def _targets(path: Path, text: str) -> list[Path]:
    return [_target(path, found[1]) for found in _LINK.finditer(_FENCED.sub("", text))]


def _target(path: Path, link: str) -> Path:
    return Path(os.path.normpath(path.parent / link))


def _is_source(path: Path) -> bool:
    """Whether a link leads to a file of this project that is no page and no picture."""
    beside = path.is_relative_to(ROOT) and not path.is_relative_to(ROOT / "docs") and path.name not in BESIDE
    return path.is_file() and beside


def _page_of(path: Path) -> str:
    """Return where the site has a file of this project."""
    inside = path.relative_to(ROOT).as_posix()
    if inside in BESIDE:
        return BESIDE[inside]
    return inside.removeprefix("docs/") if inside.startswith("docs/") else f"source/{inside}.md"


def _source_page(path: Path) -> str:
    language = LANGUAGES.get(path.suffix, "sh" if path.suffix == "" else "text")
    name = path.relative_to(ROOT).as_posix()
    numbered = "````" + f'{language} linenums="1"\n{path.read_text(encoding="utf-8")}````'
    return f"---\nsearch: {{exclude: true}}\nhide: [toc]\n---\n# {name}\n\n{numbered}\n"


def _line_of(path: Path, before: str) -> str:
    """Return the anchor of the line that defines what a link into a Python file is called by: `core.module.name`."""
    called = re.search(r"\[`?([\w.:]+)`?\]$", before)
    if called is None or path.suffix != ".py":
        return ""
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    dotted = re.sub(r"^\w+\.py::", "", called[1].removeprefix(f"{module}."))
    line = _definitions(path).get(dotted)
    return f"#__codelineno-0-{line}" if line else ""


@cache
def _definitions(path: Path) -> dict[str, int]:
    """Return the lines of what a Python file defines, by name, of classes' members by `Class.member`."""
    found: dict[str, int] = {}

    def look(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                found[prefix + node.name] = node.lineno
                look(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found.update({prefix + target.id: node.lineno for target in targets if isinstance(target, ast.Name)})

    look(ast.parse(path.read_text(encoding="utf-8")).body, "")
    return found
