"""What a stage loads before it does its work: the libraries that it needs, and none that take seconds besides."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.support.pipeline_run import Pipeline

SLOW = ("torch._dynamo", "torch._inductor", "sympy", "torch.distributed.fsdp", "diffusers", "matplotlib", "webdataset")
SELDOM = ("scipy", "pandas", "torch.utils.tensorboard")
LOADED = f"import json, sys; print(json.dumps([name for name in {SLOW + SELDOM!r} if name in sys.modules]))"


def loaded_after(code: str) -> list[str]:
    """Run code in a new process, and return which of the slow libraries it has loaded."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", f"{code}\n{LOADED}"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_stages_are_imported_without_the_compiler_and_without_what_few_runs_use() -> None:
    stages = ("train_autoencoder", "encode", "train_denoiser", "sample")
    assert loaded_after(f"from ldm.stages import {', '.join(stages)}") == []


@pytest.mark.parametrize("command", ["encode", "sample"])
def test_a_stage_that_compiles_nothing_runs_without_the_compiler(command: str, copied: Pipeline) -> None:
    if command == "encode":
        shutil.rmtree(copied.folder / "latents")
    settings = ["--name", copied.name, "--runs-dir", str(copied.runs_dir), "--device", "cpu", "--precision", "bf16"]
    few = ["--steps", "2", "--count", "1"] if command == "sample" else []
    found = loaded_after(f"from ldm.cli.main import run\nassert run({[command, *settings, *few]!r}) == 0")
    assert found == []
    assert list(copied.folder.glob("latents/shard-*.tar" if command == "encode" else "samples/*/000000.png"))
