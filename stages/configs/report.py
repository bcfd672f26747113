"""Settings of `ldm report`."""

from ...core.settings.fields import Location, Run, option


class Report(Run):
    """Settings of `ldm report`."""

    name: str = option("default", "Run to report on: the folder RUNS_DIR/RUN.", "RUN,--name", identity=False)
    out: Location | None = option(None, "HTML file to write; by default report.html in the run's folder.", "--out")
