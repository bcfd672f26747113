"""`ldm doctor`: look at the machine, then run every stage once."""

from ..core.errors import UserError
from ..core.progress import Outcome, Progress
from ..stages.configs.doctor import Doctor
from ..stages.tools.doctor import Finding, conclude, look


def run(config: Doctor, progress: Progress) -> Outcome:
    """Look at everything; the stages are tried unless it is to be quick or torch has nothing to compute on."""
    findings = list(look(config))
    if not config.quick and any(found.name == "precision" for found in findings):
        from .self_test import try_stages

        for command, seconds, error in try_stages(config.machine, progress):
            findings.append(_finding(f"self-test {command}", seconds, error))
    return conclude(config, findings)


def _finding(name: str, seconds: float, error: BaseException | None) -> Finding:
    if error is None:
        return Finding(name, "ok", f"{seconds:.1f} s")
    if isinstance(error, UserError):
        return Finding(name, "broken", error.message, error.remedy)
    return Finding(name, "broken", f"{type(error).__name__}: {error}", "report this with the lines above")
