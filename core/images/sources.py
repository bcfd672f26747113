"""Where images come from: one function that opens whatever the user points at, and one that makes two parts of it."""

import re
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

from ..errors import ConfigError, DataError
from .archive import list_zip
from .arrays import idx_pairs, parts_of_idx, parts_of_npz
from .dataset import ImageSource
from .exclusion import Exclusion
from .folder import list_folder
from .listing import Parts, is_image, parts_of
from .parts import parts_among
from .scenes import BUILTIN_DIGITS, SCENES, parts_of_scenes
from .splits import split_by_content
from .tar import expand_braces, open_tars, parts_of_tars
from .weights import with_masks

_MNIST = "mnist"
_KINDS = "a folder, a .zip, WebDataset .tar files, MNIST-style idx files, an .npz, or built-in data: mnist, scenes"


def open_source(location: str, split: str | None = None) -> ImageSource:
    """Open labelled images: a folder of class folders or of images, a .zip or plain .tar of either, WebDataset tars
    (a folder of them, one, or `x-{000..003}.tar`), a pair of idx files, an .npz, or built-in data by name.

    `split` chooses among the parts "train", "val" and "test" of data that have them; without it the training part is
    taken, or everything where there are no parts. Class names are sorted (by value, where all are numbers); a
    classes.json maps folders to names. Nothing is decoded, unpacked or unpickled, and no network is used. Raises
    DataError naming what is missing or damaged, and ConfigError for a name that means two things.
    """
    return _open_part(_parts(location), location, split)


def open_parts(location: str) -> dict[str, ImageSource]:
    """Open all parts of what `open_source` opens, by name: "all", or some of "train", "val" and "test".

    For looking at data as it is: classes and class folders without images are not refused here.
    """
    return {part: opened() for part, opened in _parts(location).items()}


def open_splits(
    location: str,
    val_location: str | None = None,
    val_fraction: float = 0.05,
    exclude: Exclusion | None = None,
    masks: bool = False,
) -> tuple[ImageSource, ImageSource]:
    """Open training and validation images with one list of class names, the training images'.

    Validation is `val_location` if given; else the data's own val part, or its test part; else about `val_fraction`
    of the images, chosen by the sha256 of their content, so that copies of an image stay on one side and the choice
    does not depend on names or order. What `exclude` lists is left out before that. Raises DataError when validation
    has a class that training lacks, when there are too few images to split, or when `exclude` does not fit.

    masks: whether images have masks beside them, which are not images themselves.
    """
    parts = _parts(location, masks)
    train = _open_part(parts, location, None)
    own = "all" if "all" in parts else "train"
    held_out = None
    if val_location is not None:
        others = _parts(val_location, masks)
        held_out = "val", others[held_out_part(others, val_location)]().require_full_folders()
    elif part := _own_held_out(parts):
        held_out = part, parts[part]().require_full_folders()

    used = [(own, train), *([held_out] if held_out else [])]
    if exclude is not None:
        named = {name for name, _ in used[1:]} if val_location is None else set()
        used = exclude.leave_out(used, lambda: [(p, parts[p]()) for p in parts if p != own and p not in named])
    train = used[0][1]
    if held_out:
        return train, used[1][1].with_classes(train.class_names)
    return split_by_fraction(train, val_fraction)


def own_held_out(location: str) -> str | None:
    """Return which part of the data `open_splits` holds out where no other is named; None where it divides them."""
    return _own_held_out(_parts(location))


def _own_held_out(parts: Parts) -> str | None:
    return next((part for part in ("val", "test") if part in parts and "all" not in parts), None)


def held_out_part(parts: Collection[str], location: str) -> str:
    """Return which part of images that are named for validation is taken: its own val or test part, or all it has."""
    for part in ("val", "test", "all", "train"):
        if part in parts:
            return part
    raise DataError(f"{location} has only {', '.join(sorted(parts))}, not val", "name the folder of one of them")


def split_by_fraction(source: ImageSource, val_fraction: float) -> tuple[ImageSource, ImageSource]:
    """Split images that come without parts as `open_splits` does; what was hashed before is not read again."""
    if not 0 < val_fraction < 1:
        raise ConfigError(f"a validation fraction of {val_fraction} leaves one part empty", "choose between 0 and 1")
    train_rows, val_rows = split_by_content(source.content_hashes(), source.labels, val_fraction)
    if not len(val_rows):
        message = f"{source.location} has too few different images to keep one for validation ({len(source)} in all)"
        raise DataError(message, "add images, or name other images for validation")
    return source.subset(train_rows), source.subset(val_rows)


def _open_part(parts: Parts, location: str, split: str | None) -> ImageSource:
    """Open a part by name; without a name the training part, or everything where there are no parts."""
    part = split or ("all" if "all" in parts else "train")
    if part not in parts:
        has = "no parts" if "all" in parts else f"only {', '.join(sorted(parts))}"
        raise DataError(f"{location} has {has}, not {part}", "choose another part, or name its folder itself")
    source = parts[part]().require_full_folders()
    return source.require_every_class() if part in ("all", "train") else source


def _parts(location: str, masks: bool = False) -> Parts:
    """Recognise what a location is. masks: take those beside images for what they are."""
    parts = _recognised(location)
    return {name: partial(_masked, opened) for name, opened in parts.items()} if masks else parts


def _masked(opened: Callable[[], ImageSource]) -> ImageSource:
    return with_masks(opened())


def _recognised(location: str) -> Parts:
    """Recognise what a location is."""
    name = location.removeprefix("builtin:")
    if name == _MNIST or SCENES.fullmatch(name):
        if name == location and Path(name).exists():
            raise ConfigError(f"{name} is built-in data, and also a file here", f"write builtin:{name} or ./{name}")
        return parts_of_idx(BUILTIN_DIGITS, location) if name == _MNIST else parts_of_scenes(name, location)
    path = Path(location)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", location) and not path.exists():
        raise DataError(
            f"{location} is not a local file or folder; commands and addresses are never followed", f"give {_KINDS}"
        )
    if re.search(r"\{.*\}", location) and not path.exists():
        paths = [Path(expanded) for expanded in expand_braces(location)]
        missing = [str(path) for path in paths if not path.is_file()]
        if missing:
            raise DataError(f"{location}: {missing[0]} does not exist", "check the range in braces")
        return {"all": partial(open_tars, paths, location)}
    if path.is_dir():
        return _folder_parts(path, location)
    if not path.is_file():
        raise DataError(f"{location} {'is not a file' if path.exists() else 'does not exist'}", f"give {_KINDS}")
    suffix = path.suffix.lower()
    if suffix == ".zip":
        return parts_of(list_zip(path, location))
    if suffix == ".tar":
        return parts_of_tars([path], location)
    if suffix == ".npz":
        return parts_of_npz(path, location)
    if re.search(r"idx[34]-ubyte(\.gz)?$", path.name):
        return parts_of_idx(path, location)
    raise DataError(f"{location} is not a kind of data that is known", f"give {_KINDS}")


def _folder_parts(path: Path, location: str) -> Parts:
    """Recognise what is in a folder: images, idx files, tars, or folders of tars named train, val and test."""
    if idx_pairs(path):
        return parts_of_idx(path, location)
    listing = list_folder(path, location)
    tars = sorted(name for name in listing.names if name.lower().endswith(".tar"))
    if not tars or any(map(is_image, listing.names)):
        return parts_of(listing)
    tops = {name.split("/")[0] for name in tars if "/" in name}
    if not tops:
        return parts_of_tars([path / name for name in tars], location)
    folders = parts_among(location, tops) if all("/" in name for name in tars) else {}
    if not folders:
        raise DataError(f"{location} has tars in several folders: {', '.join(sorted(tops)[:5])}", "name one of them")
    return {
        part: partial(open_tars, [path / name for name in tars if name.startswith(f"{top}/")], location)
        for part, top in folders.items()
    }
