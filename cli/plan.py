"""`ldm plan`: for each stage of a recipe, a file that changes only when the stage's settings do; for make, their rules.

Make compares times of files. A recipe is one file for all stages; these are one for each, rewritten only where the
settings that make a run this run differ, so that a changed recipe reruns what it touches and nothing else.
"""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated

import typer

from ..core.errors import ConfigError, DataError
from ..core.files import json_bytes, write_bytes
from ..core.pipeline.settings import Drawing
from ..core.runs.run import MANIFEST
from ..core.runs.states import EARLY
from ..core.settings.fields import Run, Section, identity
from ..core.training.tasks.phases import in_phases
from ..core.training.tasks.settings import AutoencoderTraining
from ..stages.configs import TrainDenoiser
from ..stages.table import STAGES, pipeline
from . import examples
from .commands import Command, plain_command
from .layers import merged_config
from .recipe import read_recipe
from .text import echo

FOLDER = ".plan"
RULES = "rules.mk"


def write_plan(recipe: str | None, name: str | None = None, runs_dir: str | None = None) -> list[Path]:
    """Write RUNS_DIR/NAME/.plan/STAGE.json for every stage and rules.mk; return the files whose content changed.

    name, runs_dir: as the flags of the same name; None leaves them to the recipe. Every stage is validated before
    anything is written. Raises ConfigError, and DataError where a stage that is still to be made names a missing file.
    """
    flags = {key: value for key, value in (("name", name), ("runs_dir", runs_dir)) if value is not None}
    configs = {command: merged_config(command, recipe, (), flags).config for command in STAGES}
    read = read_recipe(recipe) if recipe is not None else None
    sections, without = (read.tree, read.without) if read is not None else ((), ())
    planned = {command: configs[command] for command in pipeline(sections) if command not in without}
    _require_files(planned)
    _require_early(planned)
    files: dict[Path, bytes] = {}
    for command, config in configs.items():
        assert isinstance(config, Run), "every stage works in a run"
        folder = config.root / FOLDER
        files[folder / f"{command}.json"] = json_bytes({"command": command, "settings": identity(config)})
        files[folder / RULES] = rules(sections, without).encode()
    changed = [path for path, content in files.items() if not path.is_file() or path.read_bytes() != content]
    for path in changed:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, files[path])
    return changed


def _require_files(configs: Mapping[str, Section]) -> None:
    """Refuse a pipeline that would stop after hours, for want of weights that its last stage reads."""
    missing = []
    for command, config in configs.items():
        assert isinstance(config, Run), "every stage works in a run"
        phases = in_phases(config) if isinstance(config, AutoencoderTraining) else [config]
        read = (each for phase in phases for each in _paths(phase))
        others = dict.fromkeys((name, path) for name, path in read if not path.is_relative_to(config.root))
        others.pop(("autoguide", Path(EARLY)), None)  # a state of the denoiser, which `_require_early` looks for
        absent = [f"{command}: `{name}={path}` does not exist" for name, path in others if not path.exists()]
        if absent and not any((config.root / STAGES[command].writes[0].name).rglob(MANIFEST)):
            missing += absent
    if missing:
        raise DataError(
            "; ".join(missing), "the head of the recipe says where to get it, or change that in a copy of the recipe"
        )


def _require_early(configs: Mapping[str, Section]) -> None:
    """Refuse a pipeline that would draw away from a state that its training is too short to keep."""
    guided = [
        command
        for command, config in configs.items()
        if isinstance(config, Drawing) and config.autoguide == Path(EARLY) and config.denoiser is None
    ]
    for command, config in configs.items():
        if guided and isinstance(config, TrainDenoiser) and not 0 < config.train.early <= config.train.images:
            raise ConfigError(
                f"{guided[0]}: `autoguide={EARLY}`, and {command} keeps no early state:"
                f" train.images={config.train.images} and train.early={config.train.early}",
                "give more images or less `train.early`, or leave `autoguide` out",
            )


def _paths(section: Section) -> Iterator[tuple[str, Path]]:
    """Yield the name of each setting that is a path to something to be read, and the path."""
    for name, value in section:
        if isinstance(value, Section):
            yield from ((f"{name}.{inner}", path) for inner, path in _paths(value))
        elif isinstance(value, Path) and name != "runs_dir":
            yield name, value


def rules(sections: Collection[str] = (), without: Collection[str] = ()) -> str:
    """Return make's rules for a pipeline, in which R is the run's folder and ARGS are the flags of every stage.

    sections: those of the recipe. without: stages that are left out, with every target that needs what they make. A
    stage waits for its part of the recipe and the directories that it reads.
    """
    manifests: dict[str, list[str]] = {}  # by the role of their kind
    written = []
    for name in (stage for stage in pipeline(sections) if stage not in without):
        kind = STAGES[name].writes[0]
        for target in STAGES[name].targets:
            manifest = "/".join(filter(None, ("$(R)", kind.name, target.label, MANIFEST)))
            needs = dict.fromkeys(role.name for role in (*target.needs, *target.after) or kind.inputs.values())
            if any(role.name not in manifests for role in target.needs):
                continue
            before = [f"$(R)/{FOLDER}/{name}.json", *(path for role in needs for path in manifests.get(role, []))]
            command = " ".join(["$(LDM)", name, "$(ARGS)", *target.flags])
            written.append(f"every-stage: {manifest}\n{manifest}: {' '.join(before)}\n\t{command} && touch $@\n")
            manifests.setdefault(kind.role.name, []).append(manifest)
    return "\n".join(written)


def plan_command() -> Command:
    """Build the command."""
    return plain_command("plan", _plan, examples.MENUS["plan"])


def _plan(
    recipe: Annotated[str | None, typer.Option("--config", "-c", metavar="RECIPE", help="The recipe.")] = None,
    name: Annotated[str | None, typer.Option("--name", metavar="TEXT", help="The run; else the recipe's.")] = None,
    runs_dir: Annotated[str | None, typer.Option("--runs-dir", metavar="PATH", help="Folder of the runs.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Do not list the files that changed.")] = False,
) -> None:
    changed = write_plan(recipe, name, runs_dir)
    if not quiet:
        for path in changed:
            echo(f"plan: {path} changed")
