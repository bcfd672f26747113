"""R7, R9, R22: what a step does is a function of the seed and its place alone, and it is finite or not at all."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ldm.core.errors import Diverged, Stopped
from ldm.core.images import loader
from ldm.core.images.loader import ImageLoader, Preparation
from ldm.core.images.sources import open_source
from ldm.core.progress import Silent
from ldm.core.runs import checkpoint
from ldm.core.training.loop import Batch, train
from tests.support.launcher import Launcher
from tests.support.ledger import Trials
from tests.support.pipeline_run import Pipeline, pngs
from tests.support.plans import replace
from tests.support.regression import FP32, PLAN, Regression
from tests.support.small_runs import contents

NUM_SAMPLES, LEVEL = 40, 6
STEPS = NUM_SAMPLES // PLAN.batch_size  # of an epoch
TWO_EPOCHS = replace(PLAN, images=2 * NUM_SAMPLES, checkpoint_every=0, validate_every=0, picture_every=0, log_every=0)


class Watched(Regression):
    """The regression, on images that can be distinguished; remembers which ones each step was taken on."""

    num_samples = NUM_SAMPLES

    def __init__(self, images: ImageLoader) -> None:
        super().__init__()
        self.images = images
        self.taken: list[list[int]] = []

    def load(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, int]:
        shades = torch.from_numpy(self.images.batch(batch.samples)[:, 0, 0].astype(np.float32))
        return shades / LEVEL, shades[:, :2] / 255, batch.images_seen // PLAN.batch_size

    def loss(self, role: str, data: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        self.taken.append(data[0][:, 0].round().int().tolist())
        return super().loss(role, data)


@pytest.fixture(scope="module")
def shades(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of grey images, each of its own shade."""
    folder = tmp_path_factory.mktemp("shades")
    for number in range(NUM_SAMPLES):
        Image.new("RGB", (4, 4), (LEVEL * number,) * 3).save(folder / f"{number:02d}.png")
    return folder


def taken(folder: Path, images: ImageLoader, stop_at: int | None = None) -> list[list[int]]:
    """Train, or go on, to the end or up to a step at which a signal comes. Returns what each step was taken on."""
    task = Watched(images)
    task.signal_at = 2 * STEPS - 1 if stop_at is None else stop_at
    folder.mkdir(exist_ok=True)
    with pytest.raises(Stopped):
        train(task, TWO_EPOCHS, FP32, folder, Silent())
    return task.taken


@pytest.mark.promise("R7", quick=1, full=STEPS)
@pytest.mark.parametrize("workers", [0, 2, 4])
def test_a_training_stopped_at_any_step_of_an_epoch_goes_on_in_the_same_order(
    workers: int, trials: Trials, shades: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The images are decoded beforehand, or by so many threads as they are needed, the next batch ahead of its turn."""
    monkeypatch.setattr(loader, "num_workers", lambda: max(workers, 1))
    prepare = Preparation(image_size=4, cache_bytes=0 if workers else 1 << 20)
    images = ImageLoader(open_source(str(shades)), prepare)
    expected = np.array(taken(tmp_path / "whole", images)).reshape(2, NUM_SAMPLES)
    assert np.array_equal(np.sort(expected, axis=1), [np.arange(NUM_SAMPLES)] * 2), "every image once an epoch"
    assert not np.array_equal(expected[0], expected[1])
    for number, random in enumerate(trials):
        step = number if trials.full else int(random.integers(STEPS))
        before = taken(tmp_path / str(number), images, stop_at=step)
        after = taken(tmp_path / str(number), images)
        assert len(before) == step + 1
        assert np.array_equal(np.array(before + after).ravel(), expected.ravel())
    images.close()


@pytest.mark.promise("R9", quick=1, full=10)
@pytest.mark.parametrize("kind", ["nan_loss", "nan_gradient"])
def test_steps_that_are_not_finite_are_left_out_of_weights_average_and_optimizer(
    kind: str, trials: Trials, tmp_path: Path
) -> None:
    steps = PLAN.images // PLAN.batch_size
    plan = replace(PLAN, checkpoint_every=PLAN.batch_size, keep=steps, validate_every=0, picture_every=0)
    for number, random in enumerate(trials):
        task = Regression()
        bad = set(random.choice(np.arange(1, steps), int(random.integers(1, steps - 1)), replace=False).tolist())
        setattr(task, kind, bad)
        task.signal_at = steps - 1
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(Stopped):
            train(task, plan, FP32, folder, Silent())
        assert [step for step, accepted in enumerate(task.stepped_with) if not accepted] == sorted(bad)
        found = [state(folder, (step + 1) * PLAN.batch_size) for step in range(steps)]
        for step in range(1, steps):
            same = all(torch.equal(found[step][name], found[step - 1][name]) for name in found[step])
            assert same == (step in bad)
        newest = checkpoint.newest(folder, lambda message: pytest.fail(message))
        assert newest is not None and newest.state["guard"]["skipped"] == len(bad)
        assert newest.state["ema_updates"] == steps - len(bad)


def state(folder: Path, images: int) -> dict[str, torch.Tensor]:
    """Return all tensors of a checkpoint, and see that they are finite."""
    found: dict[str, torch.Tensor] = {}
    for path in sorted((folder / checkpoint.FOLDER / f"{images:010d}").glob("*.safetensors")):
        found |= {f"{path.stem}/{name}": tensor for name, tensor in load_file(path).items()}
    assert found and all(bool(tensor.isfinite().all()) for tensor in found.values())
    return found


@pytest.mark.promise("R9", quick=1, full=10)
def test_twenty_skips_in_a_hundred_steps_end_the_training(trials: Trials, tmp_path: Path) -> None:
    plan = replace(PLAN, images=200 * PLAN.batch_size, checkpoint_every=20, validate_every=0, picture_every=0)
    for number, random in enumerate(trials):
        task = Regression()
        start = int(random.integers(80))
        task.nan_loss = {start + int(step) for step in random.choice(100, 20, replace=False)}
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(Diverged, match="20 were not finite"):
            train(task, plan, FP32, folder, Silent())
        assert task.step == max(task.nan_loss)
        state(folder, int(max(path.name for path in (folder / checkpoint.FOLDER).iterdir())))


@pytest.mark.promise("R9", quick=1, full=3)
def test_a_learning_rate_far_too_large_exits_4_and_leaves_finite_checkpoints(
    trials: Trials, ldm: Launcher, recipe: Path, trained: Pipeline, tmp_path: Path
) -> None:
    for random in trials:
        seed = int(random.integers(1000))
        words = ["train-dit", "-c", recipe, "--runs-dir", tmp_path, "--name", seed, "--seed", seed, "preview.every=0"]
        words += ["--latents", trained.folder / "latents", "--lr", "1e30", "train.clip=0", "train.warmup=0"]
        ended = ldm.run(*words, "train.images=800", "train.checkpoint_every=8", "train.validate_every=0")
        assert ended.code == 4 and "error: training diverged" in ended.err, ended
        assert "lower" in ended.err
        for path in (tmp_path / str(seed) / "dit" / checkpoint.FOLDER).iterdir():
            state(path.parents[1], int(path.name))


@pytest.mark.promise("R22", quick=1, full=5)
def test_the_same_commands_give_the_same_bytes(
    trials: Trials, ldm: Launcher, recipe: Path, trained: Pipeline, tmp_path: Path
) -> None:
    trained.run("sample", num=8, label="same")
    trained.run("eval", samples="same")
    commands: dict[str, tuple[str, ...]] = {
        "vqvae": ("train-vqvae",),
        "latents": ("encode",),
        "dit": ("train-dit",),
        "classifier": ("train-classifier",),
        "samples/same": ("sample", "--label", "same"),
        "eval/same": ("eval", "--samples", "same"),
    }
    for _ in trials:
        for stage, words in commands.items():
            ended = ldm.run(*words, "-c", recipe, "--runs-dir", tmp_path)
            assert ended.code == 0, ended
            assert contents(tmp_path / "tiny" / stage) == contents(trained.folder / stage), stage
        shutil.rmtree(tmp_path / "tiny")


@pytest.mark.promise("R22", quick=2, full=10)
def test_the_batch_size_of_sample_changes_no_image(trials: Trials, copied: Pipeline) -> None:
    expected = pngs(copied.run("sample", num=7, label="whole", batch_size=64).directory)
    for sizes in batch_sizes(trials):
        found = pngs(copied.run("sample", num=7, label="parts", batch_size=sizes, replace=True).directory)
        assert found == expected
        shutil.rmtree(copied.folder / "samples" / "parts")


def batch_sizes(trials: Trials) -> Iterator[int]:
    for random in trials:
        yield int(random.integers(1, 21))
