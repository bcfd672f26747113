"""The language of the built-in scenes: what a caption of coloured digits says, and a caption for what is to be said.

`a large red three left of a blue seven on a green ground`, with any of size, colour and ground left out, or a count:
`three red sevens`. The evaluation reads prompts by the same grammar. Imports no torch.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations, product

import numpy as np

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PLURALS = (*(f"{word}s" for word in DIGITS[:6]), "sixes", "sevens", "eights", "nines")
COLOURS = {
    "red": (228, 40, 40),
    "yellow": (250, 214, 40),
    "green": (40, 190, 70),
    "blue": (60, 110, 255),
    "pink": (250, 110, 210),
    "white": (248, 248, 248),
}
GROUNDS = {"black": (12, 12, 12), "grey": (105, 105, 105), "brown": (80, 52, 26), "purple": (70, 20, 110)}
SIZES = ("small", "large")
RELATIONS = ("left of", "right of", "above", "below")
COUNTS = {"two": 2, "three": 3, "four": 4}
CATEGORIES = ("single object", "two objects", "counting", "colours", "position", "colour attribution")
"""Those of GenEval (Ghosh et al. 2023), table 2."""


@dataclass(frozen=True)
class Thing:
    """A digit, with its colour and size where they are said."""

    digit: int
    colour: str | None = None
    size: str | None = None


@dataclass(frozen=True)
class Scene:
    """One thing, `count` times, or two things, the first in a relation to the second where that is said."""

    things: tuple[Thing, ...]
    count: int = 1
    relation: str | None = None
    ground: str | None = None

    @property
    def category(self) -> str:
        """Which of the categories a prompt for it belongs to."""
        if self.count > 1:
            return "counting"
        if self.relation is not None:
            return "position"
        coloured = any(thing.colour for thing in self.things)
        if len(self.things) > 1:
            return "colour attribution" if coloured else "two objects"
        return "colours" if coloured else "single object"


def caption(scene: Scene) -> str:
    """Return what a scene says, in words."""
    if scene.count > 1:
        (thing,) = scene.things
        number = next(word for word, count in COUNTS.items() if count == scene.count)
        text = " ".join(filter(None, (number, thing.size, thing.colour, PLURALS[thing.digit])))
    else:
        text = f" {scene.relation or 'and'} ".join(map(_noun, scene.things))
    return f"{text} on {_article(scene.ground)} {scene.ground} ground" if scene.ground else text


def parse(text: str) -> Scene | None:
    """Return the scene that a caption describes; None for any other text."""
    words = " ".join(text.lower().strip(" .").split())
    if found := _COUNTED.fullmatch(words):
        thing = Thing(PLURALS.index(found["digits"]), found["colour"], found["size"])
        return Scene((thing,), COUNTS[found["count"]], ground=found["ground"])
    if found := _NAMED.fullmatch(words):
        first, second = (_thing(found, which) for which in ("1", "2"))
        things = tuple(thing for thing in (first, second) if thing is not None)
        relation = found["relation"] if found["relation"] != "and" else None
        return Scene(things, relation=relation, ground=found["ground"])
    return None


def prompts(each: int = 20) -> list[str]:
    """Return the prompts of the built-in evaluation: so many of each category, chosen evenly, always the same."""
    kinds = {scene.category: [] for scene in _all_prompts()}  # type: dict[str, list[str]]
    for scene in _all_prompts():
        kinds[scene.category].append(caption(scene))
    chosen = []
    for kind in CATEGORIES:
        order = np.random.Generator(np.random.Philox(key=CATEGORIES.index(kind))).permutation(len(kinds[kind]))
        chosen += [kinds[kind][row] for row in order[:each]]
    return chosen


def _all_prompts() -> Iterator[Scene]:
    """Yield every prompt of the six categories, in GenEval's forms."""
    plain = [Thing(digit) for digit in range(10)]
    coloured = [Thing(digit, colour) for digit, colour in product(range(10), COLOURS)]
    yield from (Scene((thing,)) for thing in (*plain, *coloured))
    yield from (Scene((thing,), count) for thing, count in product(plain, COUNTS.values()))
    for pair in permutations(plain, 2):
        yield Scene(pair)
        yield from (Scene(pair, relation=relation) for relation in RELATIONS)
    for first, second in permutations(coloured, 2):
        if first.digit != second.digit and first.colour != second.colour:
            yield Scene((first, second))


def _noun(thing: Thing) -> str:
    words = " ".join(filter(None, (thing.size, thing.colour, DIGITS[thing.digit])))
    return f"{_article(words)} {words}"


def _article(words: str | None) -> str:
    return "an" if words and words[0] in "aeiou" and not words.startswith("one") else "a"


def _thing(found: re.Match[str], which: str) -> Thing | None:
    digit = found[f"digit{which}"]
    return Thing(DIGITS.index(digit), found[f"colour{which}"], found[f"size{which}"]) if digit else None


def _pattern() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return the patterns of counted things, and of one or two that are named."""

    def one(name: str, words: object) -> str:
        return f"(?P<{name}>{'|'.join(words)})"  # type: ignore[arg-type]

    def noun(which: str) -> str:
        before = f"(?:{one(f'size{which}', SIZES)} )?(?:{one(f'colour{which}', COLOURS)} )?"
        return f"an? {before}{one(f'digit{which}', DIGITS)}"

    ground = f"(?: on an? {one('ground', GROUNDS)} ground)?"
    counted = f"{one('count', COUNTS)} (?:{one('size', SIZES)} )?(?:{one('colour', COLOURS)} )?{one('digits', PLURALS)}"
    pair = f"{noun('1')}(?: {one('relation', ('and', *RELATIONS))} {noun('2')})?"
    return re.compile(counted + ground), re.compile(pair + ground)


_COUNTED, _NAMED = _pattern()
