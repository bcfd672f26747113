"""Every choice that training offers, each through a whole short run of its stage."""

import csv
import io
import json
import shutil
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from ldm.core.conditioning.registry import conditioning_of
from ldm.core.denoisers.families import FAMILIES
from ldm.core.diffusion.dispersive import dispersed, tap_of
from ldm.core.diffusion.objective import FixedNoise
from ldm.core.pipeline.loading import training_objective
from ldm.core.pipeline.settings import Diffusion
from ldm.core.progress import Silent
from ldm.core.system.precision import resolve
from ldm.core.training.loop import Batch
from ldm.stages import train_denoiser
from ldm.stages.configs import TrainDenoiser
from ldm.stages.tools import dummy
from tests.support.pipeline_run import Pipeline, write_squares
from tests.support.small_denoisers import SIZES

PREDICTIONS = get_args(Diffusion.model_fields["prediction"].annotation)
WEIGHTINGS = get_args(Diffusion.model_fields["weighting"].annotation)
SCHEDULES = get_args(Diffusion.model_fields["schedule"].annotation)


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    images = write_squares(tmp_path_factory.mktemp("images") / "squares")
    return Pipeline(tmp_path_factory.mktemp("runs"), images).through("train-vqvae", "encode")


def task_of(pipeline: Pipeline, **changes: object) -> train_denoiser.DenoisingTask:
    from ldm.core.latents.sets import read_latents
    from ldm.core.pipeline.loading import load_autoencoder
    from ldm.core.runs.inputs import open_own
    from ldm.core.runs.outputs import machine_policy
    from ldm.core.runs.roles import AUTOENCODER, LATENTS
    from ldm.core.runs.run import open_run

    config = pipeline.config("train-dit", **changes)
    policy = machine_policy(config.machine)
    autoencoder = load_autoencoder(open_own(AUTOENCODER, config, pipeline.folder / "vqvae"), policy).network
    latents = open_run(pipeline.folder / "latents", LATENTS, "ldm encode")
    network = train_denoiser.network_config(
        config, latents.metadata["latent_shape"], conditioning_of(latents.metadata, config.label_dropout)
    )
    return train_denoiser.DenoisingTask(config, network, read_latents(latents), autoencoder, policy)


def first_batch(task: train_denoiser.DenoisingTask) -> object:
    positions = np.arange(64)
    return task.load(Batch(positions % task.num_samples, positions, 0))


def suits(prediction: str, schedule: str) -> bool:
    return prediction in ("flow", "x0") if schedule == "rectified-flow" else prediction != "flow"


@pytest.mark.parametrize(("prediction", "schedule"), [pair for pair in product(PREDICTIONS, SCHEDULES) if suits(*pair)])
def test_every_weighting_gives_a_finite_loss_and_gradient(encoded: Pipeline, prediction: str, schedule: str) -> None:
    for weighting in WEIGHTINGS:
        settings = {"diffusion__prediction": prediction, "diffusion__schedule": schedule}
        task = task_of(encoded, **settings, diffusion__weighting=weighting)
        loss, _ = task.loss("denoiser", first_batch(task))
        loss.backward()
        gradients = [p.grad for p in task.network.parameters() if p.grad is not None]
        assert torch.isfinite(loss), weighting
        assert gradients and all(bool(torch.isfinite(g).all()) for g in gradients), weighting


def test_v_with_snr_plus_one_is_the_plain_squared_error(encoded: Pipeline) -> None:
    task = task_of(encoded)
    x0, drawn, cond = first_batch(task)  # type: ignore[misc]
    loss, _ = task.loss("denoiser", (x0, drawn, cond))
    noise, t = drawn["noise"], drawn["t"]
    alpha, sigma = (part.view(-1, 1, 1, 1) for part in task.objective.schedule.alpha_sigma(t))
    output = task.network(alpha * x0 + sigma * noise, t, cond)
    assert float(loss.detach()) == pytest.approx(
        float((output - (alpha * noise - sigma * x0)).square().mean()), rel=1e-5
    )


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({"zero_terminal_snr": True, "prediction": "eps"}, "take 'v' or 'x0'"),
        ({"schedule": "rectified-flow", "prediction": "eps"}, "take 'flow' or 'x0'"),
        ({"schedule": "rectified-flow", "prediction": "v"}, "take 'flow' here"),
        ({"prediction": "flow"}, "take 'v' here"),
        ({"objective": "fixed-noise", "pure_noise": True}, "take zero_terminal_snr, or 'rectified-flow'"),
        ({"objective": "fixed-noise", "times": "logit-normal"}, "takes uniform alone"),
        ({"objective": "fixed-noise", "learn_variance": True}, "takes False alone"),
        ({"pure_noise": True}, "pure_noise is for objective 'fixed-noise'"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(settings: dict[str, object], remedy: str) -> None:
    with pytest.raises(ValidationError, match=remedy):
        Diffusion.model_validate(settings)


def test_too_few_steps_to_be_the_schedule_are_refused_where_it_is_defined_by_betas(encoded: Pipeline) -> None:
    with pytest.raises(ValidationError, match="take 100 or more, or the schedule 'cosine'"):
        encoded.config("train-dit", diffusion={"schedule": "linear", "num_steps": 99})
    assert encoded.config("train-dit", diffusion={"schedule": "cosine", "num_steps": 4}).diffusion.num_steps == 4


def test_rectified_flow_means_its_velocity_and_its_plain_loss_unless_others_are_named() -> None:
    flow = Diffusion.model_validate({"schedule": "rectified-flow"})
    assert (flow.prediction, flow.weighting) == ("flow", "flow")
    named = Diffusion.model_validate({"schedule": "rectified-flow", "prediction": "x0", "weighting": "snr"})
    assert (named.prediction, named.weighting) == ("x0", "snr")


@pytest.mark.parametrize("settings", [{}, {"weighting": "min-snr", "min_snr_gamma": 2.0}, {"learn_variance": True}])
def test_the_objective_has_every_setting_of_its_section(settings: dict[str, object]) -> None:
    section = Diffusion.model_validate({"logit_mean": 0.3, "shift": 2.0, "vlb_weight": 0.1, **settings})
    made = asdict(training_objective(section))
    assert made.pop("schedule")["kind"] == section.schedule
    assert made == {name: getattr(section, name) for name in made} and made.keys() >= settings.keys()


def test_the_gamma_of_min_snr_weighs_the_loss() -> None:
    """Of v at SNR 4: min(4, γ) / (4 + 1)."""
    x0, eps = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    losses = []
    for gamma in (1.0, 2.0, 8.0):
        objective = training_objective(Diffusion(schedule="linear", weighting="min-snr", min_snr_gamma=gamma))
        t = torch.tensor([objective.schedule.time_at(0.5)])
        losses.append(float(objective.loss(lambda x_t, t, cond: 0 * x_t, x0, {"noise": eps, "t": t}, {})))
    assert losses == pytest.approx([g / 5 * 4 / 5 for g in (1, 2, 4)], rel=1e-4)


def test_at_one_noise_level_the_network_predicts_x0() -> None:
    section = Diffusion.model_validate({"objective": "fixed-noise", "schedule": "rectified-flow"})
    assert (section.prediction, section.weighting) == ("x0", "uniform")
    objective = training_objective(section)
    assert isinstance(objective, FixedNoise) and objective.time == pytest.approx(1 / 3)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_dispersive_loss_spreads_the_states_of_every_family(family: str) -> None:
    """The same weights and batches with and without it; only the loss of training has the term."""
    ends = []
    for weight in (0.0, 5.0):
        train = {"batch_size": 16, "lr": 2e-3, "warmup": 0, "images": 16}
        settings = {"model": SIZES[family], "train": train, "dispersive_weight": weight}
        config, policy = TrainDenoiser.model_validate(settings), resolve("cpu", "fp32")
        latents = dummy.latents((2, 8, 8), 3, False, policy.device)
        network = train_denoiser.network_config(config, (2, 8, 8), latents.conditioning)
        task = train_denoiser.DenoisingTask(config, network, latents, None, policy)
        positions = np.arange(16)
        batch = task.load(Batch(positions % task.num_samples, positions, 0))
        held_out = task.validate()

        # The loss that is trained is the plain one and the term's share.
        spread: list[torch.Tensor] = []
        watched = dispersed(task.network, tap_of(len(task.network.blocks)), spread)
        with torch.no_grad():
            plain, (loss, logged) = task._errors(batch, watched).mean(), task.loss("denoiser", batch)
        assert float(loss) == pytest.approx(float(plain) + weight * float(spread[0]), rel=1e-5)
        assert logged.keys() == ({"dispersive_loss"} if weight else set())

        # Some steps: states go apart with it further than without.
        optimizer = torch.optim.SGD(task.network.parameters(), lr=0.05)
        for _ in range(8):
            optimizer.zero_grad()
            loss, _ = task.loss("denoiser", batch)
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            task._errors(batch, watched)
        ends.append((held_out, float(spread[-1])))
    (before, without), (same, with_it) = ends
    assert before == same
    assert with_it < without


def test_a_tenth_of_the_labels_is_dropped(encoded: Pipeline) -> None:
    task = task_of(encoded)
    positions = np.arange(4000)
    *_, cond = task.load(Batch(positions % task.num_samples, positions, 0))
    assert float((cond["labels"] == 3).float().mean()) == pytest.approx(0.1, abs=0.02)


def test_an_adversary_takes_part_from_its_start_on(encoded: Pipeline, tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path, encoded.images)
    pipeline.run("train-vqvae", loss={"adversarial_weight": 0.5, "adversarial_start": 32})
    lines = [json.loads(line) for line in (pipeline.folder / "vqvae" / "metrics.jsonl").read_text().splitlines()]
    evaluated = {line["images"]: "discriminator_loss" in line for line in lines if "loss" in line}
    assert evaluated == {16: False, 32: False, 48: True, 64: True}


def test_accumulation_and_activation_checkpointing_change_no_loss(encoded: Pipeline, tmp_path: Path) -> None:
    losses = {}
    for name, changes in {"plain": {}, "saving": {"train__accumulate": 2, "model__checkpointing": True}}.items():
        config = encoded.config("train-dit", **changes)
        task = task_of(encoded, **changes)
        from ldm.core.runs.outputs import machine_policy
        from ldm.core.training import loop

        folder = tmp_path / name
        folder.mkdir()
        plan = loop.Plan(**config.train.model_dump(), seed=0)
        loop.train(task, plan, machine_policy(config.machine), folder, Silent())
        losses[name] = task.validate()["val_loss"]
    assert losses["plain"] == pytest.approx(losses["saving"], rel=1e-4)


def test_the_validation_loss_of_the_same_weights_is_the_same_whatever_the_seed(encoded: Pipeline) -> None:
    tasks = [task_of(encoded, seed=seed) for seed in (0, 7)]
    tasks[1].network.load_state_dict(tasks[0].network.state_dict())
    assert tasks[0].validate() == tasks[1].validate()


def test_validation_and_pictures_leave_no_trace_in_training(encoded: Pipeline, tmp_path: Path) -> None:
    for name, changes in {"often": {"train__validate_every": 8, "preview__every": 16}, "never": {}}.items():
        settings = {"train__validate_every": 0, "preview__every": 0, **changes}
        encoded.run("train-dit", **settings, runs_dir=tmp_path / name, latents=encoded.folder / "latents")
    finals = [
        (tmp_path / name / encoded.name / "dit" / "final" / "model.safetensors").read_bytes()
        for name in ("often", "never")
    ]
    assert finals[0] == finals[1]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_batch_size_that_does_not_divide_the_images_resumes_to_the_same_weights(
    encoded: Pipeline, tmp_path: Path, optimizer: str
) -> None:
    settings = {"latents": encoded.folder / "latents", "train__batch_size": 12, "train__images": 100}
    settings |= {"train__checkpoint_every": 30, "preview__every": 0, "train__optimizer": optimizer}
    dit = encoded.run("train-dit", **settings, runs_dir=tmp_path).directory
    whole = (dit / "final" / "model.safetensors").read_bytes()
    metrics = [json.loads(line) for line in (dit / "metrics.jsonl").read_text().splitlines()]
    assert [path.name for path in sorted((dit / "checkpoints").iterdir())] == ["0000000096", "0000000108"]
    (dit / "manifest.json").unlink()
    shutil.rmtree(dit / "checkpoints" / "0000000108")
    encoded.run("train-dit", **settings, runs_dir=tmp_path)
    assert (dit / "final" / "model.safetensors").read_bytes() == whole
    again = [json.loads(line) for line in (dit / "metrics.jsonl").read_text().splitlines()]
    assert [line.keys() for line in again] == [line.keys() for line in metrics]
    assert again[-1] == metrics[-1]


@pytest.mark.slow
def test_a_compiled_training_resumes_to_the_same_weights_whatever_was_drawn_in_between(
    encoded: Pipeline, tmp_path: Path
) -> None:
    settings = {"latents": encoded.folder / "latents", "machine__compile": True, "train__validate_every": 16}
    dit = encoded.run("train-dit", **settings, runs_dir=tmp_path).directory
    whole = (dit / "final" / "model.safetensors").read_bytes()
    assert (dit / "checkpoints" / "0000000032").is_dir()
    (dit / "manifest.json").unlink()
    shutil.rmtree(dit / "checkpoints" / "0000000064")
    torch.compiler.reset()
    encoded.run("train-dit", **settings, runs_dir=tmp_path)
    assert (dit / "final" / "model.safetensors").read_bytes() == whole


def test_tensorboard_gets_the_same_numbers_and_pictures(encoded: Pipeline) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    encoded.run("train-dit", train__tensorboard=True, name=encoded.name)
    folder = encoded.folder / "dit"
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    shown = {event.step: event.value for event in events.Scalars("loss")}
    assert shown == pytest.approx({line["images"]: line["loss"] for line in lines if "loss" in line})
    *_, last = events.Images("samples")
    assert last.step == 64
    with Image.open(folder / "samples" / "0000000064.png") as picture:
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(last.encoded_image_string))), np.asarray(picture))


@pytest.mark.parametrize("option", ["qk_norm", "rope", "swiglu", "rmsnorm"])
def test_options_of_the_network_train(encoded: Pipeline, option: str) -> None:
    task = task_of(encoded, **{f"model__{option}": True})
    loss, _ = task.loss("denoiser", first_batch(task))
    loss.backward()
    assert torch.isfinite(loss)


def test_taef2_serves_as_the_autoencoder(encoded: Pipeline, tmp_path: Path, shared: Path) -> None:
    pipeline = Pipeline(tmp_path, encoded.images)
    pipeline.run("train-vqvae", autoencoder=shared / "weights" / "taef2", data__image_size=32)
    outcome = pipeline.run("encode")
    assert outcome.summary["shape"] == "32 × 4 × 4"


def test_lpips_takes_part_in_the_loss(encoded: Pipeline, tmp_path: Path, shared: Path) -> None:
    weights, seen = str(shared / "weights" / "lpips-squeeze"), {}
    for size in (None, 64):
        pipeline = Pipeline(tmp_path / str(size), encoded.images)
        loss = {"lpips": weights, "lpips_size": size}
        pipeline.run("train-vqvae", data__image_size=32, train__images=16, loss=loss)
        lines = [json.loads(line) for line in (pipeline.folder / "vqvae" / "metrics.jsonl").read_text().splitlines()]
        seen[size] = [line["lpips"] for line in lines if "lpips" in line]
    assert all(numbers and min(numbers) > 0 for numbers in seen.values())
    assert seen[None] != seen[64], "it is of enlarged images"


def test_the_numbers_are_a_table_too_on_request(trained: Pipeline, tmp_path: Path) -> None:
    pipeline = trained.copy(tmp_path)
    folder = pipeline.run("train-dit", replace=True, seed=5, train__csv=True, train__log_every=16).directory
    with (folder / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [int(row["images"]) for row in rows] == sorted({line["images"] for line in lines})
    for line in lines:
        (row,) = [each for each in rows if int(each["images"]) == line["images"]]
        assert all(float(row[name]) == value for name, value in line.items())
    assert rows[0]["loss"] == "" and rows[0]["val_loss"] != "", "before the first step there is no loss"
    assert not (trained.folder / "dit" / "results.csv").exists()
