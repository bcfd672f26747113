"""`ldm sample --interactive`: classes and options that are typed, drawn at once with the model that is loaded."""

import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from ..core.errors import ConfigError, Stopped
from ..core.pipeline.generator import Loaded, Opened, open_generator
from ..core.progress import Outcome
from ..stages import sample
from ..stages.configs import Sample
from .console import Plain, show_failure
from .events import Events
from .failures import MENDABLE, explain
from .jobs import COMMAND, common, job_of, layer_of, words_of

PROMPT = "draw> "
_ENDS = ("quit", "exit", "q")
_HELP = ("help", "?")


def run(config: Sample, console: Plain, typed: TextIO | None = None) -> Outcome:
    """Draw what each line asks for, until there are no more. typed: the lines, by default the standard input.

    A line that cannot be followed is reported, and the next one is read. Returns the folder of the samples; at the end
    of lines that nobody types, with the exit code of the last that failed.
    """
    if config.label is not None:
        raise ConfigError(f"`label={config.label}` is one folder", "give it with the line that it is of")
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigError("`interactive`: one process reads what is typed", "run it without torchrun")
    typed = typed or sys.stdin
    given, loaded = common(config), Loaded()
    opened = open_generator(config)
    console.note(_usage(opened))
    drawn, exit_code = 0, 0
    for line in _lines(typed):
        try:
            outcome = _draw(line, opened, given, loaded, console)
        except Stopped:
            raise
        except MENDABLE as error:
            if isinstance(error, KeyboardInterrupt) or (failure := explain(error, COMMAND)) is None:
                raise
            show_failure(failure, json=isinstance(console, Events))
            exit_code = 0 if typed.isatty() else failure.exit_code
            continue
        if outcome is not None:
            console.outcome(COMMAND, outcome)
            drawn += 1
    return Outcome(config.root / config.kind, summary={"drawn": f"{drawn:,} times"}, exit_code=exit_code)


def _draw(line: str, opened: Opened, given: dict[str, Any], loaded: Loaded, console: Plain) -> Outcome | None:
    """Draw what a line asks for; None where it asks for nothing, or for help."""
    words = words_of(line)
    if words and words[0] in _HELP:
        console.note(_usage(opened))
        return None

    # Words before the first option are what is drawn: a class, or whatever this model is conditioned on.
    count = next((place for place, word in enumerate(words) if word.startswith("-") or "=" in word), len(words))
    plain, options = " ".join(words[:count]), words[count:]
    layer = layer_of(options) if words else None
    if layer is None:
        return None
    if plain:
        layer = {opened.conditioning.asks: plain, **layer}
    config, chosen = job_of(layer, given, {})
    if chosen is not None:
        console.note(f"--seed {chosen} was chosen")
    return sample.run(config, console, loaded)


def _usage(opened: Opened) -> str:
    names = opened.conditioning.class_names
    known = f"a class ({', '.join(names[:10])}{', …' if len(names) > 10 else ''})" if names else "what to draw"
    what = f"{known}, options, or both" if opened.conditioning.fields else "options"
    return f"type {what}, as in: {names[0] if names else ''} --count 4 --cfg 3; quit ends".replace(":  ", ": ")


def _lines(typed: TextIO) -> Iterator[str]:
    """Yield lines until the end, or one that asks for it; with a prompt where somebody types them."""
    if typed.isatty():
        import readline  # noqa: F401  input() edits lines with it
    while True:
        try:
            line = input(PROMPT) if typed.isatty() else next(typed)
        except (EOFError, StopIteration):
            return
        if line.strip().lower() in _ENDS:
            return
        yield line
