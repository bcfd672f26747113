"""Every command that has a configuration: the stages of a pipeline, and the tools around it. Imports no torch."""

from .configs import STAGES
from .configs.report import Report
from .settings import Run

TOOLS: dict[str, type[Run]] = {"report": Report}
COMMANDS: dict[str, type[Run]] = {**STAGES, **TOOLS}


def module_of(command: str) -> str:
    """Return the module in `stages` whose `run` does a command's work. `import` is no name a module can have."""
    return "import_model" if command == "import" else command.replace("-", "_")
