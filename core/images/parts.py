"""What the parts of a data set are called: train, val and test, in any usual spelling."""

import re
from collections.abc import Collection

from ..errors import DataError

PARTS = ("train", "val", "test")
_PARTS = dict.fromkeys(("train", "training", "trainset", "trn"), "train")
_PARTS |= dict.fromkeys(("val", "valid", "validation", "valset", "dev", "eval"), "val")
_PARTS |= dict.fromkeys(("test", "testing", "testset", "tst"), "test")


def part_named(name: str) -> tuple[str, str] | None:
    """Return the part that a name names, and the rest of the name: `seg_Test` is test of seg, `val2017` is val.

    None where it names no part, or several.
    """
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)
    found = {_PARTS[word.lower()] for word in words if word.lower() in _PARTS}
    rest = " ".join(word.lower() for word in words if word.lower() not in _PARTS)
    return (found.pop(), rest) if len(found) == 1 else None


def parts_among(location: str, names: Collection[str]) -> dict[str, str]:
    """Return which of some folders is which part; nothing where they are not parts of one data set.

    They are if train is among them and their names differ in nothing but the part. Raises DataError naming two of one
    part, and folders beside train and another part, which could be classes.
    """
    named = {name: part_named(name) for name in sorted(names)}
    parts = {name: part for name, part in named.items() if part is not None}
    plain = {part for part, rest in parts.values() if not rest}
    if len(parts) < len(named) or len({rest for _, rest in parts.values()}) > 1:
        if "train" in plain and len(plain) > 1:
            others = ", ".join(name for name in named if part_named(name) not in [(part, "") for part in plain])
            remedy = "name one of them as the images, or move away what belongs to neither"
            raise DataError(f"{location} has folders for {' and '.join(sorted(plain))} beside {others[:80]}", remedy)
        return {}
    if len(parts) > 1 or "train" in plain:
        return one_of_each(location, "folders", [(part, name) for name, (part, _) in parts.items()])
    return {}


def one_of_each(location: str, kind: str, named: Collection[tuple[str, str]]) -> dict[str, str]:
    """Return what each part is kept under, from (part, name); DataError naming two of one part: "valid" and "val"."""
    found: dict[str, str] = {}
    for part, name in named:
        if part in found:
            pair = f"{found[part]} and {name}"
            raise DataError(f"{location} has two {kind} for one part: {pair}", "keep one of them")
        found[part] = name
    return found
