"""Settings of `ldm report`."""

from pathlib import Path

from pydantic import model_validator

from ...core.settings.fields import Location, Names, Run, option

MOST = 6  # colours of a chart


class Report(Run):
    """Settings of `ldm report`."""

    examples = (
        "ldm report",
        "ldm report mine",
        "ldm report mine other",
    )

    name: str = option("default", "Run to report on: the folder RUNS_DIR/RUN.", "RUN,--name", identity=False)
    others: Names = option(
        (), "Further runs in RUNS_DIR, which are compared with the first.", "OTHER...", identity=False
    )
    out: Location | None = option(
        None, "HTML file to write; by default report.html in the run's folder, or RUNS_DIR/RUN-and-OTHER.html.", "--out"
    )

    @model_validator(mode="after")
    def _different(self) -> "Report":
        if len(set(self.compared)) < len(self.compared):
            raise ValueError("others: names a run twice")
        if len(self.compared) > MOST:
            raise ValueError(f"others: at most {MOST} runs are compared")
        return self

    @property
    def compared(self) -> tuple[str, ...]:
        """The runs that are compared, by name; only the run itself where there are no others."""
        return (self.name, *self.others)

    @property
    def path(self) -> Path:
        """The file that is written."""
        if self.others:
            usual = self.runs_dir / f"{'-and-'.join(self.compared).replace('/', '-')}.html"
        else:
            usual = self.root / "report.html"
        return self.out or usual
