"""The output of an evaluation, `metrics.json`: its numbers, what real images measure, and their conditions."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from .. import files
from ..errors import DataError
from ..progress import Outcome
from ..runs.run import StageRun
from ..runs.schemas import Count, Number, Sampling, Text, absent, first_wrong
from .evaluate import Report

NUMBERS = "metrics.json"


class Conditions(BaseModel):
    """Conditions of the numbers, as far as their readers need them."""

    model_config = ConfigDict(strict=True)
    sampling: Sampling = absent()
    extractor: Text = ""
    weights_sha256: Text = ""
    resize: Text = ""
    of: Text = ""
    n_samples: Count = 0
    n_held_out: Count = 0
    n_reference: Count = 0
    n_latents: Count = 0
    times_per_latent: Count = 0


class _OfClass(BaseModel):
    """How many images of a class there are, and the share read as it."""

    model_config = ConfigDict(strict=True)
    images: Count
    accuracy: Number


class _Document(BaseModel):
    model_config = ConfigDict(strict=True)
    numbers: dict[Text, Number]
    real_against_real: dict[Text, Number] = {}
    classes: dict[Text, dict[Text, _OfClass]] = {}
    conditions: Conditions


def read_evaluation(run: StageRun) -> dict[str, Any]:
    """Read an evaluation's numbers and conditions. Raises DataError naming the wrong value."""
    document = files.read_json(run.file(NUMBERS), run.remedy)
    wrong = first_wrong(_Document, document)
    if wrong is not None:
        raise DataError(f"{run.path / NUMBERS} is damaged: {wrong}", run.remedy)
    return document


def number_rows(document: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the name, the value and the floor of each number as they are shown, spreads left out."""
    floor = document.get("real_against_real", {})
    return [
        (name, f"{value:.4g}", f"{floor[name]:.4g}" if name in floor else "")
        for name, value in document["numbers"].items()
        if "_std[" not in name
    ]


def write_evaluation(
    work: StageRun,
    of: str,
    report: Report,
    conditions: dict[str, Any],
    outputs: list[str],
    pictures: list[str],
    next_commands: list[str],
    classes: Mapping[str, Any] | None = None,
) -> Outcome:
    """Write the numbers beside their floor and conditions, and complete the stage.

    classes: how the images of each class are read, `samples` and `held_out`.
    """
    document = {
        "of": of,
        "numbers": report.numbers,
        "real_against_real": report.floor,
        **({"classes": classes} if classes else {}),
        "conditions": {**report.conditions, **conditions},
    }
    files.write_json(work.path / NUMBERS, document)
    work.commit([NUMBERS, *outputs, *pictures], {"numbers": report.numbers, "floor": report.floor})
    shown = [work.path / name for name in pictures]
    return Outcome(work.path, summary=_shown(document), pictures=shown, next_commands=next_commands)


def evaluation_outcome(work: StageRun, next_commands: list[str]) -> Outcome:
    """Return the outcome of an evaluation that was complete before."""
    shown = _shown(read_evaluation(work))
    return Outcome(work.path, already_complete=True, summary=shown, next_commands=next_commands)


def beside(name: str) -> str:
    """Say what of real images stands beside a number of samples."""
    return "held-out real images" if name.startswith("class_accuracy") else "real against real"


def _shown(document: dict[str, Any]) -> dict[str, str]:
    """Return what the command shows: every number beside its floor, and the numbers of images."""
    numbers, conditions = document["numbers"], document["conditions"]
    if "n_samples" not in conditions:  # Of a likelihood: each bound with its error.
        bounds = {name: value for name, value in numbers.items() if name.startswith("bits_per_dim[")}
        errors = {name: numbers.get(name.replace("per_dim", "per_dim_error")) for name in bounds}
        return {
            name: f"{bound:.4f}" + ("" if errors[name] is None else f" ± {errors[name]:.4f}")
            for name, bound in bounds.items()
        }
    rows = {
        name: value + (f"   ({beside(name)} {floor})" if floor else "") for name, value, floor in number_rows(document)
    }
    against = f" against {conditions['n_reference']:,}" if conditions["n_reference"] else ""
    rows["images"] = f"{conditions['n_samples']:,}{against}"
    return rows
