"""The tables of a run's report: the numbers of each evaluation beside their floor, and samples side by side."""

from collections.abc import Iterator, Sequence
from typing import Any

from ....core.runs.run import StageRun
from ..summary import Evaluated, conditions_in_words, evaluated_alike, how, plain
from .page import Table

COMPARED = (
    "frechet_distance",
    "fid",
    "kernel_distance",
    "kid",
    "class_accuracy",
    "precision",
    "recall",
    "nearest_ratio",
)


def number_tables(evaluated: Sequence[Evaluated]) -> Iterator[Table]:
    """Set samples that were evaluated alike side by side, and show all there is of each evaluation.

    What stands side by side is folded away in full.
    """
    for several in evaluated_alike(evaluated):
        if len(several) > 1:
            yield _side_by_side(several)
        for folder, document in several:
            yield _in_full(folder, document, folded=len(several) > 1)


def _in_full(folder: StageRun, document: dict[str, Any], folded: bool) -> Table:
    floor = document.get("real_against_real", {})
    rows = [
        (name, f"{value:.4g}", f"{floor[name]:.4g}" if name in floor else "")
        for name, value in document["numbers"].items()
        if "_std[" not in name
    ]
    return Table(
        ("", "here", "real against real"), rows, f"{folder.path.name}: {conditions_in_words(document)}", folded
    )


def _side_by_side(evaluated: Sequence[tuple[StageRun, dict[str, Any]]]) -> Table:
    """Compare samples whose evaluations differ in nothing but how they were drawn; last, real images in their place.

    Rows are named by how they were drawn; those that differ in something else, as in the model, by their label too.
    """
    documents = [document for _, document in evaluated]
    known = dict.fromkeys(name for document in documents for name in document["numbers"])
    names = [name for name in known if name.partition("[")[0] in COMPARED]
    drawn = [how(document["conditions"]["sampling"]) for document in documents]
    if len(set(drawn)) < len(drawn):
        drawn = [f"{folder.path.name}: {label}" for (folder, _), label in zip(evaluated, drawn, strict=True)]
    named = [(label, document["numbers"]) for label, document in zip(drawn, documents, strict=True)]
    named.append(("real images", documents[0].get("real_against_real", {})))
    rows = [(label, *(f"{numbers[name]:.4g}" if name in numbers else "" for name in names)) for label, numbers in named]
    conditions = {name: value for name, value in documents[0]["conditions"].items() if name != "sampling"}
    columns = ("samples", *(plain(name) for name in names))
    return Table(columns, rows, conditions_in_words({"conditions": conditions}))
