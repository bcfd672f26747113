"""Every command that has a configuration: the stages of a pipeline, and the tools around it. Imports no torch."""

from ..core.settings.fields import Section
from .configs import STAGES
from .configs.data_tools import DataDedup, DataInspect
from .configs.doctor import Doctor
from .configs.estimate import Estimate
from .configs.exchange import Export, Import
from .configs.folders import Inspect, Verify
from .configs.plot import Plot
from .configs.report import Report
from .configs.sweep import Sweep

TOOLS: dict[str, type[Section]] = {
    "sweep": Sweep,
    "report": Report,
    "plot": Plot,
    "verify": Verify,
    "inspect": Inspect,
    "doctor": Doctor,
    "estimate": Estimate,
    "export": Export,
    "import": Import,
    "data inspect": DataInspect,
    "data dedup": DataDedup,
}
COMMANDS: dict[str, type[Section]] = {**STAGES, **TOOLS}
SHARED = ("train-vqvae", "encode", "train-dit", "train-classifier", "sample")  # what several processes may do together


def module_of(command: str) -> str:
    """Return the module in `stages` whose `run` does a command's work. `import` is no name a module can have."""
    name = "import_model" if command == "import" else command.replace("-", "_").replace(" ", "_")
    name = {"train_vqvae": "train_autoencoder", "train_dit": "train_denoiser"}.get(name, name)
    return f"tools.{name}" if command in TOOLS else name
