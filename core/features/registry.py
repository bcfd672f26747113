"""The table of feature extractors: a new one is a module, its name in `settings.py`, and a line here."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from ..errors import ConfigError
from . import classifier, inception, lenet, mobilenet, transformers
from .extractor import INCEPTION, Extractor
from .settings import ExtractorName


class Entry(NamedTuple):
    """How an extractor is opened with its weights on a device, and where to get weights."""

    open: Callable[[Path, torch.device], Extractor]
    remedy: str


EXTRACTORS: dict[ExtractorName, Entry] = {
    "classifier": Entry(classifier.open_classifier, classifier.REMEDY),
    "mobilenet-v2": Entry(mobilenet.open_mobilenet, mobilenet.REMEDY),
    "inception": Entry(inception.open_inception, inception.REMEDY),
    "lenet": Entry(lenet.open_lenet, lenet.REMEDY),
    "transformers": Entry(transformers.open_transformers, transformers.REMEDY),
}


def open_extractor(
    name: str, weights: Path | None = None, device: torch.device | str = "cpu", download: bool = False
) -> Extractor:
    """Open an extractor by its name, with weights from a local file or folder.

    download: fetch the weights of `inception` when they are not there. Raises ConfigError for an unknown name, missing
    packages or no path; DataError naming the file for weights that are missing, damaged or other.
    """
    entry = next((entry for known, entry in EXTRACTORS.items() if known == name), None)
    if entry is None:
        raise ConfigError(f"unknown feature extractor {name!r}", f"choose one of {', '.join(EXTRACTORS)}")
    if download:
        if name != INCEPTION:
            raise ConfigError(f"the weights of {name} cannot be downloaded", f"{entry.remedy}; or take {INCEPTION}")
        weights = inception.downloaded(weights)
    if weights is None:
        raise ConfigError(f"the {name} extractor needs its weights", entry.remedy)
    return entry.open(weights, torch.device(device))
