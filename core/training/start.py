"""Starting from the weights of a finished training: by name, and what belongs to classes by the names of these."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..conditioning.registry import conditioning_of
from ..errors import ConfigError
from ..files import read_json
from ..progress import Progress
from ..runs.inputs import as_input, has_begun, open_own
from ..runs.roles import Role
from ..runs.run import StageRun
from ..runs.weights import CONFIG, WEIGHTS, read_safetensors
from ..settings.families import NetworkConfig
from ..settings.fields import Run

_LEAST_SHARE = 0.5  # of the weights: with less in common, another network was meant


@dataclass(frozen=True)
class Start:
    """A finished training to start from.

    `class_axes` of a module names its tensors with an axis of classes, or of parts of words.
    """

    run: StageRun

    @torch.no_grad()
    def load(self, network: nn.Module, class_names: Sequence[str], progress: Progress) -> None:
        """Copy the weights that the network shares with it by name and shape; the others stay as they were drawn.

        class_names: of the network, or what else it has rows for. In a table of classes, a class known by its name
        keeps its row, a new one gets the mean of all rows, and the null's stays last. Raises ConfigError where little
        is shared.
        """
        self.run.verify()
        axes = class_axes(network)
        before = conditioning_of(self.run.metadata).row_names if axes else ()
        class_names = class_names if axes else ()
        given = read_safetensors(self.run.path / "final" / WEIGHTS, self.run.remedy)
        own = network.state_dict()
        taken: dict[str, Tensor] = {}
        for name, tensor in own.items():
            found = given.get(name)
            if found is not None and name in axes and before:
                found = rows_by_class(found, before, class_names, axes[name], tensor.shape[axes[name]])
            if found is not None and found.shape == tensor.shape:
                taken[name] = found

        share = sum(own[name].numel() for name in taken) / sum(tensor.numel() for tensor in own.values())
        if share < _LEAST_SHARE:
            raise ConfigError(
                f"`start_from={self.run.path}` has {share:.0%} of this network's weights, by name and shape",
                f"give the settings of the same network, as `model.preset`{self._other_settings(network)}",
            )
        for name, tensor in taken.items():
            own[name].copy_(tensor)
        progress.note(
            f"starting from {len(taken)} of {len(own)} tensors of {self.run.path}"
            + _listed("drawn anew", [name for name in own if name not in taken])
            + _listed("new", [name for name in class_names if name not in before])
            + _listed("left out", [name for name in before if name not in class_names])
        )

    def _other_settings(self, network: nn.Module) -> str:
        """Say which settings of its network differ from this one's; nothing where it is of another family."""
        own = getattr(network, "config", None)
        there = read_json(self.run.path / "final" / CONFIG, self.run.remedy)["config"]
        if not isinstance(own, NetworkConfig) or not there.keys() >= own.settings().keys():
            return ""
        here = own.model_dump(mode="json")
        differing = [f"{name}={there[name]}" for name in own.settings() if there[name] != here[name]]
        return f"; there {', '.join(differing)}" if differing else ""


def _listed(what: str, names: Sequence[str]) -> str:
    return f"; {what}: {', '.join(names[:5])}{' …' if names[5:] else ''}" if names else ""


def open_start(role: Role, config: Any, inputs: dict[str, Any], folder: Path) -> Start | None:
    """Open what a training is to start from, a run or a stage's folder, and add it to the inputs of that in `folder`.

    Returns None where nothing was named. Raises as `open_own` does.
    """
    given: Path | None = config.start_from
    if given is None:
        return None
    if has_begun(given):
        run = open_own(role, config, given, "start_from")
    else:
        named = given if given.name.strip(".") else given.resolve()  # `.` and `..` are no names of runs
        run = open_own(role, Run(name=named.name, runs_dir=named.parent), None, "start_from")
    inputs["start_from"] = as_input(run, folder)
    return Start(run)


def class_axes(network: nn.Module) -> dict[str, int]:
    """Return the tensors of a network that have an axis of classes, by name, with that axis."""
    return {
        f"{prefix}.{name}".lstrip("."): axis
        for prefix, module in network.named_modules()
        for name, axis in getattr(module, "class_axes", {}).items()
    }


def rows_by_class(table: Tensor, before: Sequence[str], after: Sequence[str], axis: int, size: int) -> Tensor:
    """Return a table's rows along an axis in the order of other classes, then those without a class, up to `size`.

    before: the classes of its first rows. What it has no row for is the mean of these.
    """
    rows = table.movedim(axis, 0)
    known = dict(zip(before, rows, strict=False))
    mean = rows[: len(before)].mean(0)
    chosen = [known.get(name, mean) for name in after]
    others = [*rows[len(before) :], *[mean] * size][: size - len(after)]
    return torch.stack([*chosen, *others]).movedim(0, axis)
