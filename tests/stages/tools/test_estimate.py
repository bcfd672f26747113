"""An estimate counts what the stages themselves would do, says what it had to assume, and needs no data."""

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ldm.cli.estimate import run
from ldm.cli.main import run as ldm
from ldm.core.autoregressive.registry import build
from ldm.core.autoregressive.var_config import NextScaleConfig
from ldm.core.conditioning.attributes import AttributeConditioning, Number
from ldm.core.denoisers.dit import DiT
from ldm.core.denoisers.dit_config import DiTConfig
from ldm.core.errors import ConfigError
from ldm.core.images.settings import Data
from ldm.core.pipeline.generation import Sampling, evaluations
from ldm.core.pipeline.settings import Diffusion
from ldm.core.progress import Outcome, Silent, duration
from ldm.core.system.flops import LAUNCH
from ldm.core.system.machine import num_cores
from ldm.core.system.precision import Policy
from ldm.core.training import loop
from ldm.core.training.task import Batch, Plan
from ldm.stages import train_autoencoder
from ldm.stages.configs import TrainVQVAE
from ldm.stages.configs.estimate import Estimate, parse_rate
from ldm.stages.tools import dummy
from ldm.stages.tools.costs import StageCost, table
from ldm.stages.tools.counting import count_images
from ldm.stages.tools.stage_costs import bytes_of_a_sample
from ldm.stages.tools.words import amount
from tests.support.pipeline_run import MACHINE, Pipeline
from tests.support.plans import replace

RECIPE = """
data: {source: SOURCE, image_size: 16}
machine: {device: cpu, precision: fp32}
train-vqvae:
  model: {preset: vqvae-xs, channels: 8, codebook_size: 16}
  loss: {adversarial_weight: 0.1, adversarial_start: 0}
  train: {images: 1k, batch_size: 8}
train-dit:
  model: {preset: dit-xs, width: 32, depth: 2, heads: 2}
  train: {images: 2k, batch_size: 8, optimizer: adamw}
  preview: {every: 1k, per_class: 1, steps: 2}
train-classifier: {train: {images: 1k, batch_size: 8}}
sample: {num: 3, steps: 5}
"""


class Noted(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def estimated(
    tmp_path: Path, source: Path | str = "nowhere", recipe: str = RECIPE, more: str = "", **how: Any
) -> tuple[dict[str, Any], Outcome, str]:
    """Estimate the small recipe. Returns its stages by name, the outcome, and the notes."""
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.replace("SOURCE", str(source)) + more)
    progress = Noted()
    outcome = run(Estimate(recipe=str(path), **how), progress)
    return {each["stage"]: each for each in outcome.facts["stages"]}, outcome, "\n".join(progress.notes)


def test_every_stage_of_a_recipe_is_estimated_on_the_data_at_hand(tmp_path: Path, images: Path) -> None:
    stages, outcome, notes = estimated(tmp_path, images, flops=1e9)
    assert list(stages) == ["train-vqvae", "encode", "train-dit", "train-classifier", "sample"]
    assert outcome.facts["latent_shape"] == [4, 4, 4] and outcome.facts["classes"] == 3
    assert stages["encode"]["images"] == 120 and stages["sample"]["images"] == 9
    for name, stage in stages.items():
        filled = 64 / 9 if name == "sample" else 1  # The network takes 64 such latents at once, however few are wanted.
        assert stage["seconds"] == pytest.approx(filled * stage["in_all"] / 0.35e9), name
    assert "not in the times" in notes and "unknown" not in notes
    assert "takes about" in str(outcome.verdict) and "350 MFLOP/s" in str(outcome.verdict)
    total = sum(stage["seconds"] for stage in stages.values())
    assert f"takes about {duration(total)} on" in str(outcome.verdict)


@pytest.mark.slow  # several networks are counted
def test_a_chain_of_students_costs_its_teachers_passes_too(tmp_path: Path, images: Path) -> None:
    usual, _, _ = estimated(tmp_path, images, flops=1e9)
    chain = "\ndistill: {steps: 2, first_steps: 8, train: {images: 1k, batch_size: 8}}\n"
    stages, _, _ = estimated(tmp_path, images, flops=1e9, more=chain)
    distill, training = stages["distill"], usual["train-dit"]["operations"]
    assert distill["images"] == 3000
    # A pass is a third of a step: 4 of the guided teacher, then 2 and 2. The scale's own layers are the small rest.
    assert distill["operations"] == pytest.approx(training * (1 + 8 / 9), rel=0.1)
    assert distill["in_all"] == pytest.approx(distill["operations"] * 3000, rel=1e-6)
    measured, _, _ = estimated(tmp_path, images, seconds=0.05, more=chain)
    assert 0 < measured["distill"]["rate"] < 1e6


TOKENS = """
data: {source: SOURCE, image_size: 16}
machine: {device: cpu, precision: fp32}
train-autoencoder:
  model: {preset: msvq-xs, channels: 8, codebook_size: 16, scales: [1, 2]}
  train: {images: 1k, batch_size: 8}
train-var:
  model: {preset: var-d2, width: 32, heads: 2}
  train: {images: 2k, batch_size: 8}
sample: {num: 3, cfg: 2}
"""


@pytest.mark.parametrize("how", [{"flops": 1e9}, {"seconds": 0.05}], ids=["by rate", "measured"])
def test_a_next_scale_transformer_is_estimated_from_its_tokens(
    how: dict[str, float], tmp_path: Path, images: Path
) -> None:
    stages, _, _ = estimated(tmp_path, images, recipe=TOKENS, **how)
    assert list(stages) == ["train-autoencoder", "encode", "train-var", "train-classifier", "sample"]
    config = NextScaleConfig(
        scales=(1, 2), codebook_size=16, code_channels=8, num_classes=3, depth=2, width=32, heads=2
    )
    network = build(config)
    assert stages["train-var"]["parameters"] == sum(each.numel() for each in network.parameters())
    inputs = torch.zeros(1, 4, 8), {"labels": torch.zeros(1, dtype=torch.long)}
    with FlopCounterMode(display=False) as counted:
        network(*inputs)
    assert stages["train-var"]["operations"] == pytest.approx(3 * counted.get_total_flops(), rel=0.05)
    # Guided, and decoded.
    assert stages["sample"]["operations"] > 2 * counted.get_total_flops()
    assert all(stage["seconds"] is None or stage["seconds"] > 0 for stage in stages.values())


@pytest.mark.slow
def test_captions_are_read_by_a_network_that_is_trained_with_the_denoiser(tmp_path: Path) -> None:
    """Of a length that is assumed, and said; classes given instead are labels, as one token."""
    small = "train-denoiser: {model: {preset: mmdit-xs/1, width: 32, depth: 2, heads: 2, text_width: 16}}"
    recipe, how = "data: {source: 'scenes:40'}\n" + small, {"flops": 1e9, "latent": (4, 4, 4)}
    of_texts, _, notes = estimated(tmp_path, recipe=recipe, **how)
    of_classes, _, others = estimated(tmp_path, recipe=recipe, classes=3, **how)
    assert "captions are taken as 24 tokens, of 1,000 different ones" in notes and "captions" not in others
    several, one = (stages["train-denoiser"] for stages in (of_texts, of_classes))
    assert several["parameters"] > one["parameters"] + 1000 * 16 and several["operations"] > 2 * one["operations"]
    assert of_texts["sample"]["operations"] > of_classes["sample"]["operations"] > 0


@pytest.mark.slow  # several networks are counted
def test_pixels_take_no_training_of_an_autoencoder(tmp_path: Path) -> None:
    recipe = tmp_path / "pixels.yaml"
    recipe.write_text("train-vqvae: {data: {image_size: 16}, model: {preset: identity}}\n")
    facts = run(Estimate(recipe=str(recipe), flops=1e9), Noted()).facts
    assert facts["latent_shape"] == [3, 16, 16]
    assert facts["stages"][0]["stage"] == "train-vqvae" and facts["stages"][0]["seconds"] == 0


def test_images_are_counted_as_training_would_open_them(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 16, 16), dtype=np.uint8)
    parts = {"train_images": pixels[:40], "train_labels": np.arange(40) % 2}
    np.savez(tmp_path / "own.npz", val_images=pixels[40:], val_labels=np.arange(10) % 2, **parts)
    np.savez(tmp_path / "all.npz", images=pixels[:40], labels=np.arange(40) % 2)
    (tmp_path / "list.txt").write_text("train/000001\nval/000002\nval/000003\n")
    (tmp_path / "one.txt").write_text("".join(f"{number:06d}\n" for number in range(20)))

    def counted(**data: Any) -> tuple[int | None, int | None]:
        notes: list[str] = []
        images = count_images(Estimate(), Data(**data), False, notes)
        assert images.class_names == ("0", "1") and not notes
        return images.train, images.val

    own, everything = str(tmp_path / "own.npz"), str(tmp_path / "all.npz")
    assert counted(source=own) == (40, 10)
    assert counted(source=own, exclude=tmp_path / "list.txt") == (39, 8)
    assert counted(source=everything, validation=own) == (40, 10)
    assert counted(source=everything, val_fraction=0.1) == (36, 4)
    assert counted(source=everything, val_fraction=0.1, exclude=tmp_path / "one.txt") == (18, 2)


def test_without_the_data_what_depends_on_them_is_left_out_and_said(tmp_path: Path) -> None:
    stages, outcome, notes = estimated(tmp_path, flops=1e9)
    assert "nowhere does not exist" in notes and "give --dataset N" in notes and "10 assumed" in notes
    assert stages["encode"]["images"] is stages["encode"]["seconds"] is stages["encode"]["disk"] is None
    assert stages["train-dit"]["operations"] > 0 and "where that is known" in str(outcome.verdict)
    shown, _, notes = estimated(tmp_path, flops=1e9, dataset=1000, classes=5)
    assert shown["encode"]["images"] == 1050 and shown["sample"]["images"] == 15 and "assumed" not in notes


def test_time_is_measured_where_no_machine_is_named(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (0.5 * num_cores(), 64.0, 64.0))  # busy earlier, half busy now
    stages, outcome, notes = estimated(tmp_path, images, seconds=0.05)
    assert "other work was running" not in notes
    assert outcome.facts["measured"] and "as measured" in str(outcome.verdict) and "0.05 s of real steps" in notes
    for name, stage in stages.items():
        assert stage["rate"] > 0 and stage["seconds"] > 0, name
        assert stage["seconds"] >= stage["images"] / stage["rate"] * 0.99, name


@pytest.mark.parametrize("given", [{"seconds": 0.001}, {"flops": 1e9}])
def test_times_that_were_measured_beside_other_work_are_said_to_be_too_long(
    given: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (64.0, 0.0, 0.0))
    tiny = "{model: {preset: dit-xs, width: 32, depth: 2, heads: 2}, train: {images: 1k, batch_size: 8}}"
    _, _, notes = estimated(tmp_path, recipe=f"data: {{image_size: 16}}\ntrain-dit: {tiny}", **given)
    said = "other work was running here (a load of 64.0): the times measured are too long" in notes
    assert said == ("seconds" in given), "what is computed from a machine's rate does not depend on this one"


def test_the_autoencoders_operations_are_those_of_its_own_training(tmp_path: Path) -> None:
    stages, _, _ = estimated(tmp_path, flops=1e9)
    config = TrainVQVAE.model_validate(
        {
            "data": {"image_size": 16},
            "model": {"preset": "vqvae-xs", "channels": 8, "codebook_size": 16},
            "loss": {"adversarial_weight": 0.1, "adversarial_start": 0},
        }
    )
    policy = Policy(torch.device("cpu"), torch.float32)
    task = train_autoencoder.AutoencodingTask(config, dummy.images(config.data, 3), policy)
    data = task.load(Batch(np.arange(8), np.arange(8), 0))
    with FlopCounterMode(display=False) as counted:
        for role in task.networks:
            task.loss(role, data)[0].backward()
    assert stages["train-vqvae"]["operations"] == pytest.approx(counted.get_total_flops() / 8, rel=0.02)
    parameters = sum(p.numel() for p in task.modules.parameters())
    assert stages["train-vqvae"]["parameters"] == parameters


def test_latents_weigh_what_they_weigh_on_the_disk(trained: Pipeline) -> None:
    shards = [*(trained.folder / "latents").glob("*.tar")]
    facts = json.loads((trained.folder / "latents" / "manifest.json").read_text())["facts"]
    each = bytes_of_a_sample(tuple(facts["latent_shape"]), fields=2)
    count = sum(facts["samples"].values())
    ends = 10_240 * len(shards)  # tars are filled up to that
    assert 0 <= sum(path.stat().st_size for path in shards) - each * count <= ends


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_training_takes_the_disk_that_is_estimated(
    optimizer: str, tmp_path: Path, images: Path, trained: Pipeline
) -> None:
    settings = {"images": 100, "checkpoint_every": 16, "keep": 2, "keep_ema": True, "early": 32}
    changes: dict[str, Any] = {f"train__{name}": value for name, value in settings.items()}
    folder = trained.copy(tmp_path).run("train-dit", replace=True, train__optimizer=optimizer, **changes).directory
    sizes = {path.relative_to(folder): size_of_tensors(path) for path in folder.rglob("*.safetensors")}
    last = sum(size for path, size in sizes.items() if path.parts[:2] == ("checkpoints", "0000000104"))
    assert last and len([path for path in sizes if path.parts[0] == "emas"]) == 5 and (folder / "early").is_dir()

    given = json.dumps({**settings, "optimizer": optimizer, "batch_size": 8})
    recipe = RECIPE.replace("{images: 2k, batch_size: 8, optimizer: adamw}", given)
    stages, outcome, _ = estimated(tmp_path, images, recipe, flops=1e9)
    # One checkpoint more, while the last one is written and the oldest is still there.
    assert stages["train-dit"]["disk"] == pytest.approx(sum(sizes.values()) + last, rel=1e-3)
    assert f"up to {amount(sum(each['disk'] or 0 for each in stages.values()))}B of disk" in str(outcome.verdict)


def size_of_tensors(path: Path) -> int:
    """Return the bytes of a safetensors file after its header."""
    with path.open("rb") as file:
        return path.stat().st_size - 8 - int.from_bytes(file.read(8), "little")


def test_too_little_room_on_the_disk_is_said(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(total=10**9, used=10**9 - 1000, free=1000))
    _, _, notes = estimated(tmp_path, images, seconds=0.001)
    assert "of free disk, and" in notes and "`runs_dir` on another disk" in notes
    _, _, notes = estimated(tmp_path, images, flops=1e9)
    assert "of free disk" not in notes, "another machine's disk is not known"


def test_crops_are_encoded_and_kept_as_well(tmp_path: Path, images: Path) -> None:
    plain, _, _ = estimated(tmp_path, images, flops=1e9)
    asked = RECIPE.replace("train-dit:\n", "train-dit:\n  crop_share: 0.3\n") + "encode: {crops: 3}\n"
    assert "crop_share" in asked
    stages, _, _ = estimated(tmp_path, images, asked, flops=1e9)
    assert stages["encode"]["operations"] == 4 * plain["encode"]["operations"]
    sizes = bytes_of_a_sample((4, 4, 4), fields=2), bytes_of_a_sample((4, 4, 4), fields=8, others=[3 * 12])
    count = stages["encode"]["images"]
    assert (plain["encode"]["disk"], stages["encode"]["disk"]) == (sizes[0] * count, sizes[1] * count)


def test_labels_and_numbers_of_images_are_counted_as_the_network_embeds_them(tmp_path: Path, images: Path) -> None:
    squares = shutil.copytree(images, tmp_path / "squares")
    names = [path.relative_to(squares).as_posix() for path in sorted(squares.glob("*/*.png"))]
    rows = [f"{name},{'cat;out' if number % 2 else 'dog'},{number}" for number, name in enumerate(names)]
    (squares / "labels.csv").write_text("\n".join(["file,labels,age", *rows]))
    asked = RECIPE + "encode: {conditioning: attributes}\n"
    plain, _, _ = estimated(tmp_path, squares, flops=1e9)
    stages, _, notes = estimated(tmp_path, squares, asked, flops=1e9)
    shared = {"latent_channels": 4, "latent_size": 4, "width": 32, "depth": 2, "heads": 2, "patch_size": 2}
    conditioning = AttributeConditioning(("cat", "dog", "out"), (Number("age", 0, 1, 0.5),))
    network = DiTConfig.model_validate({**shared, **conditioning.sizes})
    expected = sum(parameter.numel() for parameter in DiT(network).parameters())
    assert stages["train-dit"]["parameters"] == expected != plain["train-dit"]["parameters"]
    assert stages["encode"]["disk"] == plain["encode"]["disk"] + 120 * 1024 and "assumed" not in notes
    _, _, notes = estimated(tmp_path, "nowhere", asked, flops=1e9)
    assert "10 labels and numbers assumed" in notes


@pytest.mark.parametrize(
    ("sampling", "looks", "passes"),
    [
        (Sampling(steps=9), 9, 9),
        (Sampling(steps=9, cfg=3.0), 18, 9),
        (Sampling(steps=9, cfg=0.0), 9, 9),
        (Sampling(steps=9, autoguide_scale=2.0), 18, 18),
        (Sampling(steps=9, autoguide_scale=2.0, cfg=3.0), 36, 18),
        (Sampling(steps=4, cfg=3.0, cfg_interval=(0.4, 0.8)), 6, 4),  # of the times 1, 3/4, 1/2, 1/4
        (Sampling(sampler="heun", steps=9), 17, 17),
        (Sampling(sampler="ddpm"), 100, 100),
    ],
)
def test_a_sampler_evaluates_the_network_in_each_step_twice_where_it_is_guided(
    sampling: Sampling, looks: int, passes: int
) -> None:
    assert evaluations(sampling, Diffusion(schedule="cosine", num_steps=100)) == (looks, passes)


def test_the_shift_of_times_counts_for_an_interval_of_guidance_and_consistency_models_have_steps_of_their_own() -> None:
    # Of the times 1, 3/4, 1/2, 1/4 shift 4 makes 1, 12/13, 4/5, 4/7, and 100 none below 0.97.
    guided, flow = Sampling(steps=4, cfg=3.0, cfg_interval=(0.7, 0.95)), {"schedule": "rectified-flow"}
    assert evaluations(guided, Diffusion.model_validate(flow)) == (5, 4)
    assert evaluations(guided, Diffusion.model_validate({**flow, "shift": 4})) == (6, 4)
    assert evaluations(dataclasses.replace(guided, shift=100.0), Diffusion.model_validate(flow)) == (4, 4)
    assert evaluations(Sampling(), Diffusion.model_validate({"objective": "consistency"}))[0] == 2


@pytest.mark.slow  # several networks are counted
def test_several_gpus_share_the_batch_and_with_shard_the_state(tmp_path: Path) -> None:
    alone, _, _ = estimated(tmp_path, where="a100")
    four, _, _ = estimated(tmp_path, where="a100", gpus=4)
    sharded, outcome, notes = estimated(tmp_path, where="a100", gpus=4, shard=True)
    one, two, three = (found["train-dit"] for found in (alone, four, sharded))
    assert two["rate"] == pytest.approx(one["rate"]), "launching takes as long for a quarter of the batch"
    assert two["memory"]["weights"] == one["memory"]["weights"]
    assert two["memory"]["activations"] < one["memory"]["activations"] / 2
    assert three["memory"]["moments"] == one["memory"]["moments"] // 4 and three["parameters"] == one["parameters"]
    assert "4 x a100 at 54.6 TFLOP/s" in str(outcome.verdict), "0.35 of TF32"
    assert "communication between GPUs" in notes and outcome.facts["precision"] == "fp32", "as the recipe says"


@pytest.mark.slow  # several networks are counted
def test_gpus_that_are_kept_at_work_share_it() -> None:
    how = {"preset": "dit-b/2", "latent": (4, 32, 32), "where": "a100", "batch_size": 256}
    one, four = (run(Estimate(**how, gpus=gpus), Noted()).facts["stages"][0] for gpus in (1, 4))
    assert 0.8 < four["rate"] / (4 * one["rate"]) < 1.2 and four["limit"] == "arithmetic"
    passes = 312e12 * 0.35 / one["operations"]
    assert 0.8 * passes < one["rate"] < passes, "Muon takes the rest"


@pytest.mark.slow
def test_small_networks_reach_less_of_a_gpus_peak_which_is_said_to_be_unmeasured() -> None:
    how = {"preset": "dit-s/2", "latent": (4, 32, 32), "where": "a100", "batch_size": 256}
    usual, given = Noted(), Noted()
    small = run(Estimate(**how), usual).facts["stages"][0]
    assert 0.95 < small["rate"] * small["operations"] / (312e12 * 0.22) < 1, "Muon takes the rest"
    assert any(note.startswith("not measured: that training reaches 35%") for note in usual.notes)
    stage = run(Estimate(**how, utilisation=0.35), given).facts["stages"][0]
    assert stage["rate"] == pytest.approx(small["rate"] * 0.35 / 0.22)
    assert not any(note.startswith("not measured") for note in given.notes)


@pytest.mark.slow  # several networks are counted
def test_small_networks_are_limited_by_the_launching_of_kernels(tmp_path: Path, images: Path) -> None:
    stages, outcome, notes = estimated(tmp_path, images, where="b200")
    assert {each["limit"] for each in stages.values()} == {"launches"} and "takes at least" in str(outcome.verdict)
    assert "5 us for each kernel" in notes and "that the CPU decodes" in notes and "limited by" in outcome.summary
    slower, _, _ = estimated(tmp_path, images, where="rtx3090")
    for name, each in stages.items():
        assert each["rate"] == slower[name]["rate"] < 3e6, f"{name}: launches are those of the host"
    training = stages["train-vqvae"]
    steps = training["images"] / training["batch"]
    assert 100 * LAUNCH < training["seconds"] / steps < 2000 * LAUNCH, "a step has hundreds of kernels"
    known, _, notes = estimated(tmp_path, images, flops=1e15)
    assert known["train-vqvae"]["limit"] is None and "reach less of it" in notes


@pytest.mark.slow  # several networks are counted
def test_a_compiled_network_launches_less(tmp_path: Path) -> None:
    eager, _, _ = estimated(tmp_path, where="a100", machine={"compile": False})
    compiled, _, _ = estimated(tmp_path, where="a100", machine={"compile": True})
    for name in ("train-dit", "sample"):
        assert 2 * eager[name]["rate"] < compiled[name]["rate"] < 4 * eager[name]["rate"]


def test_larger_denoisers_and_other_latents_can_be_asked_for_without_a_recipe() -> None:
    how = Estimate(preset="dit-xs", latent=(4, 16, 16), classes=1000, where="h200", batch_size=16)
    outcome = run(how, Noted())
    (training, drawing) = outcome.facts["stages"]
    assert training["stage"] == "train-dit" and drawing["stage"] == "sample" and training["batch"] == 16
    assert training["parameters"] > 3e6 and outcome.facts["precision"] == "bf16"
    assert training["memory"]["recomputing"] < training["memory"]["together"]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"gpus": 3}, "a batch of 8 does not divide among 3 GPUs"),
        ({"utilisation": 0.5}, "`utilisation` has no effect"),
    ],
)
def test_what_cannot_be_estimated_is_refused(tmp_path: Path, how: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        estimated(tmp_path, **how)


def test_a_format_that_a_gpu_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="precision=bf16` is not supported on v100"):
        estimated(tmp_path, where="v100", machine={"precision": "bf16"})


def test_the_command_prints_a_table_and_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.yaml").write_text(RECIPE.replace("SOURCE", "nowhere"))
    monkeypatch.chdir(tmp_path)
    words = ["estimate", "mine.yaml", "--flops", "2T", "--dataset", "1k", "--classes", "3"]
    assert ldm(words) == 0
    out = capsys.readouterr().out
    assert "train-vqvae" in out and "FLOP an image" in out and "700 GFLOP/s" in out
    assert ldm([*words, "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (
        next(event for event in events if event["event"] == "outcome")["facts"]["stages"][0]["stage"] == "train-vqvae"
    )


def test_rehearsed_steps_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    config = TrainVQVAE.model_validate({"data": {"image_size": 16}, "model": {"preset": "vqvae-xs", "channels": 8}})
    policy = Policy(torch.device("cpu"), torch.float32)
    task = train_autoencoder.AutoencodingTask(config, dummy.images(config.data, 3), policy)
    plan = replace(Plan(**config.train.model_dump(), seed=0), batch_size=8)
    seconds, count = loop.rehearse(task, plan, policy, 0.1)
    assert seconds > 0 and count >= 1 and not list(tmp_path.iterdir())
    assert isinstance(task.modules, nn.Module)


@pytest.mark.parametrize(
    ("typed", "read"), [("250G", 250e9), ("1.9T", 1.9e12), ("2e12", 2e12), ("5", 5.0), ("fast", "fast")]
)
def test_rates_are_read_with_their_letters(typed: str, read: object) -> None:
    assert parse_rate(typed) == read


def test_numbers_are_written_short() -> None:
    assert [amount(x) for x in (0, 7, 999, 1234, 712e9, 999.7e9, 1.46e18)] == [
        "0",
        "7",
        "999",
        "1.23 k",
        "712 G",
        "1 T",
        "1.46 E",
    ]
    assert [duration(x) for x in (0.04, 8.24, 42, 90, 4000, 20000, 400000)] == [
        "0.0 s",
        "8.2 s",
        "42 s",
        "1 min 30 s",
        "1 h 6 min",
        "5 h 33 min",
        "4 days 15 h",
    ]


def test_a_table_has_the_rows_that_any_stage_fills() -> None:
    rows = table([StageCost("one", images=1500, rate=2.5), StageCost("another", seconds=90)])
    assert rows == {
        "stage": "  one     another",
        "images": "1,500            ",
        "images/s": "  2.5            ",
        "time": "       1 min 30 s",
    }


def test_runs_of_the_tests_are_not_estimated_in_another_format() -> None:
    assert MACHINE["precision"] == "fp32"
