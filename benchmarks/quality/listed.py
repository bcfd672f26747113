"""A list of choices to compare, as its YAML file has it."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ldm.cli.recipe import read_recipe
from ldm.core.files import sha256_json

from .. import commands

FOLDER = Path(__file__).parent
AUTOENCODERS = ("train-vqvae", "train-autoencoder")
DENOISERS = ("train-dit", "train-denoiser")
Changes = Mapping[str, Mapping[str, Any]]


class Bench(BaseModel):
    """Choices, each a few settings in the place of a recipe's, and what all of them have in common.

    seconds: of processor time of one core that each denoiser is trained for; autoencoder_seconds: the same of each
    autoencoder, in the place of the recipe's number of images. run: a finished run of the recipe, whose autoencoder,
    latents and classifier are used where a choice changes nothing of them. always: settings in the place of the
    recipe's for all choices: command → setting → value. seeds: of the trainings; samples always have the same.
    baseline_seeds: more of them for the first choice, which show how far two trainings alike are apart.
    guidance: scales at which each is measured. num: samples of each class. choices: name → command → setting → value;
    the first is what the others are compared with.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    title: str
    recipe: str
    seconds: float = Field(gt=0)
    autoencoder_seconds: float | None = Field(default=None, gt=0)
    run: str | None = None
    always: dict[str, dict[str, Any]] = {}
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    baseline_seeds: tuple[int, ...] = ()
    guidance: tuple[float, ...] = Field(default=(1.5, 3.0), min_length=1)
    num: int = Field(default=50, ge=2)
    limit: int = 5_000
    features: str = "classifier"
    weights: str | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    choices: dict[str, dict[str, dict[str, Any]]] = Field(min_length=1)

    @model_validator(mode="after")
    def _changes_are_of_these_commands(self) -> "Bench":
        known = {self.autoencoder, "encode", self.denoiser, "sample"}
        for name, changes in {"always": self.always, **self.choices}.items():
            if unknown := set(changes) - known:
                raise ValueError(
                    f"{name} changes {', '.join(sorted(unknown))}: choices are of {', '.join(sorted(known))}"
                )
            for command in changes:
                self.settings(command, changes)
        return self

    @cached_property
    def _sections(self) -> set[str]:
        return set(read_recipe(self.recipe).tree)

    @property
    def autoencoder(self) -> str:
        """The command that trains the recipe's autoencoder."""
        return next((command for command in AUTOENCODERS if command in self._sections), AUTOENCODERS[0])

    @property
    def denoiser(self) -> str:
        """The command that trains the recipe's denoiser."""
        return next((command for command in DENOISERS if command in self._sections), DENOISERS[0])

    @property
    def baseline(self) -> str:
        """The name of what the others are compared with."""
        return next(iter(self.choices))

    def seeds_of(self, name: str) -> tuple[int, ...]:
        """Return the seeds of a choice's trainings."""
        return tuple(dict.fromkeys(self.seeds + (self.baseline_seeds if name == self.baseline else ())))

    def settings(self, command: str, changes: Changes, **more: Any) -> Any:
        """Return a command's settings: the recipe's, changed, on one core. Raises ConfigError for what is unknown.

        more: settings of the bench itself, with `__` for dots.
        """
        own = {**commands.ONE_CORE, "machine.precision": self.precision}
        if command in (*AUTOENCODERS, *DENOISERS):
            own["machine.compile"] = self.compile
        changed = {**self.always.get(command, {}), **changes.get(command, {})}
        given = {**own, **changed, **{name.replace("__", "."): value for name, value in more.items()}}
        return commands.configured(command, self.recipe, given)

    def of_latents(self, changes: Changes) -> Changes:
        """Return the changes on which latents depend."""
        return {name: changes[name] for name in (self.autoencoder, "encode") if changes.get(name)}

    def of_denoiser(self, changes: Changes) -> Changes:
        """Return the changes on which a denoiser depends."""
        own = {self.denoiser: changes[self.denoiser]} if changes.get(self.denoiser) else {}
        return {**self.of_latents(changes), **own}

    def training_key(self, changes: Changes, seed: int) -> str:
        """Return a few letters that differ for trainings by other settings or for another budget."""
        budget = [self.seconds, self.autoencoder_seconds, self.precision, self.compile, self.always]
        return self._digest(budget, changes, seed)

    def result_key(self, changes: Changes, seed: int) -> str:
        """Return a few letters that differ for another result: trained, sampled or evaluated otherwise."""
        aside = {"name", "title", "choices", "seeds", "baseline_seeds"}
        return self._digest(self.model_dump(mode="json", exclude=aside), changes, seed)

    def _digest(self, common: Any, changes: Changes, seed: int) -> str:
        own = {command: dict(settings) for command, settings in changes.items() if settings}
        return sha256_json([read_recipe(self.recipe).tree, common, own, seed])[:8]


def read(path: Path) -> Bench:
    """Read a list. Raises ValidationError for what it does not say, or says wrongly.

    choices_of: another list, whose choices it has too, changed by its own; null takes one out.
    """
    found = yaml.safe_load(path.read_text())
    if (other := found.pop("choices_of", None)) is not None:
        others = yaml.safe_load((path.parent / f"{other}.yaml").read_text())["choices"]
        found["choices"] = {name: made for name, made in {**others, **found["choices"]}.items() if made is not None}
    return Bench.model_validate({"name": path.stem, **found})
