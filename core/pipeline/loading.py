"""Finished models: opened, compared with each other, and loaded, for sampling and evaluation."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..autoencoders import registry as autoencoders
from ..autoencoders.codec import Autoencoder
from ..autoencoders.lpips import LPIPS
from ..conditioning.registry import conditioning_of, recorded
from ..denoisers import noisy_classifier
from ..denoisers import registry as denoisers
from ..denoisers.fixing import of_whole_images
from ..diffusion.denoisers import Network
from ..diffusion.names import CONSISTENCY, FIXED_NOISE
from ..diffusion.objective import Objective
from ..diffusion.objectives import OBJECTIVES
from ..errors import ConfigError
from ..runs.inputs import chosen, made_by, open_own, open_producer, section_of
from ..runs.roles import AUTOENCODER, DENOISER, NOISY_CLASSIFIER, Role
from ..runs.run import StageRun
from ..runs.states import EARLY, LATEST, POST_HOC, STATES
from ..settings.fields import Run, shared_fields
from ..system.precision import Policy, for_inference
from .kept import open_kept
from .latest import open_latest
from .model import Model, forward_process
from .settings import Diffusion, Drawing, Student


def open_denoiser(folder: Path | None, config: Run, state: str = "final", setting: str = "denoiser") -> StageRun:
    """Open a denoiser stage as `open_state` does."""
    return open_state(DENOISER, folder, config, state, setting)


def open_state(role: Role, folder: Path | None, config: Run, state: str, setting: str = "denoiser") -> StageRun:
    """Open a state of a generator's stage, named by a setting or the run's own.

    state: `final`, or `best` or `early`, which its training kept, or `latest`, its newest checkpoint.

    Raises DataError with the command that would make it, and ConfigError for a setting that does not name one.
    """
    if state == "final":
        return open_own(role, config, folder, setting)
    folder = chosen(role, config, folder, setting)
    command = made_by(role, config, folder)
    return open_latest(folder, command) if state == LATEST else open_kept(folder, command, state)


def state_of(source: StageRun) -> dict[str, str]:
    """Return which state of a training a generator is, for the record of what it draws; nothing for its end."""
    state = next((name for name in (*STATES, POST_HOC) if name in source.metadata), None)
    if state == POST_HOC:
        state = f"{POST_HOC} {source.metadata[POST_HOC]['length']}"
    return {} if state is None else {"checkpoint": f"{state}, after {source.metadata['images_seen']:,} images"}


def load_model(source: StageRun, config: Run, policy: Policy) -> Model:
    """Load a denoiser stage with the autoencoder that its latents came from. Raises DataError if that changed."""
    source.verify()
    producer = open_producer(source, "autoencoder", AUTOENCODER, config)
    metadata = source.metadata
    shape = tuple(metadata["latent_shape"])
    return Model(
        network=for_inference(of_whole_images(denoisers.load(source.path / "final", shape)), policy),
        autoencoder=load_autoencoder(producer, policy).network,
        diffusion=diffusion_of(source),
        student=student_of(source),
        latent_shape=shape,
        conditioning=conditioning_of(metadata),
    )


def open_guides(source: StageRun, config: Drawing, guides_from_null: bool) -> dict[str, StageRun]:
    """Open what guides a denoiser, by its role: a weaker denoiser, a classifier of noisy latents.

    guides_from_null: whether classifier-free guidance is asked for as well. Raises DataError for a missing one, and
    ConfigError for one trained on other latents, conditions or noise than the denoiser.
    """
    guides = {}
    if config.autoguide is not None:
        place, state = (config.denoiser, EARLY) if config.autoguide == Path(EARLY) else (config.autoguide, "final")
        weak = open_denoiser(place, config, state, "autoguide")
        refuse_student(weak, "autoguide")
        _require_alike(weak, source, "autoguide")
        if guides_from_null and not weak.metadata["label_dropout"]:
            raise ConfigError(
                f"`autoguide={weak.path}` has no null class, which `cfg` other than 1 needs of both models",
                "use `cfg=1`, or one trained with label dropout",
            )
        guides["weak"] = weak
    if config.classifier_scale:
        classifier = open_own(NOISY_CLASSIFIER, config, config.classifier, "classifier")
        _require_alike(classifier, source, "classifier")
        guides["classifier"] = classifier
    elif config.classifier is not None:
        raise ConfigError(f"`classifier={config.classifier}` does nothing at scale 0", "add `classifier_scale=1`")
    return guides


def with_guides(model: Model, guides: dict[str, StageRun], config: Run, policy: Policy) -> Model:
    """Return the model with its guides loaded."""
    loaded: dict[str, Any] = {}
    if "weak" in guides:
        loaded["weak"] = load_model(guides["weak"], config, policy)
    if "classifier" in guides:
        guides["classifier"].verify()
        network: nn.Module = noisy_classifier.load(guides["classifier"].path / "final", model.latent_shape)
        network = network.to(policy.device).eval().requires_grad_(False)
        loaded["classifier"] = partial(noisy_classifier.log_prob, network, model.schedule)
    return replace(model, **loaded)


def _require_alike(guide: StageRun, source: StageRun, setting: str) -> None:
    """Refuse a guide that was trained on other latents, conditions or noise levels than the denoiser."""
    seen = {
        "latents of another autoencoder": [a.manifest["inputs"]["autoencoder"]["fingerprint"] for a in (guide, source)],
        "other conditions": [recorded(conditioning_of(a.metadata, 0.0)) for a in (guide, source)],
        "another noise schedule": [_path(a) for a in (guide, source)],
    }
    for what, (its, ours) in seen.items():
        if its != ours:
            raise ConfigError(
                f"`{setting}={guide.path}` was trained on {what} than {source.path}",
                "train it on the same run's latents",
            )


def _path(artifact: StageRun) -> tuple[Any, ...]:
    process = diffusion_of(artifact)
    return process.schedule, process.num_steps, process.zero_terminal_snr, process.objective


@dataclass(frozen=True)
class TrainedAutoencoder:
    """A finished autoencoder stage and its network in evaluation mode."""

    artifact: StageRun
    network: Autoencoder


def load_autoencoder(artifact: StageRun, policy: Policy) -> TrainedAutoencoder:
    """Load an autoencoder stage's network after checking its files against the manifest."""
    artifact.verify()
    network = autoencoders.load(artifact.path / "final").eval().requires_grad_(False)
    return TrainedAutoencoder(artifact, network.to(policy.device))


def diffusion_of(artifact: StageRun) -> Diffusion:
    """Return the forward process of a stage's model, and what that predicts. Raises DataError as `data_of` does."""
    return section_of(Diffusion, artifact.metadata.get("diffusion"), artifact, "facts.diffusion")


def require_denoising(artifact: StageRun) -> None:
    """Raise ConfigError for a network that does not estimate the mean of x0 at all times."""
    diffusion = diffusion_of(artifact)
    if diffusion.objective == CONSISTENCY:
        raise ConfigError(
            f"{artifact.path} is a consistency model, `diffusion.objective={CONSISTENCY}`, and no denoiser",
            "take the denoiser that it was tuned from, or train one: `diffusion.objective=denoising`",
        )
    if diffusion.objective == FIXED_NOISE:
        raise ConfigError(
            f"{artifact.path} was trained at one noise level, `diffusion.objective={FIXED_NOISE}`",
            "train one at all of them: `diffusion.objective=denoising`",
        )


def refuse_student(artifact: StageRun, setting: str = "denoiser") -> None:
    """Raise ConfigError for a distilled network: it has learned the times of its own steps alone."""
    if student_of(artifact) is not None:
        raise ConfigError(
            f"`{setting}={artifact.path}` was distilled, and has learned the times of its own steps alone",
            "name a denoiser that is not distilled",
        )


def training_objective(diffusion: Diffusion, **networks: Network) -> Objective:
    """Return what the settings train a denoiser to do. networks: others that the objective needs, such as a teacher."""
    given = {**dict(diffusion), "schedule": forward_process(diffusion), **networks}
    objective: Objective = shared_fields(OBJECTIVES[diffusion.objective], given)
    return objective


def student_of(artifact: StageRun) -> Student | None:
    """Return what a denoiser was distilled to do; None for others. Raises DataError as `data_of` does."""
    recorded = artifact.metadata.get("student")
    return None if recorded is None else section_of(Student, recorded, artifact, "facts.student")


def load_perceptual(folder: Path | None, policy: Policy) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Load LPIPS, by the name of its numbers; empty where no weights were named."""
    if folder is None:
        return {}
    network = LPIPS(folder).to(policy.device)
    return {"lpips[squeeze]": lambda a, b: network(a.to(policy.device), b.to(policy.device)).cpu()}
