"""What the report of a run would show as well, and the command that adds it."""

import shlex
from collections.abc import Iterator

from ....core.conditioning.registry import conditioning_of
from ....core.pipeline.loading import diffusion_of
from ....core.runs.outputs import command_line
from ....core.runs.run import RECIPE, StageRun
from ....core.settings.fields import Run
from ...table import KINDS, MAKERS
from ..summary import Summary, progress_of
from .charts import measured_along_the_way
from .page import Gap


def gaps(config: Run, run: Summary) -> Iterator[Gap]:
    """Yield what is not there yet, as far as there is already what it is made of."""
    stages = run.stages
    generator = run.generator
    if not generator.complete:
        chain = [stages["autoencoder"], stages["latents"], generator]
        done = [number for number, stage in enumerate(chain) if stage.complete]
        yield _next_stage(config, chain[max(done, default=-1) + 1])  # What came before may lie elsewhere.
        return
    yield from _of_samples(config, run)
    yield from _of_evaluations(config, run)
    if not measured_along_the_way(generator) and stages["latents"].complete:
        again = command_line(MAKERS[generator.kind].name, config)
        every = max(1, generator.metadata.get("images_seen", 0) // 5)
        name = KINDS[generator.kind].title.lower()
        yield Gap(
            f"Numbers of samples along the training of the {name}, which they need done again, in this one's place.",
            f"{again} {_as_before(generator)} --metrics-every {every} --replace",
        )


def _next_stage(config: Run, stage: StageRun) -> Gap:
    command = command_line(MAKERS[stage.kind].name, config)
    if stage.state == "unfinished":
        far = f", {' of '.join(f'{count:,}' for count in progress_of(stage))} images" if progress_of(stage) else ""
        return Gap(
            f"{KINDS[stage.kind].title}: not finished{far}. It goes on from where it is.",
            f"{command} {_as_before(stage)}",
        )
    given = KINDS[stage.kind].role.given
    return Gap(f"{KINDS[stage.kind].title}: the next stage of the pipeline.", f"{command} {given}".strip())


def _as_before(stage: StageRun) -> str:
    """Return the flag that gives a stage the settings that it had."""
    return f"-c {shlex.quote(str(stage.path / RECIPE))}"


def _of_samples(config: Run, run: Summary) -> Iterator[Gap]:
    draw = command_line("sample", config)
    if not run.samples:
        yield Gap("Samples by class.", draw)
    if not any(one.has("progressive.png") for one in run.samples):
        yield Gap("The path from noise to image.", f"{draw} --num 1 --progressive")


def _of_evaluations(config: Run, run: Summary) -> Iterator[Gap]:
    """Numbers of samples, alone and against guidance and steps, and of reconstructions, in features that are there."""
    generator, classifier = run.generator, run.stages["classifier"]
    sampled = [each.sampling for each in run.evaluations if each.sampling]
    reconstructed = not all(each.of_samples for each in run.evaluations)
    evaluate, sweep = command_line("eval", config), command_line("sweep", config)
    features = ""
    if not classifier.complete:
        if len(conditioning_of(generator.metadata).class_names) > 1:
            train = command_line("train-classifier", config)
            if classifier.state == "unfinished":
                train = f"{train} {_as_before(classifier)}"
            yield Gap("A classifier, in whose features images are evaluated.", train)
        else:
            features = " --features inception --weights FILE"
    guided = generator.metadata.get("label_dropout", 0.0) > 0
    if not sampled:
        chosen = f" --samples {shlex.quote(run.samples[-1].path.name)}" if len(run.samples) > 1 else ""
        yield Gap("Numbers of samples, and the training images nearest to them.", evaluate + chosen + features)
    if guided and len({sampling["cfg"] for sampling in sampled}) < 2:
        yield Gap("Distance and class accuracy against guidance scale.", f"{sweep} --cfg 1,1.5,2,3,5{features}")
    if len({sampling["steps"] for sampling in sampled}) < 2 and "diffusion" in generator.metadata:
        scale = "3" if guided else "1"
        most = diffusion_of(generator).most_steps
        steps = ",".join(str(number) for number in (5, 10, 20, 50) if number <= most) or str(most)
        yield Gap("Distance and class accuracy against steps.", f"{sweep} --cfg {scale} --steps {steps}{features}")
    if not reconstructed:
        what = "The worst and the best reconstructions, and their numbers."
        yield Gap(what, f"{evaluate} --of reconstructions{features}")
