"""The table of commands: every stage with the kinds of directories that it writes, and every tool.

Each stage is described once, here: the command line, `verify`, `inspect`, `report`, `doctor`, `ldm plan` and the
generated pages read it. This module imports neither torch nor pydantic.
"""

from collections.abc import Collection, Mapping
from typing import Any

from ..core.runs.roles import (
    AUTOENCODER,
    CLASSIFIER,
    DENOISER,
    EDITS,
    EVALUATION,
    LATENTS,
    NEXT_SCALE,
    NOISY_CLASSIFIER,
    PHASES,
    SAMPLES,
    SWEEP,
    generators,
)
from .command import Command, Kind, Target

_SHORT = {"images": 64, "batch_size": 8, "warmup": 8, "log_every": 32, "validate_every": 64, "checkpoint_every": 32}
_AUTOENCODERS, _DENOISERS = "core.autoencoders.registry", "core.denoisers.registry"
_COSTS, _GENERATOR_COSTS = "stages.tools.stage_costs", "stages.tools.generator_costs"
_SMALL_AUTOENCODER = {
    "data": {"image_size": 16, "val_fraction": 0.25},
    "model": {"preset": "vqvae-xs", "channels": 8, "codebook_size": 16},
    "train": _SHORT,
}
_SMALL_DENOISER = {
    "model": {"preset": "dit-xs", "width": 32, "depth": 2, "heads": 2},
    "train": _SHORT,
    "preview": {"every": 64, "per_class": 1, "steps": 2},
}
_OF_LATENTS = {"latents": LATENTS, "autoencoder": AUTOENCODER}

_DRAWN_FROM = {**{role.name: role for role in generators()}, "weak": DENOISER, "classifier": NOISY_CLASSIFIER}


def _autoencoder(name: str, summary: str, model: str, kind: str) -> Command:
    writes: tuple[Kind, ...] = (Kind(kind, AUTOENCODER, "Autoencoder", network=_AUTOENCODERS),)
    if name == AUTOENCODER.command(PHASES):
        writes += (Kind(PHASES, AUTOENCODER, "Phases of the autoencoder", network=_AUTOENCODERS),)
    how: dict[str, Any] = {"cost": f"{_COSTS}:train_autoencoder", "shared": True, "smallest": _SMALL_AUTOENCODER}
    return Command(name, summary, "stages.train_autoencoder", f"stages.configs:{model}", writes, **how)


def _denoiser(name: str, summary: str, model: str, kind: str) -> Command:
    writes = (Kind(kind, DENOISER, "Denoiser", inputs=_OF_LATENTS, network=_DENOISERS),)
    how: dict[str, Any] = {"cost": f"{_COSTS}:train_denoiser", "shared": True, "smallest": _SMALL_DENOISER}
    return Command(name, summary, "stages.train_denoiser", f"stages.configs:{model}", writes, **how)


def _combining(name: str, summary: str, model: str, kind: str) -> Command:
    writes = (Kind(kind, EDITS, kind.capitalize(), inputs=_DRAWN_FROM, pieces="images"),)
    return Command(name, summary, "stages.combine", f"stages.configs.combining:{model}", writes, (), shared=True)


_STAGES = (
    _autoencoder("train-vqvae", "Train a VQ-VAE on images, or take a ready autoencoder.", "TrainVQVAE", "vqvae"),
    _autoencoder(
        "train-autoencoder",
        "Train an autoencoder of any family on images, or take a ready one.",
        "TrainAutoencoder",
        "autoencoder",
    ),
    Command(
        "encode",
        "Encode the images into shards of latents.",
        "stages.encode",
        "stages.configs:Encode",
        (
            Kind(
                "latents",
                LATENTS,
                "Latents",
                inputs={"autoencoder": AUTOENCODER},
                contents="core.latents.checking:check_contents",
                pieces="shards",
            ),
        ),
        cost=f"{_COSTS}:encode",
        shared=True,
        smallest={"shard_size": 32, "batch_size": 8},
        aliases=("precompute-latents",),
    ),
    _denoiser("train-dit", "Train a diffusion transformer on the latents.", "TrainDiT", "dit"),
    _denoiser("train-denoiser", "Train a denoiser of any family on the latents.", "TrainDenoiser", "denoiser"),
    Command(
        "distill",
        "Distill a trained denoiser into students of few steps.",
        "stages.distill",
        "stages.configs:Distill",
        (
            Kind(
                "students",
                DENOISER,
                "Students",
                inputs={"denoiser": DENOISER, **_OF_LATENTS},
                beside="draws in few steps",
                network=_DENOISERS,
            ),
        ),
        targets=(),
        cost=f"{_GENERATOR_COSTS}:distill",
        shared=True,
        smallest={"steps": 1, "first_steps": 2, "train": _SHORT, "preview": {"every": 64, "per_class": 1}},
    ),
    Command(
        "train-var",
        "Train a next-scale transformer on the tokens of an autoencoder.",
        "stages.train_var",
        "stages.configs:TrainVAR",
        (
            Kind(
                "var", NEXT_SCALE, "Next-scale transformer", inputs=_OF_LATENTS, network="core.autoregressive.registry"
            ),
        ),
        cost=f"{_GENERATOR_COSTS}:train_var",
        cost_of_drawing=f"{_GENERATOR_COSTS}:sample_tokens",
        shared=True,
        smallest={"model": {"preset": "var-d2", "width": 32, "heads": 2}, "train": _SHORT, "preview": {"every": 64}},
    ),
    Command(
        "train-classifier",
        "Train a small classifier, for metrics without downloads.",
        "stages.train_classifier",
        "stages.configs:TrainClassifier",
        (
            Kind(
                "classifier",
                CLASSIFIER,
                "Classifier",
                beside="measures samples",
                network="core.features.classifier",
            ),
            Kind(
                "noisy-classifier",
                NOISY_CLASSIFIER,
                "Classifier of noisy latents",
                inputs=_OF_LATENTS,
                beside="guides samples",
                network="core.denoisers.noisy_classifier",
            ),
        ),
        targets=(Target(needs=(AUTOENCODER,)),),
        cost=f"{_COSTS}:train_classifier",
        shared=True,
        smallest={"train": _SHORT},
    ),
    Command(
        "sample",
        "Draw images by class.",
        "cli.sample",
        "stages.configs:Sample",
        (Kind("samples", SAMPLES, "Samples", inputs=_DRAWN_FROM, pieces="images"),),
        targets=(Target("pipeline", ("--label", "pipeline")),),
        cost=f"{_COSTS}:sample",
        shared=True,
        smallest={"num": 8, "steps": 3},
    ),
    Command(
        "edit",
        "Edit images: all of them, a part, or by inversion.",
        "stages.edit",
        "stages.configs:Edit",
        (Kind("edits", EDITS, "Edits", inputs=_DRAWN_FROM, pieces="images"),),
        targets=(),
        shared=True,
    ),
    _combining("anagram", "Draw images that show another class when seen another way.", "Anagram", "anagrams"),
    _combining("hybrid", "Draw images that show one class from near and another from afar.", "Hybrid", "hybrids"),
    _combining(
        "interpolate", "Draw the way from one seed or class to another, also animated.", "Interpolate", "interpolations"
    ),
    Command(
        "eval",
        "Measure samples or reconstructions against real images.",
        "stages.eval",
        "stages.configs:Eval",
        (
            Kind(
                "eval",
                EVALUATION,
                "Numbers",
                inputs={**_OF_LATENTS, "samples": SAMPLES, "denoiser": DENOISER, "extractor": CLASSIFIER},
            ),
        ),
        targets=(
            Target("pipeline", ("--samples", "pipeline"), (SAMPLES,), (CLASSIFIER,)),
            Target("reconstructions", ("--of", "reconstructions"), (AUTOENCODER, CLASSIFIER)),
        ),
    ),
)
_TOOLS = (
    Command(
        "average",
        "Make the EMA of another length out of those that a training kept.",
        "stages.tools.average",
        "stages.configs.average:Average",
    ),
    Command(
        "sweep",
        "Draw and evaluate samples over guidance scales and steps.",
        "cli.sweep",
        "stages.configs.sweep:Sweep",
        (Kind("sweep", SWEEP, "Sweep"),),
    ),
    Command(
        "report",
        "Put a run's curves, pictures and numbers on one page, or those of several side by side.",
        "stages.tools.report",
        "stages.configs.report:Report",
    ),
    Command(
        "show",
        "Show a run on a local page that grows with it, and draw from its newest checkpoint.",
        "stages.tools.show",
        "stages.configs.show:Show",
    ),
    Command(
        "plot",
        "Draw schedules, loss weights, noising, denoising, samplers or guidance.",
        "stages.tools.plot",
        "stages.configs.plot:Plot",
    ),
    Command(
        "verify",
        "Check a run or any folder in it: every byte that another stage reads, not logs and previews.",
        "stages.tools.verify",
        "stages.configs.folders:Verify",
    ),
    Command(
        "inspect",
        "Show what a folder is, what made it and its state.",
        "stages.tools.inspect",
        "stages.configs.folders:Inspect",
    ),
    Command(
        "doctor",
        "Check that this machine and its packages can run every stage.",
        "cli.doctor",
        "stages.configs.doctor:Doctor",
    ),
    Command(
        "estimate",
        "Estimate what a recipe costs: operations, memory, disk, time.",
        "cli.estimate",
        "stages.configs.estimate:Estimate",
    ),
    Command(
        "export",
        "Write a folder that diffusers loads, with a model card.",
        "stages.tools.export",
        "stages.configs.exchange:Export",
    ),
    Command(
        "import",
        "Import a DiT checkpoint, or a diffusers DiT or autoencoder folder, as a run.",
        "stages.tools.import_model",
        "stages.configs.exchange:Import",
    ),
    Command(
        "data inspect",
        "Count images, list broken ones, and show how training would read them.",
        "stages.tools.data_inspect",
        "stages.configs.data_tools:DataInspect",
    ),
    Command(
        "data dedup",
        "Find duplicate and near-duplicate images; write lists, delete nothing.",
        "stages.tools.data_dedup",
        "stages.configs.data_tools:DataDedup",
    ),
)

STAGES: Mapping[str, Command] = {command.name: command for command in _STAGES}
TOOLS: Mapping[str, Command] = {command.name: command for command in _TOOLS}
COMMANDS: Mapping[str, Command] = {**STAGES, **TOOLS}
KINDS: Mapping[str, Kind] = {kind.name: kind for command in COMMANDS.values() for kind in command.writes}
MAKERS: Mapping[str, Command] = {kind.name: command for command in COMMANDS.values() for kind in command.writes}
ALIASES = {alias: command.name for command in COMMANDS.values() for alias in command.aliases}


def pipeline(sections: Collection[str] = ()) -> list[str]:
    """List the stages of one pipeline, in order: of several that make the same, the one with a section, else the first.

    Generators count as the same: a pipeline has one. sections: those of a recipe.
    """
    alike: dict[str, list[str]] = {}
    for command in filter(lambda stage: stage.targets, STAGES.values()):
        alike.setdefault(_product(command), []).append(command.name)
    return [next((name for name in names if name in sections), names[0]) for names in alike.values()]


def counterpart(command: str, sections: Collection[str]) -> str:
    """Return the command by which a recipe of these sections makes what a stage makes: itself, or another of its kind.

    Itself also where the recipe has no section for any of them.
    """
    stage = STAGES[ALIASES.get(command, command)]
    if stage.name in sections or not stage.targets:
        return command
    alike = (name for name in pipeline(sections) if _product(STAGES[name]) == _product(stage))
    return next(filter(sections.__contains__, alike), command)


def _product(stage: Command) -> str:
    role = stage.writes[0].role
    return "generator" if role.draws else role.name
