"""`ldm show`: a run on a page of this machine that grows with it, with a form that draws from the newest checkpoint."""

import json
import threading
import time
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from ...core.errors import ConfigError, DataError
from ...core.files import read_plain
from ...core.images.decode import is_picture
from ...core.progress import Outcome, Progress, Silent
from ...core.system.signals import stop_flag
from ..configs.report import Report
from ..configs.show import Show
from .report import page_of, read_run
from .reporting.page import Chapter, render
from .showing.drawing import Drawing
from .showing.server import RequestError, Server
from .showing.state import Shown, shown

_PAGE = "show.html"
_INTERVAL = 0.2  # seconds between looks at whether to end
_REST = 10  # a report is made again after so many times the seconds that it took


def run(config: Show, progress: Progress) -> Outcome:
    """Show a run until a signal ends it, as Ctrl-C does. Returns how."""
    site = Site(config)
    try:
        server = Server(config.port, site.content, site.draw)
    except OSError as error:
        remedy = "give another one, or 0 for any that is free"
        raise ConfigError(f"`port={config.port}` cannot be listened on: {error.strerror}", remedy) from None
    with stop_flag() as flag, server:
        threading.Thread(target=server.serve_forever, args=(_INTERVAL,), daemon=True).start()
        progress.note(f"{config.root} is shown at {server.address} until Ctrl-C")
        while not flag:
            time.sleep(_INTERVAL)
        server.shutdown()
        site.drawing.end()
    return Outcome(config.root, verdict="is no longer shown")


class Site:
    """What the page is made of, read anew when it is asked for."""

    def __init__(self, config: Show) -> None:
        self.config = Report(name=config.name, runs_dir=config.runs_dir)
        self.root = config.root
        self.drawing = Drawing(config)
        self._report, self._version, self._rest_until = b"", "", 0.0
        self._lock = threading.Lock()  # matplotlib draws in one thread at a time
        self._seen = self.now()

    def now(self) -> Shown:
        """Read the run as it is. Raises DataError where there is none."""
        self._seen = shown(read_run(self.config, self.config.name, Silent()))
        return self._seen

    def content(self, address: str) -> tuple[str, bytes]:
        """Return the type and content of an address of the page. Raises RequestError for any other."""
        if address == "":
            return "page", resources.files(f"{__package__}.showing").joinpath(_PAGE).read_bytes()
        try:
            # The page asks for the pictures of a state: they are those of one reading.
            is_known = address in self._seen.pictures or address.startswith("drawn/")
            now = self._seen if is_known else self.now()
        except DataError as error:
            raise RequestError(404, error.message) from None
        if address == "state":
            own = {"run": self.config.name, "version": self._version if self._rests else now.version}
            return "application/json", json.dumps({**now.state, **self._drawn(), **own}).encode()
        if address == "report":
            return "report", self._newest(now.version)
        drawn = {f"drawn/{self.drawing.count}.png": self.drawing.picture} if self.drawing.picture else {}
        path = {**now.pictures, **drawn}.get(address)
        if path is None or not self._is_inside(path) or not is_picture(path):
            raise RequestError(404, "not found")
        return "image/png", read_plain(path)

    def draw(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Begin a drawing. Returns why not, if so."""
        try:
            folder = read_run(self.config, self.config.name, Silent()).generator.path
            return {"error": self.drawing.start(folder, fields)}
        except DataError as error:
            return {"error": error.message}

    def _drawn(self) -> dict[str, Any]:
        drawing = self.drawing
        ready = drawing.picture is not None and not drawing.running and not drawing.error
        return {
            "drawing": drawing.running,
            "asked": drawing.asked,
            "error": drawing.error,
            "drawn": f"drawn/{drawing.count}.png" if ready else None,
        }

    @property
    def _rests(self) -> bool:
        """Whether the report is not made again yet, however the run has changed: that would take the machine."""
        return time.monotonic() < self._rest_until

    def _newest(self, version: str) -> bytes:
        """Return the report, made again where the run has changed since."""
        with self._lock:
            if version != self._version and not self._rests:
                began = time.monotonic()
                page = page_of(self.config, Silent())
                inside = [self._inside(chapter) for chapter in page.chapters]
                self._report, self._version = render(replace(page, chapters=inside)).encode(errors="replace"), version
                self._rest_until = time.monotonic() + _REST * (time.monotonic() - began)
            return self._report

    def _inside(self, chapter: Chapter) -> Chapter:
        """Leave out pictures that are links to somewhere else."""
        kept = [each for each in chapter.pictures if each.file is None or self._is_inside(each.file)]
        return replace(chapter, pictures=kept)

    def _is_inside(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self.root.resolve())
