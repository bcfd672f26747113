"""What the report of a run would show as well, and the command that adds it."""

import shlex
from collections.abc import Iterator, Sequence

from ....core.pipeline.loading import diffusion_of
from ....core.runs.outputs import command_line
from ....core.runs.run import RECIPE
from ....core.settings.fields import Run
from ..story import Folder, Judged
from .cards import TITLES
from .charts import measured_along_the_way
from .page import Gap

_CHAIN = ("vqvae", "latents", "dit")


def gaps(config: Run, stages: dict[str, Folder], drawn: Sequence[Folder], judged: Sequence[Judged]) -> Iterator[Gap]:
    """Yield what is not there yet, as far as there is already what it is made of."""
    if stages["dit"].state != "complete":
        done = [number for number, kind in enumerate(_CHAIN) if stages[kind].state == "complete"]
        yield _next_stage(config, stages[_CHAIN[max(done, default=-1) + 1]])  # What came before may lie elsewhere.
        return
    yield from _of_samples(config, drawn)
    yield from _of_judgements(config, stages, drawn, judged)
    if not measured_along_the_way(stages["dit"]) and stages["latents"].state == "complete":
        every = max(1, stages["dit"].metadata.get("images_seen", 0) // 5)
        yield Gap(
            "Numbers of samples along the training of the denoiser, which they need done again, in this one's place.",
            f"{command_line('train-dit', config)} {_as_before(stages['dit'])} --metrics-every {every} --replace",
        )


def _next_stage(config: Run, stage: Folder) -> Gap:
    command = command_line(stage.command, config)
    if stage.state == "unfinished":
        return Gap(
            f"{TITLES[stage.kind]}: not finished. It goes on from where it is.", f"{command} {_as_before(stage)}"
        )
    given = " --data FOLDER" if stage.kind == "vqvae" else ""
    return Gap(f"{TITLES[stage.kind]}: the next stage of the pipeline.", command + given)


def _as_before(stage: Folder) -> str:
    """Return the flag that gives a stage the settings that it had."""
    return f"-c {shlex.quote(str(stage.path / RECIPE))}"


def _of_samples(config: Run, drawn: Sequence[Folder]) -> Iterator[Gap]:
    draw = command_line("sample", config)
    if not drawn:
        yield Gap("Samples by class.", draw)
    if not any((one.path / "progressive.png").is_file() for one in drawn):
        yield Gap("The path from noise to image.", f"{draw} --num 1 --progressive")


def _of_judgements(
    config: Run, stages: dict[str, Folder], drawn: Sequence[Folder], judged: Sequence[Judged]
) -> Iterator[Gap]:
    """Numbers of samples, alone and against guidance and steps, and of reconstructions, in features that are there."""
    sampled = [document for _, document in judged if "sampling" in document["conditions"]]
    reconstructed = any(document.get("of") == "reconstructions" for _, document in judged)
    judge, sweep = command_line("eval", config), command_line("sweep", config)
    features = ""
    if stages["classifier"].state != "complete":
        if len(stages["dit"].metadata["class_names"]) > 1:
            train = command_line("train-classifier", config)
            if stages["classifier"].state == "unfinished":
                train = f"{train} {_as_before(stages['classifier'])}"
            yield Gap("A classifier, in whose features images are judged.", train)
        else:
            features = " --features inception --weights FILE"
    guided = stages["dit"].metadata["label_dropout"] > 0
    if not sampled:
        chosen = f" --samples {shlex.quote(drawn[-1].path.name)}" if len(drawn) > 1 else ""
        yield Gap("Numbers of samples, and the training images nearest to them.", judge + chosen + features)
    if guided and len({document["conditions"]["sampling"]["cfg"] for document in sampled}) < 2:
        yield Gap("Distance and class accuracy against guidance scale.", f"{sweep} --cfg 1,1.5,2,3,5{features}")
    if len({document["conditions"]["sampling"]["steps"] for document in sampled}) < 2:
        scale = "3" if guided else "1"
        denoiser = stages["dit"].artifact
        most = diffusion_of(denoiser).num_steps if denoiser else 1
        steps = ",".join(str(number) for number in (5, 10, 20, 50) if number <= most) or str(most)
        yield Gap("Distance and class accuracy against steps.", f"{sweep} --cfg {scale} --steps {steps}{features}")
    if not reconstructed:
        what = "The worst and the best reconstructions, and their numbers."
        yield Gap(what, f"{judge} --of reconstructions{features}")
