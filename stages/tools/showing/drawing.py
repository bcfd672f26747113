"""Drawings that the page of a run asks for: `ldm sample` in a process of its own, one at a time, at low priority."""

import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from ....core.runs.checkpoint import saved
from ...configs.show import Show

LABEL = "shown"  # the folder of samples that the last drawing is in
_FIELDS = ("class", "prompt", "num", "seed", "cfg", "steps")  # of the form, and flags of the same names
_LONGEST = 1000
_NICENESS = 15
_SECONDS_TO_END = 10.0
# As `python -m ldm`, which would also look for modules in the current folder.
_LDM = "import sys; sys.path[:] = [place for place in sys.path if place]; from ldm.cli.main import main; main()"


class Drawing:
    """The drawing that runs, or the last one. asked: what it was asked for. error: why there is none, for people."""

    def __init__(self, config: Show) -> None:
        self.config = config
        self.count, self.asked, self.error = 0, "", ""
        self.picture: Path | None = None
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    @property
    def running(self) -> bool:
        return self._process is not None

    def start(self, folder: Path, wanted: Mapping[str, Any]) -> str:
        """Begin to draw from a generator's folder. Returns why that cannot be, else nothing."""
        given = {name: str(value) for name, value in wanted.items() if value not in ("", None)}
        unknown = sorted(given.keys() - {*_FIELDS})
        if unknown or any(len(value) > _LONGEST for value in given.values()):
            return f"not a setting of the form: {', '.join(unknown)}" if unknown else "a value is too long"
        flags = [f"--{name}={value}" for name, value in given.items()]
        state = "latest" if saved(folder) else "final"
        command = [sys.executable, "-c", _LDM, "sample", *flags, "--json", "--replace", f"--label={LABEL}"]
        command += [f"--name={self.config.name}", f"--runs-dir={self.config.runs_dir}", f"--denoiser={folder}"]
        command += [f"--checkpoint={state}", f"--device={self.config.device}"]
        with self._lock:
            if self.running:
                return "a drawing is being made"
            pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
            self._process = subprocess.Popen(command, **pipes, text=True, encoding="utf-8", errors="replace")
            _be_nice(self._process.pid)
            self.count, self.error = self.count + 1, ""
            self.asked = ", ".join(f"{name} {value}" for name, value in given.items())
            threading.Thread(target=self._wait, args=(self._process,), daemon=True).start()
        return ""

    def end(self) -> None:
        """End the drawing that runs, if one does."""
        process = self._process
        if process is not None:
            process.terminate()
            try:
                process.wait(_SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                process.kill()

    def _wait(self, process: "subprocess.Popen[str]") -> None:
        written, shown = process.communicate()
        events = {event.get("event"): event for event in map(_event, written.splitlines())}
        if process.returncode == 0 and "outcome" in events:
            self.picture = Path(str(events["outcome"].get("directory"))) / "grid.png"
        else:
            said = events.get("error", {})
            parts = [said.get("message"), said.get("remedy")] if said else shown.strip().splitlines()[-1:]
            self.error = "; ".join(str(part) for part in parts if part) or "the drawing was ended"
        self._process = None


def _event(line: str) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


def _be_nice(process: int) -> None:
    try:
        psutil.Process(process).nice(_NICENESS if sys.platform != "win32" else psutil.BELOW_NORMAL_PRIORITY_CLASS)
    except psutil.Error:  # It has ended already.
        return
