"""The tables of a run's report: the numbers of each judgement beside their floor, and samples side by side."""

from collections.abc import Iterator, Sequence
from typing import Any

from ..story import Folder, Judged, how, judged_alike, plain, told_conditions
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


def number_tables(judged: Sequence[Judged]) -> Iterator[Table]:
    """Set samples that were judged alike side by side, and tell of each judgement all there is.

    What stands side by side is folded away in full.
    """
    for several in judged_alike(judged):
        if len(several) > 1:
            yield _side_by_side(several)
        for folder, document in several:
            yield _in_full(folder, document, folded=len(several) > 1)


def _in_full(folder: Folder, document: dict[str, Any], folded: bool) -> Table:
    floor = document.get("real_against_real", {})
    rows = [
        (name, f"{value:.4g}", f"{floor[name]:.4g}" if name in floor else "")
        for name, value in document["numbers"].items()
        if "_std[" not in name
    ]
    return Table(("", "here", "real against real"), rows, f"{folder.path.name}: {told_conditions(document)}", folded)


def _side_by_side(judged: Sequence[tuple[Folder, dict[str, Any]]]) -> Table:
    """Compare samples whose judgements differ in nothing but how they were drawn; last, real images in their place.

    Rows are told by how they were drawn; those that differ in something else, as in the model, by their label too.
    """
    documents = [document for _, document in judged]
    known = dict.fromkeys(name for document in documents for name in document["numbers"])
    names = [name for name in known if name.partition("[")[0] in COMPARED]
    drawn = [how(document["conditions"]["sampling"]) for document in documents]
    if len(set(drawn)) < len(drawn):
        drawn = [f"{folder.path.name}: {told}" for (folder, _), told in zip(judged, drawn, strict=True)]
    named = [(told, document["numbers"]) for told, document in zip(drawn, documents, strict=True)]
    named.append(("real images", documents[0].get("real_against_real", {})))
    rows = [(told, *(f"{numbers[name]:.4g}" if name in numbers else "" for name in names)) for told, numbers in named]
    conditions = {name: value for name, value in documents[0]["conditions"].items() if name != "sampling"}
    columns = ("samples", *(plain(name) for name in names))
    return Table(columns, rows, told_conditions({"conditions": conditions}))
