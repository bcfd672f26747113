"""Every command that has a configuration: the stages of a pipeline, and the tools around it. Imports no torch."""

from .configs import STAGES
from .settings import Location, Section, option


class Verify(Section):
    """Settings of `ldm verify`."""

    path: Location = option(
        ..., "A run, a stage's folder, a checkpoint, a network's folder, or a folder of any.", "PATH"
    )


class Inspect(Section):
    """Settings of `ldm inspect`."""

    path: Location = option(
        ..., "A run, a stage's folder, a checkpoint, a network's folder, or a folder of any.", "PATH"
    )


TOOLS: dict[str, type[Section]] = {"verify": Verify, "inspect": Inspect}
COMMANDS: dict[str, type[Section]] = {**STAGES, **TOOLS}


def module_of(command: str) -> str:
    """Return the module in `stages` whose `run` does a command's work. `import` is no name a module can have."""
    return "import_model" if command == "import" else command.replace("-", "_")
