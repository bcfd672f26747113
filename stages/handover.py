"""What a stage is handed and what it hands on: its output folder, the stages before it."""

import json
import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from torch import Tensor

from ..core import artifacts, parallel, workspace
from ..core.allocator import keep_freed_memory
from ..core.artifacts import Artifact
from ..core.autoencoders import registry
from ..core.autoencoders.interface import Autoencoder
from ..core.autoencoders.lpips import LPIPS
from ..core.diffusion.schedules import Schedule, schedule
from ..core.errors import ConfigError, DataError
from ..core.facts import first_wrong
from ..core.files import is_inside
from ..core.lock import occupy
from ..core.objective import Objective
from ..core.precision import Policy, make_deterministic, resolve
from ..core.training import loop
from ..core.workspace import Identity, Workspace
from .configs import OUTPUTS, Diffusion
from .settings import Data, Machine, Run, Section, Stage, Train, identity, incidental

Config = TypeVar("Config", bound=Stage)
Group = TypeVar("Group", bound=Section)


def output_folder(config: Run, command: str, label: str | None = None) -> Path:
    """Return where a stage writes: RUNS_DIR/NAME/STAGE, or a folder under it where a stage writes several."""
    folder = config.root / OUTPUTS[command]
    return folder / label if label else folder


def chosen(folder: Path | None, flag: str, default: Path, kind: str) -> Path:
    """Return the folder of a stage that a flag names, or the default where it names none.

    Raises ConfigError, naming the flag, where it is no folder of that kind of stage.
    """
    if folder is None:
        return default
    remedy = f"give the folder of such a stage, as runs/NAME/{kind}"
    if not folder.is_dir():
        raise ConfigError(f"{flag} {folder} {'is a file' if folder.exists() else 'does not exist'}", remedy)
    found = artifacts.kind_of(folder)
    if found not in (None, kind):
        raise ConfigError(f"{flag} {folder} holds {found!r}, not {kind!r}", remedy)
    if not any((folder / name).is_file() for name in (artifacts.MANIFEST, artifacts.IDENTITY)):
        raise ConfigError(f"{flag} {folder} was made by no stage", remedy)
    return folder


def command_line(command: str, config: Run) -> str:
    """Return the shortest command that makes a stage of this run."""
    words = ["ldm", command]
    if config.runs_dir != Path("runs"):
        words += ["--runs-dir", str(config.runs_dir)]
    if config.name != "default":
        words += [config.name] if command == "report" else ["--name", config.name]
    return shlex.join(words)


def claim(
    folder: Path, command: str, config: Stage, inputs: dict[str, dict[str, Any]], kind: str | None = None
) -> Workspace:
    """Claim an occupied folder for this configuration and these inputs; see `workspace.claim`.

    Of several processes the first does it, and the others go on once it has. kind: of what the folder will hold, where
    a command makes more than one.
    """
    settings = config.model_dump(mode="json", exclude={"replace"})
    made_by = shlex.join(["ldm", command, "-c", str(folder / artifacts.RECIPE)])
    kind = kind or OUTPUTS[command]
    recipe = yaml.safe_dump({command: settings}, sort_keys=False, allow_unicode=True)
    wanted = Identity(kind, made_by, identity(config), inputs, recipe, _defaults(config), incidental(config))
    if not parallel.world().leads:
        return Workspace(folder, wanted, complete=bool(parallel.exchange()[0][0]))
    work = workspace.claim(folder, wanted, config.replace)
    parallel.exchange(int(work.complete))
    return work


def _defaults(config: Stage) -> dict[str, Any]:
    """What each setting is where nothing is said, JSON."""
    return json.loads(json.dumps(identity(type(config)())))


@contextmanager
def occupied(folder: Path, machine: Machine, train: Train | None = None) -> Iterator[Policy]:
    """Set up the machine, join the other processes under torchrun, and hold a stage's folder for the block.

    Only the process that leads may write there; see `core.lock.occupy` and `core.parallel.joined`. train: how a stage
    trains, refused with a ConfigError, before there is a folder, where the processes cannot share its batches.
    """
    policy = machine_policy(machine)
    if train is not None:
        loop.require_shares(train.batch_size, train.accumulate, parallel.announced().size)
    with parallel.joined(policy.device) as world, occupy(folder) if world.leads else nullcontext():
        yield policy


def machine_policy(machine: Machine) -> Policy:
    """Set up the device, the number format, the threads and, for tensors on the CPU, its memory."""
    if machine.threads:
        torch.set_num_threads(machine.threads)
    policy = resolve(parallel.own_device(machine.device), machine.precision)
    if policy.device.type == "cpu":
        keep_freed_memory()
    if machine.deterministic:
        make_deterministic(policy.device)
    return policy


def data_of(artifact: Artifact) -> Data:
    """Return how a stage was given its images. Raises DataError where its manifest says that in no known words."""
    return _section_of(Data, artifact.config.get("data"), artifact, "config.data")


def diffusion_of(artifact: Artifact) -> Diffusion:
    """Return the forward process of a stage's model, and what that predicts. Raises DataError as `data_of` does."""
    return _section_of(Diffusion, artifact.facts.get("diffusion"), artifact, "facts.diffusion")


def _section_of(form: type[Group], value: object, artifact: Artifact, where: str) -> Group:
    wrong = first_wrong(form, value)
    if wrong is not None:
        raise DataError(f"{artifact.path / artifacts.MANIFEST}: {where}: {wrong}", artifact.remedy)
    return form.model_validate(value)


def inherit_data(config: Config, producer: Artifact | None) -> Config:
    """Complete a stage's `data` by what the stage before it was given, so that it need not be said twice."""
    if producer is None:
        return config
    given = config.data.model_dump(mode="json", exclude_unset=True)  # type: ignore[attr-defined]
    inherited = data_of(producer).model_dump(mode="json")
    return config.model_copy(update={"data": Data.model_validate({**inherited, **given})})


def as_input(artifact: Artifact, folder: Path) -> dict[str, Any]:
    """Describe an artifact as an input of the stage in `folder`: where it lies from there, and what it holds."""
    return {"path": Path(os.path.relpath(artifact.path, folder)).as_posix(), "fingerprint": artifact.fingerprint}


def input_path(artifact: Artifact, role: str) -> Path:
    """Return where an artifact's own input lies."""
    recorded = artifact.manifest["inputs"].get(role)
    if recorded is None:
        raise DataError(f"{artifact.path} does not say which {role} it was made with", artifact.remedy)
    if not all(part in ("", ".", "..") or is_inside(part) for part in recorded["path"].split("/")):
        raise DataError(f"{artifact.path} was made with {role} {recorded['path'][:80]!r}, no path", artifact.remedy)
    return Path(os.path.normpath(artifact.path / recorded["path"]))


@dataclass(frozen=True)
class TrainedAutoencoder:
    """A finished autoencoder stage and its network in evaluation mode."""

    artifact: Artifact
    network: Autoencoder


def autoencoder_artifact(folder: Path, config: Run) -> Artifact:
    """Open the autoencoder stage in `folder`. Raises DataError with the command that would make it."""
    made_by = command_line("train-vqvae", config)
    if not (folder / artifacts.RECIPE).exists():
        made_by += " --data FOLDER"
    return artifacts.open_artifact(folder, "vqvae", made_by)


def load_autoencoder(artifact: Artifact, policy: Policy) -> TrainedAutoencoder:
    """Load an autoencoder stage's network after checking its files against the manifest."""
    artifact.verify()
    network = registry.load(artifact.path / "final").eval().requires_grad_(False)
    return TrainedAutoencoder(artifact, network.to(policy.device))


def forward_process(diffusion: Diffusion) -> Schedule:
    """Return the noise schedule that the settings name."""
    return schedule(diffusion.schedule, diffusion.num_steps, diffusion.zero_terminal_snr)


def training_objective(diffusion: Diffusion) -> Objective:
    """Return what the settings train a denoiser to do."""
    return Objective(
        schedule=forward_process(diffusion),
        prediction=diffusion.prediction,
        weighting=diffusion.weighting,
        gamma=diffusion.min_snr_gamma,
        times=diffusion.times,
        logit_mean=diffusion.logit_mean,
        logit_std=diffusion.logit_std,
        shift=diffusion.shift,
        vlb_weight=diffusion.vlb_weight if diffusion.learn_variance else None,
    )


def load_perceptual(folder: Path | None, policy: Policy) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Load LPIPS, by the name of its numbers; empty where no weights were named."""
    if folder is None:
        return {}
    network = LPIPS(folder).to(policy.device)
    return {"lpips[squeeze]": lambda a, b: network(a.to(policy.device), b.to(policy.device)).cpu()}


def dump(section: Section) -> dict[str, Any]:
    """Return the settings that were given or differ from a preset: those that are not None."""
    return {name: value for name, value in section.model_dump().items() if value is not None}
