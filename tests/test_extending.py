"""Whoever follows docs/extend.md has a network, a loss, a source of images and a metric of their own."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "extend.md"
PACKAGE = ("cli", "core", "ldm", "recipes", "stages")
SHORT = ("--images", "32", "--batch-size", "8", "--device", "cpu", "train.warmup=8")


@dataclass(frozen=True)
class Block:
    """A fenced block with a title: a file, or a change of one."""

    language: str
    path: str
    text: str


def titled_blocks() -> list[Block]:
    text = PAGE.read_text(encoding="utf-8")
    return [Block(*found) for found in re.findall(r'^```(python|diff) title="(.*?)"\n(.*?)^```$', text, re.M | re.S)]


def changed(before: str, block: Block) -> str:
    """Apply a diff: its lines without `+` have to stand together in the file, once."""
    lines = block.text.splitlines(keepends=True)
    old = "".join(line[1:] for line in lines if line[0] in " -")
    new = "".join(line[1:] for line in lines if line[0] in " +")
    assert before.count(old) == 1, f"{block.path} has {before.count(old)} times:\n{old}"
    return before.replace(old, new)


def apply_page(tree: Path) -> None:
    """Write the page's files into a copy of the package, and change its lines."""
    for block in titled_blocks():
        file = tree / block.path
        if block.language == "python":
            assert not file.exists(), f"{block.path} is there already"
            file.write_text(block.text, encoding="utf-8")
        else:
            file.write_text(changed(file.read_text(encoding="utf-8"), block), encoding="utf-8")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for folder in PACKAGE:
        shutil.copytree(ROOT / folder, tmp_path / "tree" / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "tree"


def test_every_example_is_at_most_fifty_lines_and_the_lines_to_change_are_there(tree: Path) -> None:
    apply_page(tree)
    files = [block for block in titled_blocks() if block.language == "python"]
    assert len(files) == 5 and all(len(block.text.splitlines()) <= 50 for block in files)


@pytest.mark.slow  # seven commands, each with its start
def test_the_examples_train_sample_and_measure(tree: Path, tmp_path: Path) -> None:
    apply_page(tree)
    environment = {**os.environ, "PYTHONPATH": str(tree), "GOMP_SPINCOUNT": "1000"}

    def ldm(*words: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "ldm", *words], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"ldm {' '.join(words)}\n{done.stdout}{done.stderr}"

    ldm("train-autoencoder", "--data", "shapes", "--image-size", "32", "--preset", "identity", "--device", "cpu")
    ldm("train-denoiser", "--preset", "conv-s", "model.num_convs=6", "--objective", "huber", *SHORT, "preview.every=0")
    ldm("train-classifier", *SHORT)
    ldm("sample", "--class", "square,disc", "--count", "24", "--steps", "3", "--label", "mine")
    ldm("eval", "--samples", "mine")
    ldm("verify", "runs/default")

    # What was trained is the page's network with the page's loss; the number is between one image and all of them.
    manifest = json.loads((tmp_path / "runs/default/denoiser/manifest.json").read_text())
    config = json.loads((tmp_path / "runs/default/denoiser/final/config.json").read_text())
    assert (config["kind"], config["config"]["num_convs"]) == ("conv", 6)
    assert manifest["config"]["diffusion"]["objective"] == "huber"
    numbers = json.loads((tmp_path / "runs/default/eval/mine/metrics.json").read_text())["numbers"]
    assert 1 <= numbers["vendi_score[classifier]"] <= 48


def test_the_metric_counts_images_that_differ() -> None:
    module: dict[str, Any] = {}
    exec(next(block.text for block in titled_blocks() if block.path.endswith("vendi.py")), module)
    different = torch.eye(6)
    same, doubled = different[:1].expand(6, 6), different.repeat(2, 1)
    scores = [module["vendi_score"](features) for features in (different, same, doubled)]
    assert scores == pytest.approx([6, 1, 6])
