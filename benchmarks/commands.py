"""Commands of ldm as benchmarks run them: in this process, on one core, with their processor time kept."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldm.cli.layers import merged_config
from ldm.core.errors import UserError
from ldm.core.progress import Outcome, Silent
from ldm.stages.table import STAGES

ONE_CORE = {"machine.threads": 1, "machine.device": "cpu"}
_SECONDS = "seconds.jsonl"


def configured(command: str, recipe: str | None, settings: Mapping[str, Any]) -> Any:
    """Return a command's settings: the recipe's, or the defaults, with others by dotted key.

    Raises ConfigError for what is unknown.
    """
    return merged_config(command, recipe, [f"{key}={typed(value)}" for key, value in settings.items()]).config


def run(folder: Path, command: str, recipe: str | None, settings: Mapping[str, Any]) -> Outcome:
    """Run a command in the run of its settings, in a folder of runs. What is finished is not done again.

    Ends the program with a line where it cannot be done, or was stopped.
    """
    try:
        config = configured(command, recipe, {**ONE_CORE, "runs_dir": folder, **settings})
        return timed(folder, config.name, command, lambda: STAGES[command].load().run(config, Silent()))
    except UserError as error:
        raise SystemExit(f"{command}: {error}") from None


def timed(folder: Path, name: str, command: str, work: Any) -> Outcome:
    """Do the work of a command, and add its processor time to that of the run, also where it was interrupted."""
    print(f"{name}: {command}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    started = time.process_time()
    try:
        outcome: Outcome = work()
        return outcome
    finally:
        line = json.dumps({"run": name, "command": command, "seconds": time.process_time() - started})
        with (folder / _SECONDS).open("a") as log:
            log.write(line + "\n")


def spent(folder: Path, name: str) -> dict[str, float]:
    """Return the processor seconds of a run by command, start and validation included."""
    found: dict[str, float] = {}
    for line in (folder / _SECONDS).read_text().splitlines():
        each = json.loads(line)
        if each["run"] == name:
            found[each["command"]] = round(found.get(each["command"], 0.0) + each["seconds"], 1)
    return found


def typed(value: Any) -> str:
    """Write a value as on the command line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return "null" if value is None else str(value)
