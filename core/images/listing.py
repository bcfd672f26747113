"""Files by name, in a folder or an archive: which are images, of which class, and of which part of the data."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from ..errors import DataError, as_data_error
from ..runs.lock import LOCK
from ..runs.run import IDENTITY
from .caption_files import finder, may_divide, may_hold_captions, tables_beside
from .dataset import ImageSource, Others, image_source
from .decode import SUFFIXES
from .parts import PARTS, parts_among

CLASSES_FILE = "classes.json"
SIDECARS = (".txt", ".caption")  # endings of files with the captions of the image of the same stem
Parts = dict[str, Callable[[], ImageSource]]  # "all", or some of "train", "val" and "test"; opened when called

# What desktops, network drives, file systems and Python leave in folders, in lower case.
_LITTER = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "@recycle", "#recycle", "$recycle.bin"}
_LITTER |= {"system volume information", "lost+found", "__pycache__", "network trash folder", "temporary items"}
_NUMBER = re.compile(r"0|[1-9][0-9]*")


@dataclass(frozen=True)
class Listing:
    """Files by their names relative to a root, with "/" between folders, and how to read one."""

    location: str
    names: list[str]
    folders: list[str]
    read: Callable[[str], bytes]


def stem_of(name: str) -> str:
    """Return a file's name without its ending, with the folders that it is in."""
    return name[: len(name) - len(PurePosixPath(name).suffix)]


def is_image(name: str) -> bool:
    """Return whether a file's name ends as images' names do."""
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def is_hidden(name: str) -> bool:
    """Return whether any part of a path is hidden, or the litter of a desktop or a drive."""
    return any(part.startswith(".") or part.lower() in _LITTER for part in name.split("/"))


def safe_name(location: str, name: str) -> str:
    """Return the name of an archive's member, normalised; DataError if it leads out of the archive."""
    if not name:
        raise DataError(f"{location} holds a file without a name", "make or copy the archive again")
    if name.startswith("/") or ".." in re.split(r"[/\\]", name) or re.match(r"[A-Za-z]:[/\\]", name) or "\0" in name:
        raise DataError(f"{location} holds a file named {name!r}, which leads out of it", "do not trust this archive")
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def parts_of(listing: Listing) -> Parts:
    """Find train, validation and test folders in a listing; without them everything is one part, "all".

    A folder that holds everything, and nothing but folders, only wraps what is in them. What stages of `ldm` wrote is
    left aside.
    """
    visible = [name for name in listing.names if not is_hidden(name)]
    folders = {*listing.folders, *(name.rpartition("/")[0] for name in listing.names)}  # archives may list files alone
    shown = replace(listing, names=visible, folders=[name for name in folders if not is_hidden(name)])
    shown = _without_runs(shown, [name for name in listing.names if name.rpartition("/")[2] in (LOCK, IDENTITY)])
    found = [name for name in shown.names if is_image(name)]
    others = Others(frozenset(name for name in shown.names if not is_image(name)), listing.read)
    if kept := _parts_in_captions(found, others, listing.location):
        return {
            part: partial(_labelled_by_folder, replace(shown, names=names), "", others) for part, names in kept.items()
        }
    prefix = _wrapper(found, shown.folders)
    if named := parts_among(listing.location, {_top(name, prefix) for name in found}):
        return {part: partial(_labelled_by_folder, shown, f"{prefix}{top}/", others) for part, top in named.items()}
    return {"all": partial(_labelled_by_folder, shown, prefix, others)}


def _parts_in_captions(found: list[str], others: Others, location: str) -> dict[str, list[str]]:
    """Return the images of each part where a file of captions says of each image which part it is of."""
    if not any(map(may_divide, others.names)):
        return {}
    find = finder([record for record in tables_beside(others, location) if record.split in PARTS])
    parts: dict[str, list[str]] = {}
    for name in found:
        if not (records := find(name)):
            return {}
        parts.setdefault(str(records[0].split), []).append(name)
    return parts if "train" in parts else {}


def _without_runs(listing: Listing, marks: list[str]) -> Listing:
    """Leave out the directories of stages, and the folders around them that hold no images besides.

    marks: the files that such directories have. The listing itself may be one: samples are read to be evaluated.
    """
    if not marks:
        return listing
    written = {mark.rpartition("/")[0] for mark in marks if mark.endswith(IDENTITY) and _is_identity(listing, mark)}
    written -= {""}
    names = [name for name in listing.names if not _above(name) & written]
    filled = set().union(*(_above(name) for name in names if is_image(name)))
    around = set().union(*map(_above, marks))
    gone = {name for name in {*listing.folders, ""} - filled if name in around or _above(name) & written}
    names = [name for name in names if name.rpartition("/")[0] not in gone]
    return replace(listing, names=names, folders=[name for name in listing.folders if name not in gone])


def _is_identity(listing: Listing, name: str) -> bool:
    try:
        found = parse_json(listing.read(name), name)
    except DataError:
        return False
    return isinstance(found, dict) and {"schema", "kind", "config", "inputs"} <= found.keys()


def _above(name: str) -> set[str]:
    """Return the folders that a file is in, all the way up; the root is ""."""
    return {name[: at.start()] for at in re.finditer("/", name)} | {""}


def _wrapper(found: list[str], folders: list[str]) -> str:
    """Return the folders at the top, one in the other, that hold everything and no images themselves, else nothing."""

    def holds_images(prefix: str) -> bool:
        return any(not _top(name, prefix) for name in found)

    prefix = ""
    while found and not holds_images(prefix):
        tops = {_top(name, prefix) for name in (*found, *(f"{folder}/" for folder in folders))} - {""}
        below = f"{prefix}{min(tops)}/"
        if len(tops) > 1 or holds_images(below):
            break
        prefix = below
    return prefix


def _labelled_by_folder(listing: Listing, prefix: str, others: Others, labelled: bool = True) -> ImageSource:
    """Label the images below `prefix` by the folder they are in; without folders they are one class, "all".

    So are images with a file of captions, where folders would be a single class or some images are in none. labelled:
    whether folders are classes at all.
    """
    inside = [name for name in listing.names if name.startswith(prefix)]
    found = [name for name in inside if is_image(name)]
    ignored = _ignored(inside, found)
    location = listing.location
    keys = [_top(name, prefix) for name in found]
    tops = set(keys) - {""}
    loose = [name for name, key in zip(found, keys, strict=True) if not key]
    if not labelled or (tops and (loose or len(tops) == 1) and tables_beside(others, location)):
        tops = set()
    if tops and loose:
        message = f"{location} has images both in class folders ({min(tops)}) and outside them ({loose[0]})"
        raise DataError(message, "move them into the folder of their class")

    captions = {_top(name, prefix) for name in inside if may_hold_captions(name)}
    folders = {_top(name + "/", prefix) for name in listing.folders if name.startswith(prefix)} - captions
    empty = [prefix + name for name in sorted(folders - tops - {""})] if tops else []

    def fetch(row: int) -> bytes:
        return listing.read(found[row])

    if not tops:
        return replace(image_source(location, found, fetch, None, ignored=ignored), others=others)
    labels, order = numbered(keys)
    class_names = human_names(order, _classes_file(listing, prefix), location)
    source = image_source(location, found, fetch, labels, class_names, ignored, empty)
    return replace(source, others=others)


def _ignored(names: list[str], images: list[str]) -> list[str]:
    """Return the files that are neither images nor say anything of them."""
    stems = {stem_of(name) for name in images}
    return [
        name
        for name in names
        if not is_image(name)
        and PurePosixPath(name).name != CLASSES_FILE
        and not may_hold_captions(name)
        and not (name.endswith(SIDECARS) and stem_of(name) in stems)
    ]


def _top(name: str, prefix: str) -> str:
    """Return the folder at the top that a file below `prefix` is in; nothing where it is in none."""
    return name[len(prefix) :].rpartition("/")[0].partition("/")[0]


def numbered(keys: list[str]) -> tuple[np.ndarray, list[str]]:
    """Number classes by their names: return each one's label, int64 (N,), and the names in the order of labels.

    That is by value where all are numbers, so that class "10" follows "9", else by character.
    """
    names = set(keys)
    order = sorted(names, key=int) if all(map(_NUMBER.fullmatch, names)) else sorted(names)
    index = {key: label for label, key in enumerate(order)}
    return np.array([index[key] for key in keys], dtype=np.int64), order


def _classes_file(listing: Listing, prefix: str) -> Any:
    """Read the classes.json nearest to the images: in their own folder, or in one above; None without one."""
    while True:
        if prefix + CLASSES_FILE in listing.names:
            return parse_json(listing.read(prefix + CLASSES_FILE), f"{listing.location}: {prefix}{CLASSES_FILE}")
        if not prefix:
            return None
        prefix = prefix.rstrip("/").rpartition("/")[0] + "/" if "/" in prefix.rstrip("/") else ""


def parse_json(data: bytes, name: str) -> Any:
    """Parse JSON; DataError naming the file when it is not valid."""
    with as_data_error(f"{name} is not valid JSON", "mend or remove it"):
        return json.loads(data.decode("utf-8"))


def human_names(keys: list[str], table: Any, location: str) -> list[str]:
    """Look up what each class folder is called in people's words; folders that the table lacks keep their name.

    The table is a classes.json: {"n01440764": "tench"} or {"n01440764": [0, "tench"]}. Where two folders share a
    word ("crane" in ImageNet is a bird and a machine) the folder's name follows it.
    """
    if table is None:
        return keys
    words = []
    for key in keys:
        value = table.get(key, key) if isinstance(table, dict) else None
        value = next((item for item in value if isinstance(item, str)), None) if isinstance(value, list) else value
        if not isinstance(value, str) or not value:
            raise DataError(
                f'{location}: {CLASSES_FILE} does not map folders to names like {{"{key}": "cat"}}', "mend it"
            )
        words.append(value)
    return [word if words.count(word) == 1 else f"{word} ({key})" for word, key in zip(words, keys, strict=True)]
