"""What several GPUs say to each other."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.on_a_gpu import FP32, ON_GPU, SLOW_ON_A_CPU, STEPS, run
from tests.support.several import environment, ranked

ROOT = Path(__file__).parents[2]


def together(size: int, folder: Path, *words: str) -> None:
    """Run so many processes of `one_of_several.py`, each a fresh one: a GPU does not outlive a fork."""
    surroundings = environment(size)
    program = [sys.executable, "-m", "tests.support.one_of_several", str(folder), *words]
    started = [
        subprocess.Popen(
            program, cwd=ROOT, env={**os.environ, **ranked(surroundings, rank)}, stderr=subprocess.PIPE, text=True
        )
        for rank in range(size)
    ]
    reported = [process.communicate(timeout=300)[1] for process in started]
    assert [process.returncode for process in started] == [0] * size, "\n".join(reported)


@SLOW_ON_A_CPU
def test_what_several_gpus_say_to_each_other_can_be_said_by_one_to_itself(tmp_path: Path) -> None:
    together(1, tmp_path)


@SLOW_ON_A_CPU
@pytest.mark.parametrize("words", [(), ("--shard",)], ids=["averaged", "sharded"])
@pytest.mark.skipif(ON_GPU and torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_have_the_losses_of_one(tmp_path: Path, words: tuple[str, ...]) -> None:
    together(2, tmp_path, *words)
    lines = [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    run(tmp_path / "alone", FP32)
    alone = [json.loads(text) for text in (tmp_path / "alone" / "metrics.jsonl").read_text().splitlines()]
    found, expected = ([line["loss"] for line in each if "loss" in line] for each in (lines, alone))
    assert len(found) == STEPS and found == pytest.approx(expected, rel=1e-3)
