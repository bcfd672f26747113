"""Write a run that is kept: `python -m tests.support.keep NAME`, from the checkout, when a schema or a kind is new.

The smallest of everything, made under relative paths, without pictures and locks. It stays for good: later versions
must load it, or refuse it with what to do.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import torch

from ldm.core.runs import run
from tests.support.pipeline_run import Pipeline, write_squares

OLD_FILES = Path(__file__).resolve().parents[1] / "promises" / "old_files"
SMALLEST = {
    "train-autoencoder": {
        "model": {"channels": 8, "channel_multipliers": (1, 1), "codebook_size": 8},
        "train": {"images": 8, "batch_size": 8, "checkpoint_every": 8},
    },
    "encode": {"shard_size": 8},
    "train-denoiser": {
        "model": {"preset": "dit-xs", "width": 8, "depth": 1, "heads": 1},
        "train": {"images": 8, "batch_size": 8, "checkpoint_every": 8},
        "preview": {"every": 0},
    },
    "sample": {"label": "some", "num": 1, "steps": 2},
}
LEFT_OUT = ("*/.lock", "samples/*/.lock", "*/loss.png", "*/reconstructions")


def keep(name: str) -> Path:
    """Make the run in a temporary folder and move it beside the others."""
    torch.set_num_threads(1)
    made = run.provenance()
    run.provenance = lambda: {
        **made,
        "argv": sys.argv,
        "platform": "any",
        "git": None,
    }  # The machine is no part of the format.
    kept = OLD_FILES / name
    assert not kept.exists(), f"{kept} is kept already"
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        pipeline = Pipeline(Path("runs"), write_squares(Path("squares"), per_class=5), name="kept")
        for command, settings in SMALLEST.items():
            sys.argv = ["ldm", command]
            pipeline.run(command, **settings)
        for pattern in LEFT_OUT:
            for path in pipeline.folder.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(pipeline.folder, kept)
        os.chdir(OLD_FILES)
    return kept


if __name__ == "__main__":
    print(keep(sys.argv[1]))
