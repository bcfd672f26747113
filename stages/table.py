"""The table of commands: every stage with the kinds of directories that it writes, and every tool.

Each stage is described once, here: the command line, `verify`, `inspect`, `report`, `doctor`, `ldm plan` and the
generated pages read it. Heavy modules are named as `module:name` below the package, and imported when needed: this
module imports neither torch nor pydantic.
"""

import importlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..core.runs.roles import (
    AUTOENCODER,
    CLASSIFIER,
    DENOISER,
    EDITS,
    EVALUATION,
    LATENTS,
    NEXT_SCALE,
    NOISY_CLASSIFIER,
    SAMPLES,
    SWEEP,
    Role,
    generators,
)

if TYPE_CHECKING:
    from ..core.settings.fields import Section


@dataclass(frozen=True)
class Kind:
    """A kind of directory: its name in a manifest, and its place in a run.

    role: its role for the stages that read it. title: in a report. inputs: those that are directories of ours, by their
    names in its manifest. beside: its purpose, where it is not part of
    the chain from images to numbers. network: the module that loads its `final/`. contents: what checks its files
    against the manifest, beyond their bytes. pieces: what those are called from which an unfinished one continues.
    """

    name: str
    role: Role
    title: str
    inputs: Mapping[str, Role] = field(default_factory=dict)
    beside: str = ""
    network: str = ""
    contents: str = ""
    pieces: str = ""


@dataclass(frozen=True)
class Target:
    """A directory that `make pipelines` has a stage write.

    label: where its kind has labels. flags: besides recipe and run. needs: what is made before, and after: what is,
    if it is made at all; where nothing is named, what its kind reads.
    """

    label: str = ""
    flags: tuple[str, ...] = ()
    needs: tuple[Role, ...] = ()
    after: tuple[Role, ...] = ()


@dataclass(frozen=True)
class Command:
    """A command with settings.

    module: its `run(settings, progress)` does the work. model: the class of its settings. writes: the kinds of
    directories it makes, for a stage. targets: those that a pipeline has. cost: what estimates it, from the basis of
    the estimate and the settings. cost_of_drawing: likewise of drawing from what it makes, where that is no denoiser.
    shared: whether several processes may do it together. smallest: the settings of the
    self-test. aliases: other names.
    """

    name: str
    summary: str
    examples: tuple[str, ...]
    module: str
    model: str
    writes: tuple[Kind, ...] = ()
    targets: tuple[Target, ...] = (Target(),)
    cost: str = ""
    cost_of_drawing: str = ""
    shared: bool = False
    smallest: Mapping[str, Any] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()

    @property
    def settings(self) -> "type[Section]":
        """The class of its settings. Loading it imports pydantic."""
        found: type[Section] = named(self.model)
        return found

    def load(self) -> Any:
        """Import the module that does its work, and perhaps torch."""
        return importlib.import_module(f"..{self.module}", __package__)


def named(place: str) -> Any:
    """Import and return `module:name`."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(f"..{module}", __package__), name)


_SHORT = {"images": 64, "batch_size": 8, "warmup": 8, "log_every": 32, "validate_every": 64, "checkpoint_every": 32}
_AUTOENCODERS, _DENOISERS = "core.autoencoders.registry", "core.denoisers.registry"
_COSTS, _GENERATOR_COSTS = "stages.tools.estimate", "stages.tools.generator_costs"
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

_OF_AUTOENCODERS: dict[str, Any] = {
    "cost": f"{_COSTS}:train_autoencoder",
    "shared": True,
    "smallest": _SMALL_AUTOENCODER,
}

_STAGES = (
    Command(
        "train-vqvae",
        "Train a VQ-VAE on images, or take a ready autoencoder.",
        (
            "ldm train-vqvae --data mnist --no-flip --image-size 32",
            "ldm train-vqvae -c imagenette-64 --images 500k --lr 2e-4",
            "ldm train-vqvae --data photos/ --autoencoder models/sd-vae",
            "ldm train-vqvae --data photos/ loss.adversarial_weight=0.1",
        ),
        "stages.train_autoencoder",
        "stages.configs:TrainVQVAE",
        (Kind("vqvae", AUTOENCODER, "Autoencoder", network=_AUTOENCODERS),),
        **_OF_AUTOENCODERS,
    ),
    Command(
        "train-autoencoder",
        "Train an autoencoder of any family on images, or take a ready one.",
        (
            "ldm train-autoencoder --data photos/ --preset vqvae-m --image-size 128",
            "ldm train-autoencoder --data photos/ --preset kl-f8-s --latent-channels 8 --lpips weights/lpips-squeeze",
            "ldm train-autoencoder --data photos/ --preset kl-f16-s --kl-weight 1 loss.reconstruction=l2",
            "ldm train-autoencoder --data photos/ --preset dc-f16-s --start-from runs/mine --part middle --name high",
            "ldm train-autoencoder --data photos/ --autoencoder models/sd-vae",
        ),
        "stages.train_autoencoder",
        "stages.configs:TrainAutoencoder",
        (Kind("autoencoder", AUTOENCODER, "Autoencoder", network=_AUTOENCODERS),),
        **_OF_AUTOENCODERS,
    ),
    Command(
        "encode",
        "Encode the images into shards of latents.",
        ("ldm encode", "ldm encode --name mine --batch-size 256"),
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
    Command(
        "train-dit",
        "Train a diffusion transformer on the latents.",
        (
            "ldm train-dit",
            "ldm train-dit --preset DiT-S/2 --images 5M --name mine",
            "ldm train-dit --prediction eps --weighting snr --schedule linear",
            "ldm train-dit --schedule rectified-flow --times logit-normal",
            "ldm train-dit --metrics-every 100k metrics.num=1000",
            "torchrun --nproc-per-node 4 -m ldm train-dit --name mine",
        ),
        "stages.train_denoiser",
        "stages.configs:TrainDiT",
        (Kind("dit", DENOISER, "Denoiser", inputs=_OF_LATENTS, network=_DENOISERS),),
        cost=f"{_COSTS}:train_denoiser",
        shared=True,
        smallest=_SMALL_DENOISER,
    ),
    Command(
        "train-denoiser",
        "Train a denoiser of any family on the latents.",
        ("ldm train-denoiser --name mine", "ldm train-denoiser --preset DiT-S/2 --images 5M"),
        "stages.train_denoiser",
        "stages.configs:TrainDenoiser",
        (Kind("denoiser", DENOISER, "Denoiser", inputs=_OF_LATENTS, network=_DENOISERS),),
        cost=f"{_COSTS}:train_denoiser",
        shared=True,
        smallest=_SMALL_DENOISER,
    ),
    Command(
        "distill",
        "Distill a trained denoiser into students of few steps.",
        (
            "ldm distill --name mine --steps 4",
            "ldm sample --name mine --denoiser runs/mine/students/4 --class 3 --cfg 3",
            "ldm distill --steps 1 --guidance 1,5 --images 200k",
        ),
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
        (
            "ldm train-autoencoder --preset msvq-s --data photos/ --name mine",
            "ldm encode --name mine",
            "ldm train-var --preset var-d6 --name mine",
            "ldm sample --class 3 --cfg 2.5 --name mine",
        ),
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
        (
            "ldm train-classifier",
            "ldm train-classifier --data photos/ --images 200k",
            "ldm train-classifier --noisy",
        ),
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
        (
            "ldm sample --class 3 --cfg 3",
            "ldm sample --class cat,dog --count 8 --seed 17",
            "ldm sample --class 0-4 --sampler dpmpp-2m --progressive",
            "ldm sample --class 3 --cfg 1 --classifier-scale 2",
            "ldm sample --class 3 --checkpoint best",
            "ldm sample --class cat --seeds 0-15,40 --preview-every 10",
            "ldm sample --jobs jobs.txt --cfg 3",
            "ldm sample --interactive",
        ),
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
        (
            "ldm edit photo.jpg --class dog",
            "ldm edit photos/ --strength 0.4,0.7 --class cat,dog --cfg 4",
            "ldm edit sketch.png --start-index 5,10,20 --class 3 --num 4",
            "ldm edit photo.jpg --box 20,16,24,24 --class church --resample 5",
            "ldm edit photo.jpg --outpaint left=32 --class church",
            "ldm edit photo.jpg --inversion --class cat",
            "ldm edit photo.jpg --denoiser runs/tokens/var --keep-scales 6,4,2 --class cat",
        ),
        "stages.edit",
        "stages.configs:Edit",
        (Kind("edits", EDITS, "Edits", inputs=_DRAWN_FROM, pieces="images"),),
        targets=(),
        shared=True,
    ),
    Command(
        "anagram",
        "Draw images that show another class when seen another way.",
        (
            "ldm anagram --class 6 --class 9 --view rotate180",
            "ldm anagram --class church --class parachute --view flip --cfg 5",
        ),
        "stages.combine",
        "stages.configs.combining:Anagram",
        (Kind("anagrams", EDITS, "Anagrams", inputs=_DRAWN_FROM, pieces="images"),),
        targets=(),
        shared=True,
    ),
    Command(
        "hybrid",
        "Draw images that show one class from near and another from afar.",
        ("ldm hybrid --near 8 --far 1", "ldm hybrid --near dog --far church --sigma 3"),
        "stages.combine",
        "stages.configs.combining:Hybrid",
        (Kind("hybrids", EDITS, "Hybrids", inputs=_DRAWN_FROM, pieces="images"),),
        targets=(),
        shared=True,
    ),
    Command(
        "interpolate",
        "Draw the way from one seed or class to another, also animated.",
        ("ldm interpolate --class 3 --to-seed 1", "ldm interpolate --class 3 --class 8 --frames 24"),
        "stages.combine",
        "stages.configs.combining:Interpolate",
        (Kind("interpolations", EDITS, "Interpolations", inputs=_DRAWN_FROM, pieces="images"),),
        targets=(),
        shared=True,
    ),
    Command(
        "eval",
        "Measure samples or reconstructions against real images.",
        (
            "ldm eval",
            "ldm eval --of reconstructions",
            "ldm eval --bits-per-dim",
            "ldm eval --samples path/to/images --reference photos/",
        ),
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
        "sweep",
        "Draw and evaluate samples over guidance scales and steps.",
        ("ldm sweep --cfg 1,1.5,2,3,5", "ldm sweep --cfg 3 --steps 5,10,20,50 --sampler dpmpp-2m"),
        "cli.sweep",
        "stages.configs.sweep:Sweep",
        (Kind("sweep", SWEEP, "Sweep"),),
    ),
    Command(
        "report",
        "Put a run's curves, pictures and numbers on one page, or those of several side by side.",
        ("ldm report", "ldm report mine", "ldm report mine other"),
        "stages.tools.report",
        "stages.configs.report:Report",
    ),
    Command(
        "show",
        "Show a run on a local page that grows with it, and draw from its newest checkpoint.",
        ("ldm show", "ldm show mine", "ldm show mine --port 8000 --device cpu"),
        "stages.tools.show",
        "stages.configs.show:Show",
    ),
    Command(
        "plot",
        "Draw schedules, loss weights, noising, denoising, samplers or guidance.",
        (
            "ldm plot schedule",
            "ldm plot weights --schedule linear --out linear-weights.png",
            "ldm plot noising --data photos/ --count 3",
            "ldm plot denoising --name mine --cfg 2",
            "ldm plot iterative --name mine --stride 30 --start-index 10 --every 5",
        ),
        "stages.tools.plot",
        "stages.configs.plot:Plot",
    ),
    Command(
        "verify",
        "Check a run or any folder in it: every byte that another stage reads.",
        ("ldm verify runs/default", "ldm verify runs/mine/latents", "ldm verify runs/mine/dit/checkpoints"),
        "stages.tools.verify",
        "stages.configs.folders:Verify",
    ),
    Command(
        "inspect",
        "Show what a folder is, what made it and its state.",
        ("ldm inspect runs/default", "ldm inspect runs/mine/dit", "ldm inspect runs/mine/dit/final --json"),
        "stages.tools.inspect",
        "stages.configs.folders:Inspect",
    ),
    Command(
        "doctor",
        "Check that this machine and its packages can run every stage.",
        ("ldm doctor", "ldm doctor --quick", "ldm doctor --runs-dir /data/runs --device cuda --json"),
        "cli.doctor",
        "stages.configs.doctor:Doctor",
    ),
    Command(
        "estimate",
        "Estimate what a recipe costs: operations, memory, disk, time.",
        (
            "ldm estimate mnist",
            "ldm estimate imagenette-64 --machine a100",
            "ldm estimate --preset DiT-XL/2 --latent 4,32,32 --classes 1000 --batch-size 1024 --gpus 8 --machine h200",
        ),
        "cli.estimate",
        "stages.configs.estimate:Estimate",
    ),
    Command(
        "export",
        "Write a folder that diffusers loads, with a model card.",
        (
            "ldm export --to diffusers mine-diffusers",
            "ldm export --name mine exports/mine --replace",
            "ldm export --part autoencoder exports/autoencoder",
        ),
        "stages.tools.export",
        "stages.configs.exchange:Export",
    ),
    Command(
        "import",
        "Import a DiT checkpoint, or a diffusers DiT or autoencoder folder, as a run.",
        (
            "ldm import DiT-XL-2-256x256.pt --autoencoder sd-vae-ft-ema --name dit-xl",
            "ldm import path/to/pipeline --name theirs",
            "ldm import path/to/autoencoder --name theirs --image-size 64",
        ),
        "stages.tools.import_model",
        "stages.configs.exchange:Import",
    ),
    Command(
        "data inspect",
        "Count images, list broken ones, and show how training would read them.",
        (
            "ldm data inspect photos/",
            "ldm data inspect photos.zip --image-size 128 --sheet photos.png",
            "ldm data inspect mnist --json",
        ),
        "stages.tools.data_inspect",
        "stages.configs.data_tools:DataInspect",
    ),
    Command(
        "data dedup",
        "Find duplicate and near-duplicate images; write lists, delete nothing.",
        (
            "ldm data dedup photos/ --sheet twins.png",
            "ldm data dedup photos/ --mirrored --out twins.jsonl --exclude-out twins.txt",
            "ldm data dedup photos/ --features mobilenet-v2 --weights mobilenet_v2-b0353104.pth",
        ),
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
        role = command.writes[0].role
        alike.setdefault("generator" if role.draws else role.name, []).append(command.name)
    return [next((name for name in names if name in sections), names[0]) for names in alike.values()]
