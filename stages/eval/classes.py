"""How a classifier reads samples, class by class, and beside it how it reads real images that nothing was trained on.

Legend of shapes: N images, K classes of the classifier.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...core.errors import ConfigError
from ...core.features.classifier import warn_if_weak
from ...core.features.extractor import Extractor, Features, extract
from ...core.figures import matrices
from ...core.images.decode import write_png
from ...core.images.sets import image_loader
from ...core.images.settings import Data
from ...core.metrics.evaluate import class_accuracy, class_columns
from ...core.metrics.inputs import held_out_images, image_batches
from ...core.progress import Progress
from ...core.runs.run import StageRun
from ..configs import Eval

CONFUSION = "confusion.png"


@dataclass(frozen=True)
class Read:
    """Images as a classifier reads them.

    own, read_as: int64 (N,), its index of each image's class, and of the one that it takes the image to be of.
    accuracy: as `class_accuracy` has it.
    """

    own: np.ndarray
    read_as: np.ndarray
    accuracy: dict[str, float]

    def __len__(self) -> int:
        return len(self.own)


def read(features: Features, labels: np.ndarray, columns: Sequence[int], extractor: Extractor) -> Read:
    """Return how images are read. labels: int64 (N,), of the classes whose logits are `columns`; -1 is left out."""
    counted = labels >= 0
    own, read_as = np.asarray(columns)[labels[counted]], features.logits.argmax(1).cpu().numpy()[counted]
    return Read(own, read_as, class_accuracy(features.logits, torch.from_numpy(labels), columns, extractor.name))


def read_held_out(
    config: Eval,
    reader: StageRun,
    data: Data,
    extractor: Extractor,
    classes: Collection[int],
    progress: Progress,
    seen: dict[str, Features] | None,
) -> Read | None:
    """Read the run's held-out images of some of the extractor's classes; None where there are none.

    Warns where too few of them are read as their class. seen: features that one process has already, by what they are.
    """
    images = held_out_images(config, reader, progress)
    if images is None or extractor.class_names is None:
        return None
    try:
        columns = class_columns(images.class_names, extractor.class_names)
    except ConfigError:  # A classifier of other classes than the run's.
        return None
    rows = np.flatnonzero(np.isin(np.asarray(columns)[images.labels], list(classes)))
    if not len(rows):
        return None
    loader = image_loader(images.subset(rows), data, "held-out", progress, keep=data.on_error == "skip")
    known, key = (seen if seen is not None else {}), f"held out, {extractor.name}: {sorted(classes)}"
    if key not in known:
        known[key] = extract(extractor, image_batches(loader, config, progress, "held-out images"))
    found = read(known[key], loader.labels, columns, extractor)
    warn_if_weak(found.accuracy[f"class_accuracy[{extractor.name}]"], extractor.name, progress)
    return found


def by_class(
    names: Sequence[str], columns: Sequence[int], samples: Read, held_out: Read | None
) -> dict[str, dict[str, Any]]:
    """Return for each class that samples are of, by name, the number of images and the share read as it, JSON."""
    rows: dict[str, dict[str, Any]] = {}
    for name, column in zip(names, columns, strict=True):
        for of, each in (("samples", samples), ("held_out", held_out)):
            own = each.read_as[each.own == column] if each is not None else np.empty(0)
            if len(own):
                rows.setdefault(name, {})[of] = {"images": len(own), "accuracy": float((own == column).mean())}
    return {name: row for name, row in rows.items() if "samples" in row}


def draw_confusion(folder: Path, names: Sequence[str], samples: Read, held_out: Read | None) -> list[str]:
    """Draw which class the images of each class are read as, samples beside held-out real images.

    names: of the extractor's classes, which are those of the samples.
    """
    shown = {"samples": samples} | ({} if held_out is None else {"held-out real images": held_out})
    shares = {}
    for title, each in shown.items():
        counts = np.zeros((len(names),) * 2)
        np.add.at(counts, (each.own, each.read_as), 1)
        shares[title] = counts / counts.sum(1, keepdims=True).clip(min=1)
    write_png(folder / CONFUSION, matrices(shares, names, "read as", "own class"))
    return [CONFUSION]
