"""A stage's output folder: locked by one command at a time and claimed for its settings and inputs."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
import yaml

from .. import files
from ..distributed import processes
from ..errors import DataError
from ..progress import Progress
from ..settings.fields import ENDING, Run, Stage, as_formerly, defaults, identity, incidental, places
from ..settings.recipe_file import leaves
from ..system.memory import keep_freed_memory
from ..system.precision import Policy, make_deterministic, resolve
from ..system.settings import Machine
from ..system.threads import share_cores
from . import claim as claims
from .lock import occupy
from .roles import role_of
from .run import IDENTITY, MANIFEST, RECIPE, Identity, StageRun

AnyStage = TypeVar("AnyStage", bound=Stage)


def output_folder(config: Stage, label: str | None = None) -> Path:
    """Return where a stage writes: RUNS_DIR/NAME/STAGE, or a folder under it where a stage writes several."""
    folder = config.root / config.kind
    return folder / label if label else folder


def command_line(command: str, config: Run) -> str:
    """Return the shortest command that makes a stage of this run."""
    words = ["ldm", *command.split()]
    if config.runs_dir != Path("runs"):
        words += ["--runs-dir", str(config.runs_dir)]
    if config.name != "default":
        words += ["--name", config.name]
    return shlex.join(words)


def claim(
    folder: Path, config: Stage, inputs: dict[str, dict[str, Any]], progress: Progress, kind: str | None = None
) -> StageRun:
    """Claim an occupied folder for this configuration and these inputs; see `claim.claim`.

    Of several processes the main one does it, and the others wait for it. kind: of the folder, where a command can
    make several kinds.
    """
    settings = config.model_dump(mode="json", exclude={"replace"})
    made_by = shlex.join(["ldm", config.command, "-c", str(folder / RECIPE)])
    kind = kind or config.kind
    recipe = yaml.safe_dump({config.command: settings}, sort_keys=False, allow_unicode=True)
    elsewhere = (
        "another `label`" if hasattr(config, "label") else "" if kind in role_of(kind).labelled else "another `name`"
    )
    made_of = (made_by, identity(config), inputs, recipe, _defaults(config), incidental(config))
    wanted = Identity(kind, *made_of, places(config), elsewhere, config.how_to_go_on)
    if not processes.world().is_main:
        return StageRun(folder, kind, made_by, bool(processes.broadcast_int(0)), identity=wanted)
    work = claims.claim(folder, wanted, config.replace, progress.warn)
    processes.broadcast_int(int(work.complete))
    return work


def _defaults(config: Stage) -> dict[str, Any]:
    """Return the default of each setting, JSON: where it has changed, that of a folder made before it was recorded."""
    return files.as_read(identity(as_formerly(defaults(type(config), config.model_dump()))))


def as_begun(config: AnyStage) -> AnyStage:
    """Return the settings with which the same command began this stage's folder in an earlier version.

    Where it was begun by defaults that have changed since, and nothing else differs but the length of a training, those
    that nobody gave stay as they were; else, and where there is no such folder, the settings stay as they are.
    """
    before, folder = as_formerly(config), output_folder(config)
    if before is config:
        return config
    ignored = {*places(config), *(f"train.{part}" for part in ENDING)}
    wanted = {name: value for name, value in leaves(files.as_read(identity(before))) if name not in ignored}
    for name in (MANIFEST, IDENTITY):
        with suppress(DataError):
            recorded = claims.settings_of(files.read_json(folder / name))
            known = leaves(claims.upgraded(recorded, _defaults(config), incidental(config)))
            if recorded and wanted == {name: value for name, value in known if name not in ignored}:
                return before
    return config


class BatchSettings(Protocol):
    """How a training splits its batches."""

    batch_size: int
    accumulate: int


@contextmanager
def occupied(folder: Path, machine: Machine, train: BatchSettings | None = None) -> Iterator[Policy]:
    """Set up the machine, join the other processes under torchrun, and hold a stage's folder for the block.

    Only the main process may write there; see `lock.occupy` and `processes.process_group`. train: how a stage
    trains, refused with a ConfigError, before there is a folder, where the processes cannot share its batches.
    """
    policy = machine_policy(machine)
    if train is not None:
        processes.require_equal_shares(train.batch_size, train.accumulate, processes.world_from_env().size)
    with processes.process_group(policy.device) as world, occupy(folder) if world.is_main else nullcontext():
        yield policy


def machine_policy(machine: Machine) -> Policy:
    """Set up the device, the dtype, the threads and, for tensors on the CPU, its memory."""
    if machine.threads:
        torch.set_num_threads(machine.threads)
    policy = resolve(processes.local_device(machine.device), machine.precision)
    if policy.device.type == "cpu":
        keep_freed_memory()
        share_cores()
    if machine.deterministic:
        make_deterministic(policy.device)
    return policy
