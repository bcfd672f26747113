"""What the report of a run would show as well, and the command that adds it."""

import shlex
from collections.abc import Iterator, Sequence

from ..core.artifacts import RECIPE
from ..core.report.page import Gap
from ..core.training.gauge import CONDITIONS
from .handover import command_line
from .settings import Run
from .story import Folder, Judged


def gaps(config: Run, stages: dict[str, Folder], drawn: Sequence[Folder], judged: Sequence[Judged]) -> Iterator[Gap]:
    """Yield what is not there yet, as far as there is already what it is made of."""

    def typed(command: str, flags: str = "") -> str:
        return f"{command_line(command, config)} {flags}".strip()

    for kind, command, flags in (
        ("vqvae", "train-vqvae", "--data FOLDER"),
        ("latents", "encode", ""),
        ("dit", "train-dit", ""),
    ):
        if stages[kind].state != "complete":
            again = "" if stages[kind].state == "missing" else f"-c {shlex.quote(str(stages[kind].path / RECIPE))}"
            yield Gap("The next stage of the pipeline.", typed(command, again or flags))
            return
    seen = [document for _, document in judged]
    sampled = [document for document in seen if "sampling" in document["conditions"]]
    if stages["classifier"].state != "complete" and not sampled:
        yield Gap("A classifier, in whose features samples are judged.", typed("train-classifier"))
    if not drawn:
        yield Gap("Samples by class.", typed("sample"))
    if not any((one.path / "progressive.png").is_file() for one in drawn):
        yield Gap("The path from noise to image.", typed("sample", "--num 1 --progressive"))
    if not sampled:
        flags = f"--samples {shlex.quote(drawn[-1].path.name)}" if len(drawn) > 1 else ""
        yield Gap("Numbers of samples, and the training images nearest to them.", typed("eval", flags))
    for setting, flags, what in (
        ("cfg", "--cfg 1,1.5,2,3,5", "guidance scale"),
        ("steps", "--cfg 3 --steps 5,10,20,50", "steps"),
    ):
        if len({document["conditions"]["sampling"].get(setting) for document in sampled}) < 2:
            yield Gap(f"Distance and class accuracy against {what}.", typed("sweep", flags))
    if not any(document.get("of") == "reconstructions" for document in seen):
        yield Gap("The worst and the best reconstructions, and their numbers.", typed("eval", "--of reconstructions"))
    if not any(CONDITIONS in line for line in stages["dit"].lines):
        every = max(1, stages["dit"].facts["images_seen"] // 5)
        flags = f"-c {shlex.quote(str(stages['dit'].path / RECIPE))} --metrics-every {every} --replace"
        yield Gap("Numbers of samples along the training, which is to be done again for it.", typed("train-dit", flags))
