"""R1, R2, R5, R6, R10, R23: whatever ends a process, the same command goes on to the same bytes.

Real `ldm` processes are killed, limited and signalled at random moments. A full disk is a limit on the size of files
(RLIMIT_FSIZE) and a full memory one on the address space (RLIMIT_AS): the lowest level at which a test can set either
without owning the machine. The memory of a GPU runs out in a test of the command line only, by the name of its error.
"""

import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ldm.cli.main import run
from ldm.core.runs import checkpoint
from ldm.core.training.tasks.denoising import DenoisingTask
from tests.support.as_they_are import DATA
from tests.support.interrupted import (
    ANAGRAM,
    AVERAGE,
    EDIT,
    ENCODE,
    ENCODE_ATTRIBUTES,
    ENCODE_CAPTIONS,
    ENCODE_CROPS,
    HYBRID,
    INTERPOLATE,
    SAMPLE,
    SAMPLE_ATTRIBUTES,
    SAMPLE_LATENTS,
    SAMPLE_LATEST,
    SAMPLE_TOKENS,
    SWEEP,
    Stage,
)
from tests.support.launcher import Ended
from tests.support.ledger import Trials
from tests.support.small_runs import STEP, checkpoints, contents, metrics, temporaries, training

EVERY = 8  # steps between checkpoints
GROUPS = ("model.safetensors", "ema.safetensors", "optimizer.safetensors")
# Most of such a training is measuring: a moment drawn at random falls into it.
MEASURED = [f"metrics.every={3 * STEP}", "metrics.num=24", "metrics.steps=40"]

TWO_PHASES = ["--phase", "part=all", "--phase", "part=head"]
TOKENS = [  # of several maps, as next-scale transformers are trained on
    *("model.preset=msvq-xs", "model.channels=8", "model.channel_multipliers=1,2", "model.scales=1,2,4"),
    *("model.codebook_size=16", "model.latent_channels=4"),
]


def steps(trials: Trials) -> int:
    return 200 if trials.full else 32


def resumed_after(ended: Ended) -> int:
    found = re.search(r"resuming after ([\d,]+) images", ended.err)
    return int(found[1].replace(",", "")) if found else 0


def check_what_a_kill_cost(stage: Stage, runs_dir: Path) -> None:
    """See that the run goes on from its newest checkpoint to the same end, and lost no more than the steps since."""
    folder = stage.folder(runs_dir)
    saved, done = checkpoints(folder), metrics(folder)
    reached = done[-1]["images"] if done else 0
    newest = saved[-1] if saved else 0
    assert reached - newest <= EVERY * STEP
    ended = stage.finish(runs_dir)
    assert resumed_after(ended) == newest


SLOW = [
    pytest.param(name, marks=pytest.mark.slow)
    for name in ("train-autoencoder", "train-var", "train-denoiser", "train-classifier", "distill")
]
TRAININGS = ["train-vqvae", "train-dit", *SLOW]


@pytest.mark.promise("R1", quick=1, full=40)
@pytest.mark.parametrize("command", TRAININGS)
def test_a_training_killed_at_a_random_moment_goes_on_to_the_bit(
    command: str, trials: Trials, stage: Callable[..., Stage]
) -> None:
    prepared = stage(*training(command, steps(trials), EVERY))
    lines = [line["images"] for line in metrics(prepared.folder(prepared.whole)) if "loss" in line]
    assert lines == list(range(STEP, steps(trials) * STEP + 1, STEP)), "every step has its line, once"
    for random in trials:
        check_what_a_kill_cost(prepared, prepared.killed(random))


@pytest.mark.promise("R1", quick=1, full=10)
@pytest.mark.parametrize("command", TRAININGS)
def test_a_training_killed_inside_a_save_goes_on_to_the_bit(
    command: str, trials: Trials, stage: Callable[..., Stage]
) -> None:
    prepared = stage(*training(command, steps(trials), EVERY))
    for random in trials:
        spared, into = random.integers(1, steps(trials) // EVERY), random.uniform(0, 0.02)
        while True:
            runs_dir = prepared.killed(random, lambda folder, n=spared, s=into: inside_a_save(folder, n, s))
            if temporaries(prepared.folder(runs_dir) / checkpoint.FOLDER):
                break
            into /= 2  # The save was over before.
            shutil.rmtree(runs_dir)
        check_what_a_kill_cost(prepared, runs_dir)


def inside_a_save(folder: Path, after: int, into: float) -> None:
    """Return some seconds into a save of a checkpoint, of those that follow the first few."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        saved = checkpoints(folder)
        if saved and saved[-1] >= (after - 1) * EVERY * STEP and temporaries(folder / checkpoint.FOLDER):
            time.sleep(into)
            return
    raise AssertionError("no save was seen")


@pytest.mark.promise("R1", quick=1, full=10)
def test_a_gpu_that_fails_at_any_step_is_named_and_costs_no_more_than_a_kill(
    trials: Trials, stage: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """There need not be a GPU: a step raises what torch raises once one has failed."""
    words = training("train-dit", 32, EVERY)
    prepared, whole_loss = stage(*words), DenoisingTask.loss
    for random in trials:
        last, steps_left = int(random.integers(32)), iter(range(32))

        def loss(self: DenoisingTask, role: str, data: Any, last: int = last, left: Any = steps_left) -> Any:
            if next(left) == last:
                raise RuntimeError("CUDA error: unspecified launch failure\nCompile with TORCH_USE_CUDA_DSA")
            return whole_loss(self, role, data)

        runs_dir = prepared.fresh()
        with monkeypatch.context() as failing:
            failing.setattr(DenoisingTask, "loss", loss)
            assert run([*words, "-c", str(prepared.recipe), "--runs-dir", str(runs_dir)]) == 1
        said = capsys.readouterr().err
        assert "error: the GPU failed: CUDA error: unspecified launch failure" in said and "Traceback" not in said
        assert max([0, *checkpoints(prepared.folder(runs_dir))]) == last // EVERY * EVERY * STEP
        prepared.finish(runs_dir)


@pytest.mark.slow
@pytest.mark.promise("R1", quick=1, full=20)
@pytest.mark.parametrize(
    "kind", ["two students", "two phases", "noisy classifier", "tokens", "masks", "attributes", "kept EMAs"]
)
def test_what_trains_more_than_once_or_elsewhere_goes_on_to_the_bit(
    kind: str, trials: Trials, stage: Callable[..., Stage], request: pytest.FixtureRequest
) -> None:
    of = "as_they_are" if kind in ("masks", "attributes") else "trained"
    data = {"source": request.getfixturevalue(of).images, **DATA}  # grey, not square, with masks
    words = {
        "two students": training("distill", steps(trials) // 2, EVERY, students=2),
        "two phases": [*training("train-autoencoder", steps(trials) // 2, EVERY), *TWO_PHASES],
        "noisy classifier": [*training("train-classifier", steps(trials), EVERY), "--noisy"],
        "tokens": [*training("train-autoencoder", steps(trials) // 2, EVERY), *TOKENS],
        "masks": [*training("train-vqvae", steps(trials), EVERY), *(f"data.{key}={data[key]}" for key in data)],
        "attributes": training("train-dit", steps(trials), EVERY),
        "kept EMAs": [*training("train-dit", steps(trials), EVERY // 2), "train.keep_ema=yes"],
    }
    prepared = stage(*words[kind], of=of)
    for random in trials:
        prepared.finish(prepared.killed(random))


WRITTEN = {
    "encode": ENCODE,
    "sample": SAMPLE,
    "edit": EDIT,
    "anagram": ANAGRAM,
}
RARELY = {
    "encode-captions": ENCODE_CAPTIONS,
    "encode-crops": ENCODE_CROPS,
    "encode-tokens": ENCODE,
    "encode-as-they-are": ENCODE_ATTRIBUTES,
    "sample-as-they-are": SAMPLE_ATTRIBUTES,
    "sample-latents": SAMPLE_LATENTS,
    "sample-latest": SAMPLE_LATEST,
    "sample-tokens": SAMPLE_TOKENS,
    "hybrid": HYBRID,
    "interpolate": INTERPOLATE,
    "sweep": SWEEP,
    "average": AVERAGE,
}


OTHERS = {"-tokens": "next_scale", "-as-they-are": "as_they_are"}  # runs of other kinds, by the ends of these names


@pytest.mark.promise("R2", quick=1, full=30)
@pytest.mark.parametrize("name", [*WRITTEN, *(pytest.param(name, marks=pytest.mark.slow) for name in RARELY)])
def test_encode_sample_and_edit_killed_at_a_random_moment_go_on_to_the_bit(
    name: str, trials: Trials, stage: Callable[..., Stage]
) -> None:
    of = next((run for end, run in OTHERS.items() if name.endswith(end)), "trained")
    prepared = stage(*{**WRITTEN, **RARELY}[name], of=of)
    for random in trials:
        runs_dir = prepared.killed(random)
        prepared.check_names(runs_dir)
        prepared.finish(runs_dir)


@pytest.fixture(scope="module")
def half_done(stage: Callable[..., Stage]) -> Callable[..., tuple[Stage, Path]]:
    """Prepare a run of train-dit that has its first checkpoint and was then killed."""
    made: dict[tuple[str, ...], Path] = {}

    def prepare(*words: str) -> tuple[Stage, Path]:
        prepared = stage(*words)
        if words not in made:
            made[words] = prepared.killed(np.random.default_rng(0), has_saved)
        return prepared, made[words]

    return prepare


def has_saved(folder: Path) -> None:
    while not checkpoints(folder):
        time.sleep(0.001)


@pytest.mark.promise("R5", quick=2, full=20)
def test_a_full_disk_is_named_and_the_last_checkpoint_stays(
    trials: Trials, half_done: Callable[..., tuple[Stage, Path]], tmp_path: Path
) -> None:
    prepared, before = half_done(*training("train-dit", steps(trials), EVERY))
    largest = max(path.stat().st_size for path in prepared.folder(before).rglob("*.safetensors"))
    for number, random in enumerate(trials):
        runs_dir = Path(shutil.copytree(before, tmp_path / str(number)))
        folder = prepared.folder(runs_dir)
        saved = checkpoints(folder)[-1]
        limit = int(np.exp(random.uniform(0, np.log(largest))))
        ended = prepared.start(runs_dir, limits={"FSIZE": limit}).wait()
        assert ended.code == 2 and "error: disk: cannot write" in ended.err, (limit, ended)
        assert "Traceback" not in ended.err
        found = checkpoint.newest(folder, lambda message: pytest.fail(message))
        assert found is not None and found.state["images"] >= saved
        prepared.finish(runs_dir)


@pytest.mark.promise("R6", quick=1, full=7)
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT", "SIGUSR1"])
def test_a_signal_leaves_one_checkpoint_within_a_step(name: str, trials: Trials, stage: Callable[..., Stage]) -> None:
    count = steps(trials)
    prepared = stage(*training("train-dit", count, count))  # It would save at its end only.
    for random in trials:
        share = random.uniform(0, 0.7)
        while True:
            runs_dir = prepared.fresh()
            folder = prepared.folder(runs_dir)
            command = prepared.start(runs_dir)
            while not metrics(folder):
                time.sleep(0.001)
            time.sleep(share * prepared.seconds)
            reached = metrics(folder)[-1]["images"]
            command.send(signal.Signals[name])
            ended = command.wait()
            if ended.code == 75 and checkpoints(folder)[-1] < count * STEP:
                break
            # It was at its last step; or past it, where nothing is left to save, and Ctrl-C exits with 130.
            assert ended.code in (0, 75, 130, -signal.Signals[name]), ended
            assert checkpoints(folder) == [count * STEP]
            share *= 0.7
        (saved,) = checkpoints(folder)
        assert 0 <= saved - reached <= 2 * STEP, "the step under way, and one whose line was not written yet"
        assert f"stopped by {name} after {saved:,} images" in ended.err
        assert "run the same command again" in ended.err
        finished = prepared.succeed(runs_dir)
        assert resumed_after(finished) == saved
        earlier = {f"{checkpoint.FOLDER}/{saved:010d}/{file.name}" for file in (folder / checkpoint.FOLDER).glob("*/*")}
        assert contents(folder, but=earlier) == prepared.expected
        shutil.rmtree(runs_dir)


@pytest.mark.promise("R1", quick=1, full=20)
def test_a_training_killed_as_its_samples_are_measured_goes_on_to_the_bit_and_records_each_once(
    trials: Trials, stage: Callable[..., Stage]
) -> None:
    prepared = stage(*training("train-dit", 8, 4), *MEASURED)
    recorded = [line["images"] for line in metrics(prepared.folder(prepared.whole)) if "conditions" in line]
    assert recorded == [3 * STEP, 6 * STEP, 8 * STEP]
    for random in trials:
        prepared.finish(
            prepared.killed(random, lambda folder, draw=random.uniform: while_measuring(folder, draw(0, 1)))
        )


@pytest.mark.promise("R6", quick=1, full=10)
def test_a_signal_as_samples_are_measured_stops_there_and_they_are_measured_later(
    trials: Trials, stage: Callable[..., Stage]
) -> None:
    prepared = stage(*training("train-dit", 8, 99), *MEASURED)
    for random in trials:
        while True:
            runs_dir = prepared.fresh()
            folder = prepared.folder(runs_dir)
            command = prepared.start(runs_dir)
            while_measuring(folder, random.uniform(0, 0.2))
            command.send(signal.SIGTERM)
            ended = command.wait()
            assert ended.code in (0, 75), ended
            if checkpoints(folder) == [3 * STEP]:
                break  # It was stopped in the first measurement, and not after it.
        assert f"stopped by SIGTERM after {3 * STEP} images" in ended.err
        assert not [line for line in metrics(folder) if "conditions" in line]
        assert resumed_after(prepared.succeed(runs_dir)) == 3 * STEP
        earlier = {f"{checkpoint.FOLDER}/{3 * STEP:010d}/{name}" for name in (*GROUPS, "state.json", "manifest.json")}
        assert contents(folder, but=earlier) == prepared.expected
        shutil.rmtree(runs_dir)


def while_measuring(folder: Path, into: float) -> None:
    """Return some seconds after the last step before the first measurement."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if any(line["images"] >= 3 * STEP for line in metrics(folder)):
            time.sleep(into)
            return
        time.sleep(0.001)
    raise AssertionError("no measurement was seen")


@pytest.mark.promise("R10", quick=1, full=10)
def test_of_ten_that_start_at_once_one_runs_and_nine_name_it(trials: Trials, stage: Callable[..., Stage]) -> None:
    together = 10 if trials.full else 4
    prepared = stage(*training("train-dit", 200, EVERY))  # not over before the others have ended
    for _ in trials:
        runs_dir = prepared.fresh()
        commands = [prepared.start(runs_dir) for _ in range(together)]
        while sum(command.running() for command in commands) > 1:
            time.sleep(0.01)
        owner = next(command for command in commands if command.running())
        for command in commands:
            if command is not owner:
                ended = command.wait()
                assert ended.code == 2 and ended.busy < 2, ended
                assert f"in use by process {owner.pid} on " in ended.err
        owner.send(signal.SIGKILL)
        assert owner.wait().code == -signal.SIGKILL
        prepared.finish(runs_dir)


@pytest.mark.promise("R23", quick=1, full=20)
def test_running_out_of_memory_is_named_and_the_last_checkpoint_stays(
    trials: Trials, half_done: Callable[..., tuple[Stage, Path]], tmp_path: Path
) -> None:
    """The first step has been saved when the second, which takes some 200 MB, gets less."""
    batch = 4096
    words = [f"train.batch_size={batch}", f"train.images={2 * batch}", f"train.checkpoint_every={batch}"]
    prepared, before = half_done("train-dit", *words, "preview.every=0", "train.validate_every=0")
    for number, random in enumerate(trials):
        runs_dir = Path(shutil.copytree(before, tmp_path / str(number)))
        ended = prepared.start(runs_dir, limits={"AS": int(random.uniform(16e6, 100e6))}).wait()
        assert ended.code == 1 and "error: out of memory: " in ended.err, ended
        assert "split the batch into passes" in ended.err and "Traceback" not in ended.err
        found = checkpoint.newest(prepared.folder(runs_dir), lambda message: pytest.fail(message))
        assert found is not None and found.state["images"] == batch
        prepared.finish(runs_dir)
