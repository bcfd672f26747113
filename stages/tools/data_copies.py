"""What `ldm data dedup` reports of the groups it found: in words, in numbers, as a list, and as a picture."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core import files
from ...core.curation.contact_sheet import Strip, packed, square, write_sheet
from ...core.curation.duplicates import Copy, Group
from ...core.curation.near import SEARCHED
from ...core.errors import DataError
from .data_parts import Catalogue, counted, listed, own_split, shown

COLUMNS, ROWS, TILE = 8, 12, 128  # of the contact sheet, and the side of its images, pixels
_OFTEN = 0.05  # the share of images that look like others from which on they are rather alike by nature
_FOUND_BY = {
    "bytes": "files equal to one that is kept",
    "pixels": "with the pixels of one that is kept, in another file",
    "hash": "that look like one that is kept",
    "mirrored": "that look like the mirror image of one that is kept",
    "features": "whose features are near those of one that is kept",
}
_PROBLEMS = (
    ("leaks", "leaks", "with images of several parts"),
    ("split_leaks", "leaks", "on both sides of training's own split"),
    ("conflicts", "labels", "with several classes"),
)


@dataclass(frozen=True)
class Copies:
    """Groups of copies among all images; a group is known by its number, from 1."""

    images: Catalogue
    groups: list[Group]
    broken: list[str]

    def numbered(self) -> Iterator[tuple[int, Group]]:
        return enumerate(self.groups, 1)

    def classes(self, group: Group) -> list[str]:
        """Return the names of the classes that a group's images have."""
        return sorted({name for row in group.rows if (name := self.images.class_name(row)) is not None})

    def left_out(self, drop_conflicts: bool) -> list[str]:
        """Name the images to leave out: all but the kept ones; with `drop_conflicts` all of a group of two classes."""
        rows = []
        for group in self.groups:
            keep_none = drop_conflicts and len(self.classes(group)) > 1
            rows += [copy.row for copy in group.copies if keep_none or copy.kind != "kept"]
        return [self.images.name(row) for row in rows]

    def facts(self, drop_conflicts: bool) -> dict[str, Any]:
        """Return what was found in numbers, JSON; of leaks, conflicts and chains the groups' numbers.

        leaks: groups with images in several parts; split_leaks: that would be on both sides, where training splits
        the images itself.
        """
        kinds = Counter(copy.kind for group in self.groups for copy in group.copies if copy.kind != "kept")
        parts = [{self.images.at(row)[0] for row in group.rows} for group in self.groups]
        return {
            "images": {part: len(source) for part, source in self.images.parts},
            "groups": len(self.groups),
            "grouped": sum(len(group.copies) for group in self.groups),
            "largest": max((len(group.copies) for group in self.groups), default=0),
            "copies": dict(kinds.most_common()),
            "left_out": len(self.left_out(drop_conflicts)),
            "leaks": [number for number, of_group in enumerate(parts, 1) if len(of_group) > 1],
            "split_leaks": self._split_leaks(),
            "conflicts": [number for number, group in self.numbered() if len(self.classes(group)) > 1],
            "chains": [number for number, group in self.numbered() if group.chain],
            "broken": self.broken,
        }

    def _split_leaks(self) -> list[int]:
        if len(self.images.parts) > 1 or not self.groups:
            return []
        source = self.images.parts[0][1]
        try:
            _, val = own_split(source)
        except DataError:  # Too few images for a split: `ldm data inspect` says so.
            return []
        held_out = set(val.names)
        sides = [{source.names[row] in held_out for row in group.rows} for group in self.groups]
        return [number for number, both in enumerate(sides, 1) if len(both) > 1]

    def rows(self, facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """Yield the lines that are shown, by their headings."""
        total = len(self.images)
        yield "images", counted(self.images.parts)
        if self.broken:
            yield "broken", f"{len(self.broken):,} left aside: {listed(self.broken, len(self.broken))}"
        if not self.groups:
            return
        yield "in groups", f"{facts['grouped']:,} images; the largest group has {facts['largest']:,}"
        for kind, words in _FOUND_BY.items():
            if count := facts["copies"].get(kind):
                yield kind, f"{count:,} {words}"
        yield "to leave out", f"{facts['left_out']:,} of {total:,}, {facts['left_out'] / total:.2%}"
        for key, heading, words in _PROBLEMS:
            if numbers := facts[key]:
                yield heading, f"{len(numbers):,} groups {words}: {self._examples(numbers, key == 'conflicts')}"
        if numbers := facts["chains"]:
            why = "hold images that are alike only by way of others; both are kept"
            yield "chains", f"{len(numbers):,} groups, the first is group {numbers[0]}, {why}"
        if facts["chains"] or facts["copies"].get("hash", 0) > _OFTEN * total:
            why = "groups hang together by chains" if facts["chains"] else "many images look like others"
            look = "look at them with `sheet=FILE` `sheet_order=doubt` before you use a list"
            yield "doubt", f"{why}, as bursts and as different images of one kind do: {look}, or raise `detail`"

    def _examples(self, numbers: list[int], by_class: bool = False, limit: int = 3) -> str:
        """Name two images of each of the first groups: of two parts, or of two classes."""
        pairs = []
        for number in numbers[:limit]:
            found: dict[object, int] = {}
            for row in self.groups[number - 1].rows:
                found.setdefault(self.images.class_name(row) if by_class else self.images.at(row)[0], row)
            rows = [*found.values()][:2] if len(found) > 1 else self.groups[number - 1].rows[:2]
            pairs.append(" = ".join(shown(self.images.name(row)) for row in rows))
        return "; ".join(pairs) + (f"; and {len(numbers) - limit:,} more" if len(numbers) > limit else "")

    def write_list(self, path: Path) -> None:
        """Write a line for each image in a group, JSON or CSV by the path's name. No groups make an empty list."""
        lines = [self._line(number, copy) for number, group in self.numbered() for copy in group.copies]
        if path.suffix.lower() == ".jsonl":
            files.write_bytes(path, "".join(json.dumps(line) + "\n" for line in lines).encode())
            return
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, ["group", "keep", "kind", "distance", "likeness", "of", "class", "part", "name"])
        writer.writeheader()
        writer.writerows(lines)
        files.write_bytes(path, text.getvalue().encode("utf-8", "surrogateescape"))

    def _line(self, number: int, copy: Copy) -> dict[str, Any]:
        return {
            "group": number,
            "keep": copy.kind == "kept",
            "kind": copy.kind,
            "distance": round(copy.distance, 5),
            "likeness": round(copy.likeness, 5),
            "of": None if copy.of is None else self.images.name(copy.of),
            "class": self.images.class_name(copy.row),
            "part": self.images.at(copy.row)[0],
            "name": self.images.name(copy.row),
        }

    def write_sheet(self, path: Path, order: str) -> None:
        """Draw some groups, a row each, those kept first, each copy with what it was found by.

        order: "size" the largest groups first, "doubt" those with the least alike copies.
        """
        numbered = [*self.numbered()]
        if order == "doubt":
            numbered.sort(key=lambda item: -item[1].doubt)
        strips = []
        for number, group in numbered[: COLUMNS * ROWS]:
            chosen = _ends(group, COLUMNS)
            pictures = [(square(*self.images.at(copy.row)[1:], TILE, "stretch"), copy) for copy in chosen]
            # A file that has gone meanwhile leaves no hole for the next one's caption.
            there = [(image, self._caption(number, copy, chosen[0])) for image, copy in pictures if image is not None]
            if there:
                strips.append(Strip("", *zip(*there, strict=True)))
        if strips:
            write_sheet(path, packed(strips, COLUMNS, ROWS))

    def _caption(self, number: int, copy: Copy, first: Copy) -> str:
        """Say what an image was found by; its class and part on the first of a group, and where they are others."""
        (part, *_), class_name = self.images.at(copy.row), self.images.class_name(copy.row) or ""
        (its_part, *_), its_class = self.images.at(first.row), self.images.class_name(first.row) or ""
        if copy is first:
            words = [f"{number}:", class_name, part if len(self.images.parts) > 1 else ""]
        else:
            distance = f"{copy.distance:.2g}" if copy.kind in SEARCHED else ""
            kind = copy.kind if copy.kind != "hash" else "bits"
            words = [kind, distance, class_name if class_name != its_class else "", part if part != its_part else ""]
        return " ".join(filter(None, words))


def _ends(group: Group, count: int) -> list[Copy]:
    """Return a kept image, and of the others those least like what they are copies of."""
    first, *others = group.copies
    return [first, *sorted(others, key=lambda copy: copy.likeness)[: count - 1]]
