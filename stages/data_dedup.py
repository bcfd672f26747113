"""`ldm data dedup`: images that are there twice, or nearly so, in groups; lists are written, nothing is deleted."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..core import files
from ..core.data.contact import Strip, require_new, square, write_sheet
from ..core.data.duplicates import SEARCHED, Copy, Group, feature_links, grouped, merged, near_links
from ..core.data.exclusion import write_exclusion
from ..core.data.images import as_tensor
from ..core.data.loading import ImageLoader, Preparation
from ..core.data.near import cosine_pairs
from ..core.data.prints import Print, Prints, print_of, scratch
from ..core.data.sources import split_by_fraction
from ..core.errors import DataError
from ..core.metrics.features import open_extractor
from ..core.progress import Outcome, Progress
from .configs.data_tools import DataDedup
from .data_parts import TRAINED, Catalogue, listed, looked_at, read_all, shown
from .handover import machine_policy
from .settings import Data, Machine

FEATURE_DISTANCE = 0.04  # of MobileNetV2
COLUMNS, ROWS, TILE = 8, 24, 96  # of the contact sheet, and the side of its images
_BLOCK = 256  # prints hashed together
_SIDE, _BATCH = 224, 64  # of images for a network
_VAL_FRACTION = float(Data.model_fields["val_fraction"].default)


def run(config: DataDedup, progress: Progress) -> Outcome:
    """Find groups of copies, and write the lists and the sheet that were asked for."""
    for path, flag in ((config.out, "--out"), (config.exclude_out, "--exclude-out"), (config.sheet, "--sheet")):
        if path is not None:
            require_new(path, config.replace, flag)
    parts, exclude = looked_at(config)
    images = Catalogue(parts)
    prints, broken = _prints(images, progress)
    groups = _groups(config, images, prints, progress)

    out = [images.name(row) for group in groups for row in _left_out(group, images, config.drop_conflicts)]
    if config.out is not None:
        _write_list(
            config.out, [_line(number, copy, images) for number, group in enumerate(groups, 1) for copy in group.copies]
        )
    if config.exclude_out is not None:
        about = [f"{len(out):,} copies in {config.source}, found by ldm data dedup", "one of each group stays"]
        write_exclusion(config.exclude_out, [*sorted(exclude.names if exclude else ()), *out], about)
    if config.sheet is not None and groups:
        _write_sheet(config.sheet, groups, images, config.sheet_order)

    facts = _facts(images, groups, broken) | {"left_out": len(out)}
    written = {"list": config.out, "exclude list": config.exclude_out}
    found = (
        f"{len(groups):,} groups of copies among {len(images):,} images"
        if groups
        else f"no copies among {len(images):,} images"
    )
    next_commands = (
        [f"ldm train-vqvae --data {config.source} --exclude {config.exclude_out}"] if config.exclude_out else []
    )
    return Outcome(
        Path(config.source),
        summary=dict(_rows(images, groups, facts)) | {name: str(path) for name, path in written.items() if path},
        pictures=[config.sheet] if config.sheet and groups else [],
        next_commands=next_commands if out else [],
        verdict=f"holds {found}",
        facts=facts,
    )


def _prints(images: Catalogue, progress: Progress) -> tuple[Prints, list[str]]:
    """Take the print of every image. Returns them, and the names of what cannot be decoded, which is left aside."""
    prints = Prints(len(images))
    broken, rows, waiting = [], list[int](), list[Print]()
    everything = read_all(images.parts, print_of, progress, "reading images")
    for row, (_, source, index, seen) in enumerate(everything):
        if isinstance(seen, DataError):
            progress.warn(shown(seen.message, 300))
            broken.append(source.names[index])
        else:
            rows.append(row)
            waiting.append(seen)
        if waiting and (len(waiting) == _BLOCK or row == len(images) - 1):
            prints.add(rows, waiting)
            rows, waiting = [], []
    return prints, broken


def _groups(config: DataDedup, images: Catalogue, prints: Prints, progress: Progress) -> list[Group]:
    """Link images by what they look like, and by features where asked, and gather them."""
    held_out = np.repeat([part not in TRAINED for part, _ in images.parts], np.diff(images.starts))
    places = prints.order(held_out)
    stands = prints.stand_ins(places)
    rows = np.flatnonzero(prints.known & (stands == np.arange(len(images))))
    progress.note(f"{len(rows):,} images differ in their pixels; comparing hashes of those")
    links = near_links(prints, rows, config.bits, config.likeness, config.mirrored)
    if config.features == "none":
        progress.note("features are not compared; for that give --features mobilenet-v2 --weights FOLDER")
    else:
        features, radius = _features(config, images, rows, progress), config.feature_distance or FEATURE_DISTANCE
        device = machine_policy(Machine(device=config.device)).device
        links = merged([links, feature_links(prints, rows, cosine_pairs(features, radius, device))])
    return grouped(prints, stands, links, places)


def _features(config: DataDedup, images: Catalogue, rows: np.ndarray, progress: Progress) -> np.ndarray:
    """Return a network's features, float16 (N, D), of the images at `rows`, whole and squashed to a square."""
    device = machine_policy(Machine(device=config.device)).device
    extractor = open_extractor(config.features, config.weights, device)
    features = scratch((len(rows), extractor.dim), np.float16)
    progress.start(f"{extractor.name} features", len(rows), "images")
    for (_, source), start, stop in zip(images.parts, images.starts, images.starts[1:], strict=True):
        chosen = np.flatnonzero((rows >= start) & (rows < stop))
        if not len(chosen):
            continue
        squares = Preparation(_SIDE, crop="stretch", cache_bytes=0)
        loader = ImageLoader(source.subset(rows[chosen] - start), squares)
        for some, pixels in loader.in_turn(_BATCH):
            features[chosen[some]] = extractor.features(as_tensor(pixels)).cpu().numpy()
            progress.update(int(chosen[some[-1]]) + 1)
        loader.close()
    progress.finish()
    return features


def _left_out(group: Group, images: Catalogue, drop_conflicts: bool) -> list[int]:
    """Return which images of a group to leave out: all but the kept ones, or all where labels differ and that is asked."""
    if drop_conflicts and len(_classes(group, images)) > 1:
        return group.rows
    return [copy.row for copy in group.copies if copy.kind != "kept"]


def _classes(group: Group, images: Catalogue) -> list[str]:
    return sorted({name for row in group.rows if (name := images.class_name(row)) is not None})


def _sides(group: Group, images: Catalogue) -> list[str]:
    return sorted({images.at(row)[0] for row in group.rows})


def _line(number: int, copy: Copy, images: Catalogue) -> dict[str, Any]:
    """Return what a list tells of one image."""
    return {
        "group": number,
        "keep": copy.kind == "kept",
        "kind": copy.kind,
        "distance": round(copy.distance, 5),
        "likeness": round(copy.likeness, 5),
        "of": None if copy.of is None else images.name(copy.of),
        "class": images.class_name(copy.row),
        "part": images.at(copy.row)[0],
        "name": images.name(copy.row),
    }


def _write_list(path: Path, lines: list[dict[str, Any]]) -> None:
    """Write a line for each image in a group, JSON or CSV by the path's name. No groups make an empty list."""
    if path.suffix.lower() == ".jsonl":
        files.write_bytes(path, "".join(json.dumps(line) + "\n" for line in lines).encode())
        return
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["group", "keep", "kind", "distance", "likeness", "of", "class", "part", "name"])
    writer.writeheader()
    writer.writerows(lines)
    files.write_bytes(path, text.getvalue().encode("utf-8", "surrogateescape"))


def _write_sheet(path: Path, groups: list[Group], images: Catalogue, order: str) -> None:
    """Draw some groups, a row each, the kept image first; each copy with what it was found by."""
    numbered = list(enumerate(groups, 1))
    if order == "doubt":
        numbered.sort(key=lambda item: -item[1].doubt)
    strips = []
    for number, group in numbered[:ROWS]:
        copies = group.copies[:COLUMNS]
        pictures = [square(*images.at(copy.row)[1:], TILE, "stretch") for copy in copies]
        names = ", ".join(shown(name, 20) for name in _classes(group, images)[:3])
        label = f"{number}: {names or 'images'} ({len(group.copies):,})"
        captions = [_caption(copy, images) for copy in copies]
        strips.append(Strip(label, [p for p in pictures if p is not None], captions))
    write_sheet(path, strips)


def _caption(copy: Copy, images: Catalogue) -> str:
    part = images.at(copy.row)[0]
    distance = "" if copy.kind not in SEARCHED else f" {copy.distance:.2g}"
    return f"{part if part != 'all' else ''} {copy.kind}{distance}".strip()


def _facts(images: Catalogue, groups: list[Group], broken: list[str]) -> dict[str, Any]:
    """Return what was found in numbers, JSON. A leak is a group with images on both sides of training and held out."""
    kinds = Counter(copy.kind for group in groups for copy in group.copies if copy.kind != "kept")
    conflicts = [number for number, group in enumerate(groups, 1) if len(_classes(group, images)) > 1]
    return {
        "images": {part: len(source) for part, source in images.parts},
        "groups": len(groups),
        "grouped": sum(len(group.copies) for group in groups),
        "largest": len(groups[0].copies) if groups else 0,
        "copies": dict(kinds.most_common()),
        "leaks": [number for number, group in enumerate(groups, 1) if len(_sides(group, images)) > 1],
        "split_leaks": _split_leaks(images, groups),
        "conflicts": conflicts,
        "chains": [number for number, group in enumerate(groups, 1) if group.chain],
        "broken": broken,
    }


def _split_leaks(images: Catalogue, groups: list[Group]) -> list[int]:
    """Return the groups that training would have on both sides, where it splits the images itself."""
    if len(images.parts) > 1:
        return []
    source = images.parts[0][1]
    try:
        _, val = split_by_fraction(source, _VAL_FRACTION)
    except DataError:
        return []
    held_out = set(val.names)
    sides = [{source.names[row] in held_out for row in group.rows} for group in groups]
    return [number for number, both in enumerate(sides, 1) if len(both) > 1]


def _rows(images: Catalogue, groups: list[Group], facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the lines that are shown, by their headings."""
    yield "images", ", ".join(f"{n:,}" + f" in {part}" * (part != "all") for part, n in facts["images"].items())
    if facts["broken"]:
        yield "broken", f"{len(facts['broken']):,} left aside: {listed(facts['broken'], len(facts['broken']))}"
    if not groups:
        return
    yield "in groups", f"{facts['grouped']:,} images; the largest group has {facts['largest']:,}"
    for kind, words in _WORDS.items():
        if count := facts["copies"].get(kind):
            yield kind, f"{count:,} {words}"
    yield (
        "left out",
        f"{facts['left_out']:,} of {len(images):,} ({facts['left_out'] / len(images):.2%}) would be, to keep one of each",
    )
    if leaks := facts["leaks"]:
        yield (
            "leaks",
            f"{len(leaks):,} groups with images both for training and held out: {_examples(leaks, groups, images)}",
        )
    if leaks := facts["split_leaks"]:
        yield (
            "leaks",
            f"{len(leaks):,} groups would be on both sides of training's own split: {_examples(leaks, groups, images)}",
        )
    if conflicts := facts["conflicts"]:
        some = "; ".join(_conflict(groups[number - 1], images) for number in conflicts[:3])
        more = f"; and {len(conflicts) - 3:,} more" if len(conflicts) > 3 else ""
        yield "labels", f"{len(conflicts):,} groups with several classes: {some}{more}"
    if chains := facts["chains"]:
        yield (
            "chains",
            f"{len(chains):,} groups, such as group {chains[0]}, hold images that are alike only by way of others",
        )


_WORDS = {
    "bytes": "files equal to one that is kept",
    "pixels": "with the same pixels in another file",
    "hash": "that look like one that is kept",
    "mirrored": "that look like the mirror image of one that is kept",
    "features": "whose features are near those of one that is kept",
}


def _examples(numbers: list[int], groups: list[Group], images: Catalogue) -> str:
    return ", ".join(shown(images.name(groups[number - 1].rows[0])) for number in numbers[:2]) + " …" * (
        len(numbers) > 2
    )


def _conflict(group: Group, images: Catalogue) -> str:
    """Name one image of each class in a group."""
    by_class = {images.class_name(row): row for row in reversed(group.rows)}
    return " = ".join(shown(images.name(row)) for _, row in sorted(by_class.items(), key=lambda item: item[1]))
