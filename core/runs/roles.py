"""Roles of directories for the stages that read them: an autoencoder, latents, a denoiser, whatever command made it.

A manifest names each input by a role of its own (`weak` is a denoiser, too); the table of stages lists which. Imports
nothing heavy.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .schemas import Metadata


@dataclass(frozen=True)
class Role:
    """makers: the kinds of directories with this role, which name their folders in a run, each with the command
    that makes it, the usual one first. schema: of their metadata, a class in `schemas`. given: the arguments that the
    usual command requires. needed: whether what was made with it needs it later, too. draws: of generators, what opens
    one to draw from, `module:function` in core; see `core.pipeline.generator`. labelled: the kinds of which a
    run has several, a folder for each label. chosen: whether the label is the user's, by --label.
    """

    name: str
    makers: Mapping[str, str]
    schema: str | None = None
    given: str = ""
    needed: bool = False
    draws: str = ""
    labelled: tuple[str, ...] = ()
    chosen: bool = False

    @property
    def form(self) -> "type[Metadata] | None":
        """The schema itself. Loading it takes a tenth of a second, too long for completion in a shell."""
        schemas = importlib.import_module(".schemas", __package__)
        return getattr(schemas, self.schema) if self.schema else None

    def known(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Return the part of a run's metadata that the schema checks; the rest is not validated."""
        fields = self.form.model_fields if self.form else {}
        return {name: value for name, value in metadata.items() if name in fields}

    def command(self, kind: str | None) -> str:
        """Return the command that makes a kind of directory; the usual one for an unknown kind."""
        return self.makers.get(kind or "", next(iter(self.makers.values())))


PHASES = "phases"  # of a training, but for the last, each in a folder of its number

AUTOENCODER = Role(
    "autoencoder",
    {"vqvae": "train-vqvae", "autoencoder": "train-autoencoder", PHASES: "train-autoencoder"},
    "Autoencoder",
    given="--data FOLDER",
    needed=True,
    labelled=(PHASES,),
)
LATENTS = Role("latents", {"latents": "encode"}, "Latents")
DENOISER = Role(
    "denoiser",
    {"dit": "train-dit", "denoiser": "train-denoiser", "students": "distill"},
    "Denoiser",
    draws="pipeline.drawing:open_model",
    labelled=("students",),
)
NEXT_SCALE = Role(
    "next-scale transformer", {"var": "train-var"}, "NextScale", draws="pipeline.token_drawing:open_next_scale"
)
CLASSIFIER = Role("classifier", {"classifier": "train-classifier"}, "Classifier")
NOISY_CLASSIFIER = Role("noisy classifier", {"noisy-classifier": "train-classifier --noisy"}, "NoisyClassifier")
SAMPLES = Role("samples", {"samples": "sample"}, "Samples", labelled=("samples",), chosen=True)
EDITS = Role(
    "edits",
    {"edits": "edit", "anagrams": "anagram", "hybrids": "hybrid", "interpolations": "interpolate"},
    "Edits",
    labelled=("edits", "anagrams", "hybrids", "interpolations"),
    chosen=True,
)
EVALUATION = Role("evaluation", {"eval": "eval"}, "Evaluation", labelled=("eval",))
SWEEP = Role("sweep", {"sweep": "sweep"})

ROLES = (AUTOENCODER, LATENTS, DENOISER, NEXT_SCALE, CLASSIFIER, NOISY_CLASSIFIER, SAMPLES, EDITS, EVALUATION, SWEEP)


def role_of(kind: str) -> Role:
    """Return the role of a kind of directory; for an unknown one, a role without a schema."""
    return next((role for role in ROLES if kind in role.makers), Role(kind, {kind: kind}))


def generators() -> tuple[Role, ...]:
    """Return the roles of what images are drawn from."""
    return tuple(role for role in ROLES if role.draws)


def any_generator() -> Role:
    """Return the role that all generators have in common."""
    makers = {kind: command for role in generators() for kind, command in role.makers.items()}
    labelled = tuple(kind for role in generators() for kind in role.labelled)
    return Role("generator", makers, "Generator", labelled=labelled)
