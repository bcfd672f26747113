"""What the shell offers behind TAB: keys and their values, recipes, runs, classes. Imports no torch.

Bash ends words at `=`, so that `train.decay=c` reaches us as three words; other shells keep it as one.
"""

import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..core.errors import UserError

if TYPE_CHECKING:
    from .keys import Setting

_SHELL_WORD = re.compile(r"([^\w.,:+@%/=-])")


def complete_recipes(incomplete: str) -> list[str]:
    """Offer the recipes that can be given by name."""
    from .recipe import recipe_names

    return [name for name in recipe_names() if name.startswith(incomplete)]


def complete_settings(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offer `section.key=` for what was begun, and the values of a key that is complete; before them, arguments.

    With a sole key its values are offered at once: of a sole offer the shell would make a finished word.
    """
    from ..stages.table import COMMANDS
    from .keys import settings_of

    declared = settings_of(COMMANDS[str(ctx.command.name)].settings)
    settings, arguments = {s.key: s for s in declared if not s.argument}, [s for s in declared if s.argument]
    words = _typed(ctx)
    if words and words[-1].removesuffix("=") in settings and "=" not in incomplete:
        return _values(settings[words[-1].removesuffix("=")])
    if len(words) < len(arguments):
        return complete_runs(ctx, incomplete) if arguments[len(words)].key == "name" else []
    begun = [key for key in settings if key.startswith(incomplete.partition("=")[0])]
    offered = [] if "=" in incomplete else [f"{key}=" for key in begun]
    key = incomplete.partition("=")[0] if "=" in incomplete else begun[0] if len(begun) == 1 else ""
    if key in settings:
        offered += [f"{key}={value}" for value in _values(settings[key])]
    return offered


def completion_of(setting: "Setting") -> Callable[..., list[str]] | None:
    """Return what offers a flag's values; None where the shell's own file names are the best offer."""
    if setting.choices:
        return lambda incomplete: [choice for choice in setting.choices if choice.startswith(incomplete)]
    if setting.names:
        return lambda incomplete: _names_as_begun(setting.names, incomplete)
    if setting.kind not in ("TEXT", "TEXTS"):  # `--classes 10` is a number of them
        return None
    return {"name": complete_runs, "classes": complete_classes}.get(setting.key)


def complete_runs(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offer the runs there are."""
    try:
        folders = [
            path for path in Path(str(_given(ctx, "runs_dir"))).iterdir() if any(path.glob("*/[im]*t*.json"))
        ]  # of a stage
    except OSError:
        return []
    return sorted(path.name for path in folders if path.name.startswith(incomplete) and path.name.isprintable())


def complete_classes(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offer class names of the denoiser that would be sampled, after a comma too; `_` stands for a space."""
    head = incomplete[: incomplete.rfind(",") + 1]
    names = [name.replace(" ", "_") for name in ("all", *_class_names(ctx)) if name.isprintable()]
    offered = [head + name for name in names if "," not in name or not head]
    return [_shell_word(text) for text in offered if text.startswith(incomplete)]


def _class_names(ctx: typer.Context) -> Sequence[str]:
    """Read the class names in the manifest of the run's generator; none where there is no such run yet."""
    from ..core.files import read_json
    from ..core.runs.roles import any_generator
    from ..core.runs.run import MANIFEST

    run, denoiser = Path(str(_given(ctx, "runs_dir")), str(_given(ctx, "name"))), _given(ctx, "denoiser")
    own = [run / kind for kind in any_generator().makers if (run / kind / MANIFEST).is_file()]
    try:
        metadata = read_json((Path(denoiser) if denoiser else own[0]) / MANIFEST).get("facts")
    except (UserError, IndexError):
        return ()
    names = metadata.get("class_names") if isinstance(metadata, dict) else None
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else ()


def _given(ctx: typer.Context, key: str) -> str | None:
    """Return what a setting is so far: by its flag, as `key=value`, in the recipe, or by default.

    None where the command has no such setting.
    """
    from ..stages.table import COMMANDS
    from .recipe import read_recipe, stage_layer

    command = str(ctx.command.name)
    field = COMMANDS[command].settings.model_fields.get(key)
    if field is None:
        return None
    values = [ctx.params.get(f"set_{key}")]  # the parameter's name in `options`
    values += [word.partition("=")[2] for word in _typed(ctx) if word.startswith(f"{key}=")]
    if values == [None] and ctx.params.get("recipe"):
        with suppress(UserError):
            values.append(stage_layer(read_recipe(ctx.params["recipe"]), command).get(key))
    value = next((value for value in values if value), field.default)
    return None if value is None else str(value)


def _typed(ctx: typer.Context) -> list[str]:
    """Return the complete words that are not flags, those that bash took apart joined again."""
    words = ctx.params.get("overrides") or ctx.args  # the latter where the last flag still lacks its value
    joined = re.sub("\0=\0?", "=", "\0".join(words))
    return joined.split("\0") if joined else []


def _names_as_begun(names: Sequence[str], begun: str) -> list[str]:
    """Return the names that go on from what was typed in any case, which the shell keeps: `DiT-S` is `DiT-S/2`."""
    return [begun + name[len(begun) :] for name in names if name.startswith(begun.lower())]


def _values(setting: "Setting") -> list[str]:
    """Return values one may type: all of them where they are few, else the default."""
    if setting.choices or setting.names:
        return list(setting.choices or setting.names)
    if setting.is_switch:
        return ["yes", "no"]
    return ["null" if setting.default is None else setting.shown(setting.default)]


def _shell_word(text: str) -> str:
    """Protect what a shell would read as more than text; zsh and fish do that themselves."""
    return _SHELL_WORD.sub(r"\\\1", text) if os.environ.get("_LDM_COMPLETE") == "complete_bash" else text
