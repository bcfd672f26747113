"""Finished models, opened, compared with each other, and loaded: what sampling and its judges are handed."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from ..core.artifacts import Artifact, check_producer, open_artifact
from ..core.conditioning.labels import LabelConditioning
from ..core.denoisers import noisy_classifier
from ..core.denoisers import registry as denoisers
from ..core.errors import ConfigError
from ..core.guided import Model
from ..core.precision import Policy, settle
from .best import open_best
from .configs import NOISY, Sample
from .handover import (
    autoencoder_artifact,
    chosen,
    command_line,
    diffusion_of,
    forward_process,
    input_path,
    load_autoencoder,
)
from .settings import Run


def open_denoiser(folder: Path | None, config: Run, best: bool = False, flag: str = "--denoiser") -> Artifact:
    """Open a denoiser stage, named by a flag or the run's own, or the best state that its training kept.

    Raises DataError with the command that would make it, and ConfigError for a flag that names none.
    """
    folder, made_by = chosen(folder, flag, config.root / "dit", "dit"), command_line("train-dit", config)
    return open_best(folder, made_by) if best else open_artifact(folder, "dit", made_by)


def load_model(source: Artifact, config: Run, policy: Policy) -> Model:
    """Load a denoiser stage with the autoencoder that its latents came from. Raises DataError if that changed."""
    source.verify()
    producer = autoencoder_artifact(input_path(source, "autoencoder"), config)
    check_producer(source, "autoencoder", producer)
    facts = source.facts
    shape, diffusion = tuple(facts["latent_shape"]), diffusion_of(source)
    return Model(
        network=settle(denoisers.load(source.path / "final", shape), policy),
        autoencoder=load_autoencoder(producer, policy).network,
        schedule=forward_process(diffusion),
        prediction=diffusion.prediction,
        latent_shape=shape,
        labels=LabelConditioning(len(facts["class_names"]), has_null=facts["label_dropout"] > 0),
        learned_variance=diffusion.learn_variance,
        shift=diffusion.shift,
    )


def open_guides(source: Artifact, config: Sample, guides_from_null: bool) -> dict[str, Artifact]:
    """Open what guides a denoiser, by its role: a weaker denoiser, a classifier of noisy latents.

    guides_from_null: whether classifier-free guidance is asked for as well. Raises DataError for a missing one, and
    ConfigError for one that knows other latents, classes or noise than the denoiser.
    """
    guides = {}
    if config.autoguide is not None:
        weak = open_denoiser(config.autoguide, config, flag="--autoguide")
        _require_alike(weak, source, "--autoguide")
        if guides_from_null and not weak.facts["label_dropout"]:
            raise ConfigError(
                f"--autoguide {weak.path} has no null class, which --cfg other than 1 needs of both models",
                "use --cfg 1, or one trained with label dropout",
            )
        guides["weak"] = weak
    if config.classifier_scale:
        folder = chosen(config.classifier, "--classifier", config.root / NOISY, NOISY)
        judge = open_artifact(folder, NOISY, f"{command_line('train-classifier', config)} --noisy")
        _require_alike(judge, source, "--classifier")
        guides["classifier"] = judge
    elif config.classifier is not None:
        raise ConfigError(f"--classifier {config.classifier} does nothing at scale 0", "add --classifier-scale 1")
    return guides


def with_guides(model: Model, guides: dict[str, Artifact], config: Run, policy: Policy) -> Model:
    """Return the model with its guides loaded."""
    loaded: dict[str, Any] = {}
    if "weak" in guides:
        loaded["weak"] = load_model(guides["weak"], config, policy)
    if "classifier" in guides:
        guides["classifier"].verify()
        network: nn.Module = noisy_classifier.load(guides["classifier"].path / "final", model.latent_shape)
        network = network.to(policy.device).eval().requires_grad_(False)
        loaded["classifier"] = partial(noisy_classifier.logits, network, model.schedule)
    return replace(model, **loaded)


def _require_alike(guide: Artifact, source: Artifact, flag: str) -> None:
    """Refuse a guide that was trained on other latents, classes or noise levels than the denoiser."""
    seen = {
        "latents of another autoencoder": [a.manifest["inputs"]["autoencoder"]["fingerprint"] for a in (guide, source)],
        "other classes": [a.facts["class_names"] for a in (guide, source)],
        "another noise schedule": [_path(a) for a in (guide, source)],
    }
    for what, (its, ours) in seen.items():
        if its != ours:
            raise ConfigError(
                f"{flag} {guide.path} was trained on {what} than {source.path}", "train it on the same run's latents"
            )


def _path(artifact: Artifact) -> tuple[Any, ...]:
    process = diffusion_of(artifact)
    return process.schedule, process.num_steps, process.zero_terminal_snr
