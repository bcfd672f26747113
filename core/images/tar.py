"""WebDataset tars of images: `0001.jpg` beside `0001.cls`, `0001.txt` or `0001.json`, indexed and read in place.

The `webdataset` library is not used here: it merges samples whose names hold dots, and its `pipe:` addresses and
default decoders run whatever the data says.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .archive import Member, tar_members
from .caption_files import captions_in_json, decoded
from .dataset import ImageSource, Others, image_source
from .folder import read_file
from .listing import (
    CLASSES_FILE,
    SIDECARS,
    Listing,
    Parts,
    human_names,
    is_hidden,
    is_image,
    numbered,
    parse_json,
    parts_of,
    stem_of,
)
from .parts import part_named

_LABEL_KEYS = ("label", "class", "cls")
_LABELS = (".cls", ".json")
_MAX_TARS = 100_000


def expand_braces(text: str) -> list[str]:
    """Expand `x-{000..003}.tar` and `{a,b}.tar` as a shell does; DataError for what is neither."""
    pieces = re.split(r"\{([^{}]*)\}", text)
    choices: list[Sequence[str]] = []
    for position, piece in enumerate(pieces):
        bounds = re.fullmatch(r"([0-9]{1,18})\.\.([0-9]{1,18})", piece)
        if position % 2 == 0:
            choices.append([piece])
        elif bounds:
            first, last = int(bounds[1]), int(bounds[2])
            if not 0 <= last - first < _MAX_TARS:
                raise DataError(f"{text}: {{{piece}}} is not a range of up to {_MAX_TARS:,} files", "write {000..127}")
            choices.append([str(number).zfill(len(bounds[1])) for number in range(first, last + 1)])
        elif "," in piece:
            choices.append(piece.split(","))
        else:
            raise DataError(f"{text}: {{{piece}}} is neither a range nor a list", "write {000..127} or {a,b}")
    return ["".join(parts) for parts in product(*choices)]


def parts_of_tars(paths: list[Path], location: str) -> Parts:
    """Open tars as one data set, or as its parts where all are named after parts: train-0000, seg_val, test.

    A single tar without any labels is read like a zip: by its folders.
    """
    by_part: dict[str, list[Path]] = {}
    for path in paths:
        named = part_named(path.stem)
        by_part.setdefault(named[0] if named else "all", []).append(path)
    if len(paths) == 1:
        members, folders = tar_members(paths[0], location)
        images = [name for name in members if is_image(name) and not is_hidden(name)]
        if not any(_label_of(name, members, _LABELS) for name in images):
            return parts_of(Listing(location, list(members), folders, lambda name: members[name].read()))
        return {"all": partial(open_tars, paths, location, {paths[0]: members})}
    if len(by_part) == 1 or "all" in by_part:
        by_part = {"all": paths}
    return {part: partial(open_tars, chosen, location) for part, chosen in by_part.items()}


def open_tars(paths: list[Path], location: str, indexed: dict[Path, dict[str, Member]] | None = None) -> ImageSource:
    """Index WebDataset tars, but those `indexed` already. Labels are numbers or names; a classes.json
    beside the first tar, or above it in the folder that was given, may name them. Samples of captions need no label.

    Raises DataError naming the member for an image without a label or caption, a label that cannot be read, two images
    of one sample, and whatever `tar_members` refuses.
    """
    names: list[str] = []
    members: list[Member] = []
    labels: list[int | str | None] = []
    ignored: list[str] = []
    others: dict[str, Member] = {}
    for path in paths:
        found = (indexed or {}).get(path) or tar_members(path, f"{location}: {path.name}")[0]
        found = {name: member for name, member in found.items() if not is_hidden(name)}
        samples, unused = _samples(path, found)
        prefix = f"{path.name}/" if len(paths) > 1 else ""
        ignored.extend(prefix + name for name in unused)
        for name, label_member in samples.items():
            names.append(prefix + name)
            members.append(found[name])
            labels.append(_label(found[label_member], f"{path}: {label_member}"))
        others |= {prefix + name: member for name, member in found.items() if not is_image(name)}

    def fetch(row: int) -> bytes:
        return members[row].read()

    if not names:
        raise DataError(
            f"{location} has no images",
            f"give tars of images with their labels; these hold {', '.join(ignored[:3]) or 'nothing'}",
        )
    source = image_source(location, names, fetch, *_numbers(labels, names, paths[0], location), ignored)
    return replace(source, others=Others(frozenset(others), lambda name: others[name].read()))


def _numbers(
    labels: Sequence[int | str | None], names: Sequence[str], first: Path, location: str
) -> tuple[np.ndarray | None, list[str] | None]:
    """Return labels as numbers with the names of classes; nothing where no sample has a label."""
    classes = _classes_file(first, location)
    table = parse_json(read_file(classes), str(classes)) if classes.is_file() else None
    kinds = {type(label) for label in labels}
    if kinds == {type(None)}:
        return None, None
    if kinds == {int}:
        if any(not -(2**62) < label < 2**62 for label in labels):  # type: ignore[operator]
            raise DataError(f"{location} has a label of more than 18 digits", "number the labels 0, 1, 2 …")
        return np.array(labels, dtype=np.int64), _names_of_numbers(table, str(classes))
    if kinds == {str}:
        numbers, keys = numbered([str(label) for label in labels])
        return numbers, human_names(keys, table, location)
    if None in labels:
        message = f"{location}: {names[labels.index(None)]} has no label, while others have"
        raise DataError(message, "put a .cls or .json of the same stem beside it")
    raise DataError(f"{location} labels some images by number and others by name", "use one of the two")


def _classes_file(tar: Path, location: str) -> Path:
    """Return where the classes.json nearest to a tar is: beside it, or above, as far as the folder that was given."""
    root, folder = Path(location), tar.parent
    while not (folder / CLASSES_FILE).is_file() and root in folder.parents:
        folder = folder.parent
    return folder / CLASSES_FILE


def _samples(path: Path, members: dict[str, Member]) -> tuple[dict[str, str], list[str]]:
    """Pair every image with its label's member; also return what belongs to no image."""
    samples: dict[str, str] = {}
    image_of_label: dict[str, str] = {}
    unlabelled = []
    for name in filter(is_image, members):
        label = _label_of(name, members)
        if label is None:
            unlabelled.append(name)
        elif label in image_of_label:
            message = f"{path}: {image_of_label[label]} and {name} share the label {label}"
            raise DataError(message, "give each image a stem of its own")
        else:
            samples[name] = label
            image_of_label[label] = name
    labelled_keys = set(map(stem_of, samples))
    captions = {stem + ending for stem in labelled_keys for ending in SIDECARS}
    ignored = [name for name in members if not is_image(name) and name not in image_of_label and name not in captions]
    for name in unlabelled:
        if _first_key(name) not in labelled_keys:  # 0001.seg.png beside 0001.jpg is another field of that sample
            raise DataError(f"{path}: {name} has no label", "put a .cls, .json or .txt of the same stem beside it")
        ignored.append(name)
    return samples, ignored


def _label_of(name: str, members: dict[str, Member], endings: Sequence[str] = (*_LABELS, *SIDECARS)) -> str | None:
    return next((stem_of(name) + ending for ending in endings if stem_of(name) + ending in members), None)


def _first_key(name: str) -> str:
    """Return a member's key as WebDataset cuts it: up to the first dot of the file's name."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.split(".")[0]


def _label(member: Member, name: str) -> int | str | None:
    """Read a label: a number or a name, plain in .cls, under "label", "class" or "cls" in .json.

    A caption is none: a text, or JSON that holds one.
    """
    if name.endswith(SIDECARS):
        return None
    if member.size > 1 << 20:
        raise DataError(f"{name} has {member.size:,} bytes, too many for a label", "mend the archive")
    data = member.read()
    value: Any
    if name.endswith(".json"):
        record = parse_json(data, name)
        keys = [key for key in _LABEL_KEYS if isinstance(record, dict) and record.get(key) is not None]
        value = record[keys[0]] if keys else None
        if not keys and captions_in_json(decoded(data, name), name):
            return None
    else:
        text = data.decode("utf-8", "surrogateescape").strip()
        value = int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else text
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise DataError(f"{name} holds no label", f"give a number or a name, in JSON under {', '.join(_LABEL_KEYS)}")
    return value


def _names_of_numbers(table: Any, name: str) -> list[str] | None:
    """Read class names for the labels 0, 1, 2 … from a list, {"0": "cat"}, or {"n02123045": [0, "cat"]}."""
    if table is None:
        return None
    pairs: dict[int, str] = {}
    entries = enumerate(table) if isinstance(table, list) else table.items() if isinstance(table, dict) else ()
    for key, value in entries:
        if isinstance(value, list) and len(value) == 2:
            key, value = value
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", str(key)):
            pairs[int(key)] = value
    if not pairs or sorted(pairs) != list(range(len(pairs))) or len(set(pairs.values())) != len(pairs):
        raise DataError(f"{name} does not name the labels 0, 1, 2 …, each by a name of its own", 'write ["cat", "dog"]')
    return [pairs[number] for number in range(len(pairs))]
