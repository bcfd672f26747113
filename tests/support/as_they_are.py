"""Images that are not squares of RGB, with all that may lie beside them: masks, labels and numbers."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.support.pipeline_run import Pipeline, write_squares

HEIGHT, WIDTH = 16, 24
DATA: dict[str, Any] = {"image_size": HEIGHT, "image_width": WIDTH, "channels": 1, "masks": True, "val_fraction": 0.25}


def write_images(folder: Path) -> Path:
    """Write squares of three classes; masks of two, and a `labels.csv` with labels, some of them two, and a number."""
    write_squares(folder, per_class=12)
    mask = np.zeros((20, 20), np.uint8)
    mask[:, :10] = 255
    lines = ["file,labels,age"]
    for path in sorted(folder.glob("*/*.png")):
        number = int(path.stem)
        labels = {"blue": "cat", "green": "cat;outdoor" if number % 2 else "outdoor", "red": "red"}[path.parent.name]
        lines.append(f"{path.relative_to(folder).as_posix()},{labels},{10 + number}")
        if path.parent.name != "blue":
            Image.fromarray(mask).save(path.with_name(f"{path.stem}-mask.png"))
    (folder / "labels.csv").write_text("\n".join(lines))
    return folder


def train(root: Path) -> Pipeline:
    """Train a run of such images in one channel, conditioned on their labels and number."""
    pipeline = Pipeline(root / "runs", write_images(root / "squares"))
    pipeline.run("train-vqvae", data={"source": str(pipeline.images), **DATA})
    pipeline.run("encode", conditioning="attributes")
    return pipeline.through("train-dit")
