"""The stages in two processes: the same files as in one, and one end for both."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from ldm.core.errors import Stopped
from ldm.core.files import TEMPORARY
from ldm.core.images.decode import write_png
from ldm.core.pipeline import writing
from ldm.core.progress import Silent
from ldm.core.training import sharding  # noqa: F401 - loaded here once, not in every process
from ldm.stages.table import STAGES
from tests.support.pipeline_run import Heard, Pipeline, pngs
from tests.support.several import environment, ranked, run_together

ROOT = Path(__file__).parents[2]
_ROOM = 600  # bytes a file: enough for what a process says, and less than an image


def together(pipeline: Pipeline, command: str, **changes: Any) -> list[int]:
    """Run a stage in two processes and return their exit codes."""
    config = pipeline.config(command, **changes)

    def work(rank: int) -> None:
        STAGES[command].load().run(config, Silent())

    return run_together(2, work)


def losses(folder: Path) -> list[float]:
    lines = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


class Hooked(Heard):
    """Calls what a test asks for as a work starts, or as it advances."""

    def __init__(self, on_start: Callable[[], None] | None = None, on_update: Callable[[], None] | None = None) -> None:
        super().__init__()
        self.on_start, self.on_update = on_start, on_update

    def start(self, title: str, total: int, unit: str, done: int = 0) -> None:
        super().start(title, total, unit, done)
        if self.on_start is not None:
            self.on_start()

    def update(self, *args: Any, **values: Any) -> None:
        super().update(*args, **values)
        if self.on_update is not None:
            self.on_update()


@pytest.mark.parametrize("size, batch", [(1, 2), (1, 64), (2, 2)])
def test_a_disk_that_fills_as_images_are_written_ends_sampling_and_is_reported_once(
    size: int, batch: int, copied: Pipeline, capfd: pytest.CaptureFixture[str]
) -> None:
    config = copied.config("sample", num=4, batch_size=batch, label="some")

    def work(rank: int) -> None:
        def fill() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (_ROOM, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

        STAGES["sample"].load().run(config, Hooked(on_start=fill if rank == size - 1 else None))

    assert run_together(size, work) == [2] * size
    reported = [line for line in capfd.readouterr().err.splitlines() if "disk: cannot write" in line]
    assert len(reported) == 1 and f"{copied.folder / 'samples' / 'some'}" in reported[0] and ".png" in reported[0]
    folder = copied.folder / "samples" / "some"
    assert not (folder / "grid.png").exists() and not list(folder.glob(f"{TEMPORARY}*"))
    copied.run("sample", num=4, batch_size=batch, label="some")
    assert pngs(folder) == pngs(copied.run("sample", num=4, label="whole").directory)


def test_the_main_process_waits_for_the_images_that_others_still_write(
    copied: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = copied.config("sample", num=2, batch_size=8, label="some")

    def work(rank: int) -> None:
        if rank == 1:
            monkeypatch.setattr(writing, "write_png", lambda *of: (time.sleep(0.3), write_png(*of)))
        STAGES["sample"].load().run(config, Silent())

    assert run_together(2, work) == [0, 0]
    assert pngs(copied.folder / "samples" / "some") == pngs(copied.run("sample", num=2, label="alone").directory)


def test_sampling_that_is_stopped_has_written_what_it_says(copied: Pipeline) -> None:
    progress = Hooked(on_update=lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped, match="stopped by SIGTERM after 4 images"):
        copied.run("sample", progress, num=3, batch_size=2, label="some")
    assert len(list((copied.folder / "samples" / "some").glob("0*.png"))) == 4


def test_two_processes_make_the_pipeline_of_one(trained: Pipeline, tmp_path: Path) -> None:
    pair = Pipeline(tmp_path, trained.images)
    for command, folder in (("train-vqvae", "vqvae"), ("train-dit", "dit")):
        if command == "train-dit":  # From the same latents, to the bit.
            shutil.rmtree(pair.folder / "vqvae")
            shutil.copytree(trained.folder / "vqvae", pair.folder / "vqvae")
            assert together(pair, "encode") == [0, 0]
            ours, theirs = (
                {p.name: p.read_bytes() for p in (run.folder / "latents").glob("*.[ts]a*")} for run in (pair, trained)
            )
            assert ours == theirs and len(ours) > 3
        assert together(pair, command) == [0, 0]
        assert losses(pair.folder / folder) == pytest.approx(losses(trained.folder / folder), rel=0, abs=1e-6)
    assert together(pair, "train-dit") == [0, 0], "it is complete"
    shutil.rmtree(pair.folder / "dit")
    shutil.copytree(trained.folder / "dit", pair.folder / "dit")
    settings = {"classes": "all", "num": 3, "label": "some"}
    alone = trained.run("sample", **settings).directory
    assert together(pair, "sample", **settings) == [0, 0]
    assert pngs(pair.folder / "samples" / "some") == pngs(alone) and len(pngs(alone)) == 9


def test_two_processes_that_shard_make_the_denoiser_of_one(copied: Pipeline, trained: Pipeline, tmp_path: Path) -> None:
    alone = trained.copy(tmp_path / "alone")
    alone.run("train-dit", replace=True, train__optimizer="adamw")
    shutil.rmtree(copied.folder / "dit")
    assert together(copied, "train-dit", train__shard=True) == [0, 0]
    ours, theirs = copied.folder / "dit", alone.folder / "dit"
    assert losses(ours) == pytest.approx(losses(theirs), rel=0, abs=1e-6)
    for name in ("final/model.safetensors", "checkpoints/0000000064/optimizer.safetensors"):
        mine, other = load_file(ours / name), load_file(theirs / name)
        assert mine.keys() == other.keys()
        assert all(torch.allclose(mine[key], tensor, rtol=0, atol=1e-5) for key, tensor in other.items())
    assert [path.name for path in sorted((ours / "samples").iterdir())] == ["0000000000.png", "0000000064.png"]
    assert pngs(copied.run("sample", num=2).directory).keys() == pngs(trained.run("sample", num=2).directory).keys()


def test_a_refusal_of_the_main_process_ends_both(copied: Pipeline, capfd: pytest.CaptureFixture[str]) -> None:
    assert together(copied, "train-dit", train__lr=2e-3) == [2, 2]
    reported = [line for line in capfd.readouterr().err.splitlines() if ": reported: " in line]
    assert len(reported) == 1 and "train.lr: 0.001 → 0.002" in reported[0]


@pytest.mark.parametrize("command", ["train-vqvae", "train-dit", "train-classifier"])
@pytest.mark.parametrize("begun", [False, True], ids=["new", "begun"])
def test_a_batch_that_cannot_be_shared_is_refused_before_anything_is_written(
    command: str, begun: bool, copied: Pipeline, capfd: pytest.CaptureFixture[str]
) -> None:
    if not begun:
        shutil.rmtree(copied.folder / STAGES[command].writes[0].name)
    before = {path: path.stat().st_mtime_ns for path in copied.folder.rglob("*")}
    assert together(copied, command, train__batch_size=6, train__accumulate=2, replace=True) == [2, 2]
    refusals = [line for line in capfd.readouterr().err.splitlines() if line.startswith("process ")]
    assert all("train.batch_size=6" in line and "give a multiple of 4" in line for line in refusals), refusals
    assert {path: path.stat().st_mtime_ns for path in copied.folder.rglob("*")} == before


def launch(words: list[str], cwd: Path) -> list[subprocess.CompletedProcess[str]]:
    """Run `ldm WORDS` in two processes of their own and return how each ended."""
    surroundings = environment(2)
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "ldm", *words],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(ROOT), **ranked(surroundings, rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    ended = []
    for process in started:
        out, err = process.communicate(timeout=120)
        ended.append(subprocess.CompletedProcess(words, process.returncode, out, err))
    return ended


def test_a_command_that_is_not_shared_is_refused_once(tmp_path: Path) -> None:
    first, second = launch(["eval"], tmp_path)
    assert first.returncode == second.returncode == 2
    assert "WORLD_SIZE is 2, but eval is the work of one process" in first.stderr and second.stderr == ""


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train-dit", "train-vqvae", "distill"])
def test_torchrun_trains_from_the_command_line(command: str, copied: Pipeline, tmp_path: Path) -> None:
    """Several trainings in a row, phases or students, meet anew for each."""
    several: dict[str, Any] = {"train-vqvae": {"phases": ("part=all", "part=head")}, "distill": {"first_steps": 2}}
    if command != "distill":
        shutil.rmtree(copied.folder / copied.config(command).kind)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        yaml.safe_dump({command: copied.config(command, **several.get(command, {})).model_dump(mode="json")})
    )
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words += ["-m", "ldm", command, "-c", str(recipe)]
    ended = subprocess.run(
        words, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count(f"ldm {command}: wrote") == 1


@pytest.mark.slow
@pytest.mark.promise("R8")
def test_two_nodes_of_one_process_each_train_as_one_process_does(
    trained: Pipeline, copied: Pipeline, tmp_path: Path
) -> None:
    """Two torchruns that meet as those of two machines do: each process is the first on its node."""
    shutil.rmtree(copied.folder / "dit")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"train-dit": copied.config("train-dit").model_dump(mode="json")}))
    endpoint = f"127.0.0.1:{environment(2)['MASTER_PORT']}"
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", endpoint, "--rdzv-id", "1", "--local-addr", "127.0.0.1"]
    command += ["-m", "ldm", "train-dit", "-c", str(recipe)]
    nodes = [
        subprocess.Popen(
            command,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    ended = [(*node.communicate(timeout=300), node.returncode) for node in nodes]
    assert [code for _, _, code in ended] == [0, 0], ended
    assert "".join(out for out, _, _ in ended).count("ldm train-dit: wrote") == 1
    assert losses(copied.folder / "dit") == pytest.approx(losses(trained.folder / "dit"), rel=0, abs=1e-6)
