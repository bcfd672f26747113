"""The tables of a run's report: the numbers of each evaluation beside their floor, and samples side by side."""

from collections.abc import Iterator, Sequence

from ....core.conditioning.scenes import CATEGORIES
from ....core.metrics.document import number_rows
from ..summary import Evaluation, evaluated_alike
from ..words import conditions_in_words, number, plain
from .page import Table

COMPARED = (
    "overall",
    *(name.replace(" ", "_") for name in CATEGORIES),
    "frechet_distance",
    "fid",
    "kernel_distance",
    "kid",
    "class_accuracy",
    "precision",
    "recall",
    "nearest_ratio",
)


def number_tables(evaluations: Sequence[Evaluation]) -> Iterator[Table]:
    """Set samples that were evaluated alike side by side, and show all there is of each evaluation.

    What stands side by side is folded away in full.
    """
    for several in evaluated_alike(evaluations):
        if len(several) > 1:
            yield side_by_side(several, _titles(several))
        for each in several:
            caption = f"{each.run.path.name}: {conditions_in_words(each.conditions)}"
            yield Table(("", "here", "real against real"), number_rows(each.document), caption, len(several) > 1)


def side_by_side(evaluations: Sequence[Evaluation], titles: Sequence[str]) -> Table:
    """Compare samples whose evaluations differ in nothing but what drew them; last, real images in their place."""
    known = dict.fromkeys(name for each in evaluations for name in each.numbers)
    names = [name for name in known if name.partition("[")[0] in COMPARED]
    measured = [*(each.numbers for each in evaluations), evaluations[0].floor]
    labelled = zip([*titles, "real images"], measured, strict=True)
    rows = [(label, *(number(numbers, name) for name in names)) for label, numbers in labelled]
    conditions = {name: value for name, value in evaluations[0].conditions.items() if name != "sampling"}
    return Table(("samples", *map(plain, names)), rows, conditions_in_words(conditions))


def _titles(evaluations: Sequence[Evaluation]) -> list[str]:
    """Name samples by how they were drawn; those that differ in something else, as in the model, by their label too."""
    titles = [each.title for each in evaluations]
    if len(set(titles)) < len(titles):
        return [f"{each.run.path.name}: {each.title}" for each in evaluations]
    return titles
