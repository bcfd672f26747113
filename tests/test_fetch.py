"""`recipes/imagenette.sh` fetches what its recipes name, once, and gives a file its name only when it is whole."""

import io
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from PIL import Image

from ldm.core.images.sources import open_splits
from ldm.core.settings.recipe_file import leaves

RECIPES = Path(__file__).parents[1] / "recipes"
CURL = """#!/bin/sh
while [ $# -gt 1 ]; do [ "$1" = --output ] && part=$2; shift; done
echo "$1" >> "$LOG"
case "$1" in $FAILS) printf half > "$part"; exit 22 ;; *.tgz) cp "$ARCHIVE" "$part" ;; *) echo whole > "$part" ;; esac
"""
pytestmark = pytest.mark.skipif(os.name != "posix", reason="a script of sh")


@pytest.fixture
def fetch(tmp_path: Path) -> Callable[..., int]:
    """Return the script as a function: which URLs fail → its exit status, with a `curl` that uses no network."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/curl").write_text(CURL)
    (tmp_path / "bin/curl").chmod(0o755)
    with tarfile.open(tmp_path / "archive.tgz", "w:gz") as archive:
        for part in ("train", "val"):
            for folder in ("n01440764", "n03888257"):
                file = io.BytesIO()
                Image.new("RGB", (8, 8)).save(file, "JPEG")
                entry = tarfile.TarInfo(f"imagenette2-160/{part}/{folder}/{part}-{folder}.JPEG")
                entry.size = len(file.getvalue())
                archive.addfile(entry, io.BytesIO(file.getvalue()))
    (tmp_path / "work").mkdir()
    where = {"LOG": str(tmp_path / "log"), "ARCHIVE": str(tmp_path / "archive.tgz")}

    def run(fails: str = "none") -> int:
        path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, **where, "FAILS": fails, "PATH": path}
        command = ["sh", str(RECIPES / "imagenette.sh")]
        return subprocess.run(command, cwd=tmp_path / "work", env=environment, capture_output=True).returncode

    return run


def test_all_that_the_recipes_name_is_fetched_once(fetch: Callable[..., int], tmp_path: Path) -> None:
    assert fetch() == 0 and fetch() == 0
    assert len((tmp_path / "log").read_text().split()) == 4
    for name in ("imagenette-64", "imagenette-64-kl", "imagenette-64-var", "imagenette-128"):
        values = dict(leaves(yaml.safe_load((RECIPES / f"{name}.yaml").read_text())))
        paths = [v for v in values.values() if isinstance(v, str) and v.startswith(("data/", "weights/"))]
        assert paths and all((tmp_path / "work" / path).exists() for path in paths), name
    train, val = open_splits(str(tmp_path / "work/data/imagenette2-224"))[:2]
    assert (len(train), len(val)) == (2, 2) and train.class_names == ("tench", "parachute")
    assert not list((tmp_path / "work").rglob("*.part")) and not list((tmp_path / "work").rglob("*.tgz"))


def test_a_file_that_was_not_whole_is_fetched_again(fetch: Callable[..., int], tmp_path: Path) -> None:
    assert fetch("*.tgz") == 22
    assert not (tmp_path / "work/data/imagenette2-224").exists()
    assert fetch("*backbone.pth") == 22
    assert not (tmp_path / "work/weights/lpips-squeeze/squeeze.backbone.pth").exists()
    assert fetch() == 0
    assert (tmp_path / "work/weights/lpips-squeeze/squeeze.backbone.pth").read_text() == "whole\n"
