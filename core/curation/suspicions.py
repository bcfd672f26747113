"""Labels that names speak against: a file named after another class than its own, and classes that are one by name."""

import re
from collections import Counter
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ..images.dataset import ImageSource

_LEAST = 3  # letters of a word that can speak for a class: "a1.png" says nothing of a class A


@dataclass(frozen=True)
class Suspicion:
    """An image of the class `own`, whose file's name holds the name of the class `other`."""

    name: str
    own: str
    other: str


def suspicious_labels(source: ImageSource) -> list[Suspicion]:
    """Find images whose file is named after another class, as class name or folder, and not after their own."""
    spoken = _words_of_classes(source)
    if len(source.class_names) < 2 or not spoken:
        return []
    longest = max(len(words) for words in spoken)
    found = []
    for name, label in zip(source.names, source.labels.tolist(), strict=True):
        words = _words(name.rpartition("/")[2].rpartition(".")[0])
        runs = {words[i:j] for i, j in combinations(range(len(words) + 1), 2) if j - i <= longest}
        classes = {spoken[run] for run in runs & spoken.keys()}
        if classes and label not in classes:
            found.append(Suspicion(name, source.class_names[label], source.class_names[min(classes)]))
    return found


def similar_classes(class_names: tuple[str, ...]) -> list[tuple[str, str]]:
    """Find pairs of classes whose names differ in case, punctuation or a final s only."""
    first: dict[str, str] = {}
    pairs = []
    for name in class_names:
        key = "".join(_words(name)).removesuffix("s") or name
        if key in first and not key.isdecimal():
            pairs.append((first[key], name))
        first.setdefault(key, name)
    return pairs


def _words_of_classes(source: ImageSource) -> dict[tuple[str, ...], int]:
    """Map what a class is called, by name or folder, to the class; what two classes are called is left out."""
    said: dict[tuple[str, ...], set[int]] = {}
    for label, class_name in enumerate(source.class_names):
        said.setdefault(_words(class_name), set()).add(label)
    for folder, label in _folders(source):
        said.setdefault(_words(folder), set()).add(label)
    return {
        words: labels.pop()
        for words, labels in said.items()
        if len(labels) == 1 and len("".join(words)) >= _LEAST and not "".join(words).isdecimal()
    }


def _folders(source: ImageSource) -> list[tuple[str, int]]:
    """Pair each folder that holds all images of one class, and no others, with the class."""
    held: Counter[tuple[str, int]] = Counter()
    for name, label in zip(source.names, source.labels.tolist(), strict=True):
        held.update((folder, label) for folder in set(name.split("/")[:-1]))
    totals = np.bincount(source.labels, minlength=len(source.class_names))
    classes = Counter(folder for folder, _ in held)
    return [(folder, label) for (folder, label), n in held.items() if classes[folder] == 1 and n == totals[label]]


def _words(text: str) -> tuple[str, ...]:
    """Split a name into words, at whatever is neither letter nor digit, and between letters and digits."""
    return tuple(re.findall(r"[^\W\d_]+|\d+", text.lower()))
