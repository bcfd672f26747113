"""R8, and R2 in several processes: how many processes share the work changes nothing but its speed.

Real processes that speak gloo, found as torchrun's find one another.
"""

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ldm.core.progress import Silent
from ldm.core.runs import checkpoint
from ldm.core.runs.run import IDENTITY, MANIFEST
from ldm.core.training import sharding  # noqa: F401 - loaded here once, not in every process
from ldm.core.training.loop import Batch
from ldm.core.training.tasks.autoencoding import AutoencodingTask
from ldm.core.training.tasks.classifying import ClassifyingTask
from ldm.core.training.tasks.denoising import DenoisingTask
from ldm.core.training.tasks.distilling import DistillingTask
from ldm.core.training.tasks.next_scale import NextScaleTask
from ldm.stages.table import STAGES
from tests.support.interrupted import EDIT, ENCODE, NEEDS, SAMPLE, Stage
from tests.support.launcher import Command, Ended
from tests.support.ledger import Trials
from tests.support.pipeline_run import Pipeline
from tests.support.several import environment, ranked, run_together
from tests.support.small_runs import metrics, start_from

BATCH, STEPS = 24, 5
TASKS: dict[str, Any] = {
    "train-vqvae": AutoencodingTask,
    "train-dit": DenoisingTask,
    "train-classifier": ClassifyingTask,
    "train-var": NextScaleTask,
    "distill": DistillingTask,
}
FOLDERS = {
    "train-vqvae": "vqvae",
    "train-dit": "dit",
    "train-classifier": "classifier",
    "train-var": "var",
    "distill": "students/1",
}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("train-var", "distill")]


@pytest.fixture
def before(request: pytest.FixtureRequest) -> Pipeline:
    """A run with what the command of a test needs."""
    command = request.node.callspec.params.get("case", request.node.callspec.params.get("command"))
    run: Pipeline = request.getfixturevalue("next_scale" if command == "train-var" else "trained")
    return run


class Watched:
    """A stage's training by some processes, of which each notes which sample it takes at which position."""

    def __init__(self, root: Path, trained: Pipeline, command: str, settings: dict[str, Any]) -> None:
        self.notes, self.pipeline = root / "notes", Pipeline(root, trained.images)
        self.command, self.settings = command, settings
        self.notes.mkdir(parents=True)
        needed = NEEDS.get(command, ("vqvae", "latents"))
        start_from(trained.folder, root, *(name for name in needed if name != "classifier"))

    @property
    def folder(self) -> Path:
        return self.pipeline.folder / FOLDERS[self.command]

    def train(
        self, size: int, accumulate: int = 1, stop: tuple[int, int] | None = None, patience: float = 90
    ) -> list[int]:
        """Train, or go on, in so many processes and return their exit codes.

        stop: after which step, counted from 0, a signal comes to the process of which rank.
        """
        config = self.pipeline.config(self.command, **self.settings, train__accumulate=accumulate)
        task = TASKS[self.command]
        load, after_step = task.load, task.after_step

        def work(rank: int) -> None:
            def noting_load(self_: Any, batch: Batch) -> Any:
                with (self.notes / f"{rank}.txt").open("a") as file:
                    pairs = zip(batch.positions.tolist(), batch.samples.tolist(), strict=True)
                    file.write("".join(f"{position} {sample}\n" for position, sample in pairs))
                return load(self_, batch)

            def signalled(self_: Any, accepted: bool) -> None:
                after_step(self_, accepted)
                ends.append(accepted)
                if stop == (len(ends) - 1, rank):
                    os.kill(os.getpid(), signal.SIGTERM)

            ends: list[bool] = []
            task.load, task.after_step = noting_load, signalled
            STAGES[self.command].load().run(config, Silent())

        return run_together(size, work, patience)

    def taken(self) -> dict[int, int]:
        """Return which sample was taken at each position; one that is loaded twice must be the same."""
        found: dict[int, int] = {}
        for path in self.notes.iterdir():
            for line in path.read_text().splitlines():
                position, sample = map(int, line.split())
                assert found.setdefault(position, sample) == sample
        return found

    def losses(self) -> dict[str, list[float]]:
        """Return the means over the images of each step, by name."""
        lines = [line for line in metrics(self.folder) if "loss" in line]
        assert [line["images"] for line in lines] == list(range(BATCH, STEPS * BATCH + 1, BATCH)), "each step once"
        names = {name for line in lines for name in line} & MEANS
        return {name: [line[name] for line in lines if name in line] for name in names}

    def saved(self) -> dict[str, torch.Tensor]:
        """Return all tensors of the last checkpoint."""
        last = self.folder / checkpoint.FOLDER / f"{STEPS * BATCH:010d}"
        groups = {path.stem: load_file(path) for path in sorted(last.glob("*.safetensors"))}
        return {f"{group}/{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()}


# The gradients of L1, of the hinge and of a ReLU are steps, and what is within the rounding of sums of such a step may
# be on either side of it: so few that no loss shows it. A ReLU's input of 4.5e-7 was seen to move a norm by 1.6e-4.
STEPWISE = {"train-vqvae": ("grad_norm", "discriminator_grad_norm"), "train-classifier": ("grad_norm",)}
MEANS = {"loss", "pixel_loss", "discriminator_loss", "grad_norm", "discriminator_grad_norm"}


def settings(case: str, precision: str, seed: int) -> dict[str, Any]:
    chosen: dict[str, Any] = {
        "seed": seed,
        "machine": {"device": "cpu", "precision": precision},
        "train__lr": 1e-4,
        "train__batch_size": BATCH,
        "train__images": STEPS * BATCH,
        "train__log_every": BATCH,
        "train__validate_every": 0,
    }
    if case.startswith(("train-dit", "train-var", "distill")):
        chosen |= {"preview__every": 0}
    if case == "distill":
        chosen |= {"first_steps": 1}
    if case == "train-vqvae adversarial":
        chosen |= {"loss": {"adversarial_weight": 0.5, "adversarial_start": 2 * BATCH}}
    return chosen


@pytest.mark.promise("R8", quick=1, full=10)
@pytest.mark.parametrize(
    "case", ["train-vqvae", "train-vqvae adversarial", "train-dit", "train-dit sharded", "train-classifier", *SLOW]
)
def test_any_number_of_processes_takes_the_samples_of_one_and_has_its_losses(
    case: str, trials: Trials, before: Pipeline, tmp_path: Path
) -> None:
    """Stopped after a random step, and continued by another number of processes in another number of passes.

    An adversary's weight is measured in each pass: there, their number stays.
    """
    command, _, manner = case.partition(" ")
    adversarial = manner == "adversarial"
    for number, random in enumerate(trials):
        chosen = settings(case, "fp32", seed=int(random.integers(1000)))
        chosen |= {"train__optimizer": "adamw"} if manner == "sharded" else {}
        sizes = random.permutation([2, int(random.choice([1, 3, 4]) if trials.full else 1)]).tolist()
        passes = [int(random.integers(1, 3))] * 2 if adversarial else random.permutation([1, 2]).tolist()
        stop = (int(random.integers(STEPS - 1)), int(random.integers(sizes[0])))
        alone = Watched(tmp_path / f"{number}-alone", before, command, chosen)
        assert alone.train(1, passes[0] if adversarial else 1) == [0]
        together = chosen | ({"train__shard": True} if manner == "sharded" else {})
        several = Watched(tmp_path / f"{number}-several", before, command, together)
        assert several.train(sizes[0], passes[0], stop) == [75] * sizes[0]
        assert several.train(sizes[1], passes[1]) == [0] * sizes[1]
        assert several.taken() == alone.taken() and len(alone.taken()) == STEPS * BATCH
        ours, theirs = several.losses(), alone.losses()
        assert ours.keys() == theirs.keys() and ("discriminator_loss" in ours) == adversarial
        for name, values in theirs.items():
            near = 1e-3 if name in STEPWISE.get(command, ()) else 1e-6
            assert ours[name] == pytest.approx(values, rel=near, abs=near), (name, sizes, passes, stop)
        saved = several.saved()
        for name, tensor in alone.saved().items():
            apart = float((saved[name].double() - tensor.double()).norm())
            assert apart <= 1e-3 * float(tensor.double().norm()) + 1e-5, (name, apart, sizes, passes, stop)


@pytest.mark.slow
@pytest.mark.promise("R8", full=5)
@pytest.mark.parametrize("command", ["train-dit", "train-classifier"])
def test_sums_in_another_order_change_the_losses_of_sixty_steps_by_rounding_alone(
    command: str, trials: Trials, trained: Pipeline, tmp_path: Path
) -> None:
    """Two passes of one process sum as two processes do, to the bit. A VQ-VAE is not among these: a latent halfway
    between two codes, to the rounding, may take either, and from there on the trainings differ.
    """
    for number, random in enumerate(trials):
        chosen, losses = settings(command, "fp32", seed=int(random.integers(1000))), []
        for passes in (1, 2):
            one = Watched(tmp_path / f"{number}-{passes}", trained, command, chosen | {"train__images": 60 * BATCH})
            assert one.train(1, passes) == [0]
            losses.append([line["loss"] for line in metrics(one.folder) if "loss" in line])
        assert len(losses[0]) == 60 and losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.promise("R8", quick=1, full=5)
@pytest.mark.parametrize("command", ["train-vqvae", "train-dit", "train-classifier", *SLOW])
def test_two_processes_are_two_passes_of_one_to_the_bit(
    command: str, trials: Trials, before: Pipeline, tmp_path: Path
) -> None:
    """Even in bfloat16, and where one process goes on alone in twice as many passes."""
    for number, random in enumerate(trials):
        chosen = settings(command, "bf16", seed=int(random.integers(1000)))
        forms = random.permutation([(2, 1), (1, 2)]).tolist()
        stop = (int(random.integers(STEPS - 1)), 0)
        alone = Watched(tmp_path / f"{number}-alone", before, command, chosen)
        assert alone.train(1, 2) == [0]
        several = Watched(tmp_path / f"{number}-several", before, command, chosen)
        assert several.train(*forms[0], stop) == [75] * forms[0][0]
        assert several.train(*forms[1]) == [0] * forms[1][0]
        ours, theirs = several.saved(), alone.saved()
        assert ours.keys() == theirs.keys()
        assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == [], (forms, stop)


@pytest.mark.slow
@pytest.mark.promise("R8")
@pytest.mark.parametrize("command", ["train-vqvae", "train-dit"])
def test_compiled_networks_are_shared_by_two_processes(command: str, trained: Pipeline, tmp_path: Path) -> None:
    runs = {}
    for size in (1, 2):
        chosen = settings(command, "fp32", seed=0)
        runs[size] = Watched(tmp_path / str(size), trained, command, chosen)
        chosen["machine"]["compile"] = True
        assert runs[size].train(size, patience=500) == [0] * size
    assert runs[2].losses()["loss"] == pytest.approx(runs[1].losses()["loss"], rel=1e-5)


def start_together(stage: Stage, runs_dir: Path, size: int) -> list[Command]:
    surroundings = environment(size) if size > 1 else {}
    return [stage.start(runs_dir, environment=ranked(surroundings, rank) if size > 1 else None) for rank in range(size)]


def ended_as_under_torchrun(commands: list[Command], victims: set[int]) -> list[Ended]:
    """Wait for all; a process that still waits for a victim is asked to end, as torchrun asks it."""
    for rank in {0, 1} - victims:
        deadline = time.monotonic() + 10
        while commands[rank].running() and time.monotonic() < deadline:
            time.sleep(0.05)
        if commands[rank].running():
            commands[rank].send(signal.SIGTERM)
    return [command.wait(60) for command in commands]


@pytest.mark.promise("R8", "R2", quick=1, full=15)
@pytest.mark.parametrize("words", [ENCODE, SAMPLE, EDIT], ids=["encode", "sample", "edit"])
def test_a_shared_encode_sample_or_edit_of_which_any_process_is_killed_goes_on_to_the_bit(
    words: list[str], trials: Trials, stage: Callable[..., Stage]
) -> None:
    prepared = stage(*words)
    for random in trials:
        delay = random.uniform(0, prepared.seconds)
        while True:
            runs_dir = prepared.fresh()
            commands = start_together(prepared, runs_dir, 2)
            time.sleep(delay)
            victims = {int(rank) for rank in random.permutation(2)[: random.integers(1, 3)]}
            for rank in victims:
                commands[rank].send(signal.SIGKILL)
            ended = ended_as_under_torchrun(commands, victims)
            if all(ended[rank].code == -signal.SIGKILL for rank in victims):
                break
            delay *= 0.8  # It had ended before.
            shutil.rmtree(runs_dir)
        for rank in {0, 1} - victims:
            if ended[rank].code == -signal.SIGTERM:
                assert not (prepared.folder(runs_dir) / IDENTITY).exists(), "they had met, and it had not noticed"
            elif ended[rank].code == 0:
                assert (prepared.folder(runs_dir) / MANIFEST).exists(), "the work was done"
            else:
                assert ended[rank].code == 1 and "another process of this run has ended" in ended[rank].err, ended
                assert "Traceback" not in ended[rank].err, ended
        prepared.check_names(runs_dir)
        again = [command.wait(60) for command in start_together(prepared, runs_dir, int(random.integers(1, 3)))]
        assert all(each.code == 0 for each in again), again
        prepared.check(runs_dir)
