"""A record of the table of commands: the command, the kinds of directories it writes, its part in a pipeline.

Heavy modules are named as `module:name` below the package, and imported when needed: this module imports neither torch
nor pydantic.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..core.runs.roles import Role

if TYPE_CHECKING:
    from ..core.settings.fields import Section


@dataclass(frozen=True)
class Kind:
    """A kind of directory: its name in a manifest, and its place in a run.

    role: its role for the stages that read it. title: in a report. inputs: those that are directories of ours, by their
    names in its manifest. beside: its purpose, where it is not part of the chain from images to numbers. network: the
    module that loads its `final/`. contents: what checks its files against the manifest, beyond their bytes. pieces:
    what those are called from which an unfinished one continues.
    """

    name: str
    role: Role
    title: str
    inputs: Mapping[str, Role] = field(default_factory=dict)
    beside: str = ""
    network: str = ""
    contents: str = ""
    pieces: str = ""


@dataclass(frozen=True)
class Target:
    """A directory that `make pipelines` has a stage write.

    label: where its kind has labels. flags: besides recipe and run. needs: what is made before, and after: what is,
    if it is made at all; where nothing is named, what its kind reads.
    """

    label: str = ""
    flags: tuple[str, ...] = ()
    needs: tuple[Role, ...] = ()
    after: tuple[Role, ...] = ()


@dataclass(frozen=True)
class Command:
    """A command with settings.

    module: its `run(settings, progress)` does the work. model: the class of its settings. writes: the kinds of
    directories it makes, for a stage. targets: those that a pipeline has. cost: what estimates it, from the basis of
    the estimate and the settings. cost_of_drawing: likewise of drawing from what it makes, where that is not a
    denoiser. shared: whether several processes may do it together. smallest: the settings of the self-test. aliases:
    other names.
    """

    name: str
    summary: str
    module: str
    model: str
    writes: tuple[Kind, ...] = ()
    targets: tuple[Target, ...] = (Target(),)
    cost: str = ""
    cost_of_drawing: str = ""
    shared: bool = False
    smallest: Mapping[str, Any] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()

    @property
    def settings(self) -> "type[Section]":
        """The class of its settings. Loading it imports pydantic."""
        found: type[Section] = named(self.model)
        return found

    def load(self) -> Any:
        """Import the module that does its work, and perhaps torch."""
        return importlib.import_module(f"..{self.module}", __package__)


def named(place: str) -> Any:
    """Import and return `module:name`."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(f"..{module}", __package__), name)
