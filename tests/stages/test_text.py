"""A model of captions goes through every stage: from text files beside images to images of prompts."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import ldm
from ldm.cli import sweep
from ldm.core.conditioning import bpe
from ldm.core.conditioning.registry import conditioning_of
from ldm.core.conditioning.text import TextConditioning
from ldm.core.errors import ConfigError, DataError
from ldm.core.features.texts import open_encoders
from ldm.core.images.parameters import read_parameters
from ldm.core.latents.shards import load_shard
from ldm.core.pipeline.training_data import training_data
from ldm.core.progress import Silent
from ldm.core.runs.run import MANIFEST
from ldm.core.system.precision import resolve
from ldm.stages import sample
from ldm.stages.configs import Sample
from ldm.stages.configs.folders import Inspect, Verify
from ldm.stages.configs.report import Report
from ldm.stages.configs.sweep import Sweep
from ldm.stages.tools import inspect, report, verify
from tests.support.forgery import change_manifest
from tests.support.pipeline_run import COLOURS, MACHINE, Heard, Pipeline, manifest, png_files, pngs
from tests.support.text_encoders import save_bert, save_clip

SMALL = {"model__preset": "mmdit-xs", "model__text_width": 16, "model__text_layers": 1}
PROMPTS = ("a red square on blue", "green on a red ground")


def write_captioned(folder: Path, count: int = 48, size: int = 16) -> Path:
    """Write squares of one colour on another, each with two captions beside it, the second one shorter."""
    folder.mkdir(parents=True)
    draws = np.random.default_rng(0)
    for number in range(count):
        names = draws.choice([*COLOURS], 2, replace=False)
        pixels = np.full((size, size, 3), COLOURS[names[1]], dtype=np.uint8)
        down, right = draws.integers(0, size // 2, 2)
        pixels[down : down + size // 2, right : right + size // 2] = COLOURS[names[0]]
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
        text = f"A {names[0]} square on {names[1]}\n{names[0]} on a {names[1]} ground\n"
        (folder / f"{number:03d}.txt").write_text(text if number % 3 else text.splitlines()[0])
    return folder


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A run of captioned images, whose latents are pixels; not to be changed."""
    root = tmp_path_factory.mktemp("text")
    pipeline = Pipeline(root / "runs", write_captioned(root / "images"))
    pipeline.run("train-autoencoder", model={"preset": "identity"})
    pipeline.run("encode")
    pipeline.run("train-denoiser", **SMALL)
    return pipeline


@pytest.fixture
def copied(captioned: Pipeline, tmp_path: Path) -> Pipeline:
    return captioned.copy(tmp_path)


def text_of(pipeline: Pipeline, stage: str = "denoiser") -> TextConditioning:
    found = conditioning_of(manifest(pipeline.folder / stage)["facts"])
    assert isinstance(found, TextConditioning)
    return found


def test_shards_hold_the_ids_and_the_text_of_every_caption(captioned: Pipeline) -> None:
    folder = captioned.folder / "latents"
    _, samples = load_shard(folder / "shard-000000.tar", 0)
    for each in samples:
        texts = each.texts["txt"].splitlines()
        beside = (captioned.images / each.name).with_suffix(".txt").read_text().splitlines()
        assert texts == beside and each.arrays["caption_lengths.npy"].tolist() == [len(bpe.encode(t)) for t in texts]
        assert each.arrays["caption_ids.npy"].tolist() == [number for text in texts for number in bpe.encode(text)]
    made = manifest(folder)
    assert made["facts"]["flips"] is False and "flip.npy" not in samples[0].arrays
    assert made["facts"]["fields"]["caption_ids.npy"]["made_by"] == made["inputs"]["captions"]["fingerprint"]
    assert verify.run(Verify(path=captioned.folder), Silent()).exit_code == 0


def test_the_network_knows_the_ids_of_training_captions_alone(captioned: Pipeline) -> None:
    text, trained = text_of(captioned), set[int]()
    folder = captioned.folder / "latents"
    for name in manifest(folder)["facts"]["shards"]["train"]:
        for each in load_shard(folder / name, 16 * int(name[6:12]))[1]:
            trained |= set(each.arrays["caption_ids.npy"].tolist())
    assert text.vocabulary == tuple(sorted(trained)) and text.length == 8
    config = json.loads((captioned.folder / "denoiser" / "final" / "config.json").read_text())["config"]
    assert config["vocabulary"] == len(trained) + 1 and config["text_length"] == 8
    ids = text.request({"prompt": "a red zebra"}).cond["ids"][0].tolist()
    known = [text.vocabulary.index(each) for each in (bpe.START, *bpe.encode("a red")[1:3])]
    assert ids[:4] == [*known, len(trained)], "an id that no training caption has is the last one"


def test_which_caption_is_read_follows_from_seed_and_position(captioned: Pipeline) -> None:
    config, policy = captioned.config("train-denoiser", **SMALL), resolve("cpu", "fp32")
    train = training_data(None, config, policy, 0.1).read(policy, Silent()).train
    rows = np.repeat(np.arange(4), 64)
    positions = np.arange(len(rows))
    one, again = train.cond(rows, positions, 3), train.cond(rows[100:], positions[100:], 3)
    assert torch.equal(one["ids"][100:], again["ids"]) and torch.equal(one["mask"][100:], again["mask"])
    assert not torch.equal(one["ids"], train.cond(rows, positions, 4)["ids"])
    for row, each in enumerate(load_shard(captioned.folder / "latents" / "shard-000000.tar", 0)[1][:4]):
        seen, counts = one["ids"][rows == row].unique(dim=0, return_counts=True)
        assert len(seen) == len(each.texts["txt"].splitlines()) and counts.min() >= 16


def test_latents_of_pixels_need_no_shards_for_captions(captioned: Pipeline, tmp_path: Path) -> None:
    config, policy = captioned.config("train-denoiser", **SMALL), resolve("cpu", "fp32")
    from_shards = training_data(None, config, policy, 0.1)
    bare = Pipeline(tmp_path, captioned.images)
    bare.run("train-autoencoder", model={"preset": "identity"})
    from_images = training_data(None, bare.config("train-denoiser", **SMALL), policy, 0.1)
    assert from_images.conditioning == from_shards.conditioning
    train, same = (data.read(policy, Silent()).train for data in (from_images, from_shards))
    rows, positions = np.array([3, 1, 7]), np.array([40, 41, 42])
    for name, field in train.cond(rows, positions, 1).items():
        assert torch.equal(field, same.cond(rows, positions, 1)[name])
    assert torch.equal(train.batch(rows, positions, 1), train.batch(rows, positions, 1, flips=False)), "none mirrored"
    bare.run("train-denoiser", **SMALL, train__images=16, preview__every=0)
    assert "captions" in manifest(bare.folder / "denoiser")["inputs"]
    (captioned.images / "000.txt").rename(tmp_path / "aside.txt")
    try:
        with pytest.raises(DataError, match=r"has no captions of 000\.png, while others have"):
            bare.run("train-denoiser", **SMALL, train__images=32, preview__every=0)
    finally:
        (tmp_path / "aside.txt").rename(captioned.images / "000.txt")


def test_prompts_are_drawn_recorded_and_named_under_the_pictures(copied: Pipeline, tmp_path: Path) -> None:
    listed, heard = tmp_path / "prompts.txt", Heard()
    listed.write_text(f"{PROMPTS[1]}\n\na zebra on red\n")
    outcome = copied.run("sample", heard, prompt=PROMPTS[:1], prompts=str(listed), num=2, cfg=2.0)
    drawn = manifest(outcome.directory)["facts"]
    assert [image["prompt"] for image in drawn["images"]] == [t for t in (*PROMPTS, "a zebra on red") for _ in range(2)]
    assert any("no training caption has 'zebra'" in warning for warning in heard.warnings)
    carried = read_parameters(outcome.directory / "000002.png")
    assert carried.condition == {"prompt": PROMPTS[1]} and carried.settings["prompt"] == PROMPTS[1]
    place = {"name": copied.name, "runs_dir": copied.runs_dir, "machine": MACHINE}
    again = sample.run(Sample.model_validate({**place, "like": outcome.directory / "000002.png"}), Silent()).directory
    assert png_files(again) == {"000002.png": (outcome.directory / "000002.png").read_bytes()}
    opened = ldm.open(copied.folder, **MACHINE)
    assert np.array_equal(opened.sample(PROMPTS, seeds=[0], cfg=2.0, steps=3)[0], first_of(pngs(outcome.directory)))


def first_of(drawn: dict[str, bytes]) -> np.ndarray:
    return np.frombuffer(drawn["000000.png"], dtype=np.uint8).reshape(16, 16, 3)


def test_a_negative_prompt_is_guided_away_from(copied: Pipeline) -> None:
    def drawn(**how: Any) -> dict[str, bytes]:
        return pngs(
            copied.run("sample", prompt=PROMPTS[:1], num=2, cfg=300.0, **how).directory
        )  # trained for an instant

    plain, away = drawn(), drawn(away_from="a blue square")
    assert plain != away and drawn(away_from="") == plain, "the null is the empty caption"


def test_without_prompts_the_captions_of_held_out_images_are_drawn(copied: Pipeline) -> None:
    prompts = text_of(copied).prompts
    held_out = [each.texts["txt"].splitlines() for each in load_shard(copied.folder / "latents/val-000000.tar", 0)[1]]
    assert prompts and all(any(prompt in texts for texts in held_out) for prompt in prompts)
    drawn = manifest(copied.run("sample", num=1).directory)["facts"]["images"]
    assert tuple(image["prompt"] for image in drawn) == prompts


def test_the_way_from_one_prompt_to_another_is_drawn(copied: Pipeline) -> None:
    folder = copied.run("interpolate", prompt=PROMPTS, frames=2, cfg=2.0).directory
    drawn = manifest(folder)["facts"]["images"]
    assert [record["prompt"] for record in drawn[0]["conditions"]] == [*PROMPTS]
    assert read_parameters(folder / "000001.png").settings["prompt"] == [*PROMPTS]


def test_what_lacks_a_prompt_is_told_to_give_one(copied: Pipeline) -> None:
    images = [str(copied.images / "000.png")]
    for command, how in (("edit", {"images": images}), ("interpolate", {"to_seed": 1})):
        with pytest.raises(ConfigError, match=r"none is given \(add `prompt`"):
            copied.run(command, cfg=2.0, **how)
    copied.run("train-denoiser", label_dropout=0, replace=True, **SMALL)
    with pytest.raises(ConfigError, match=r"draws nothing without a class or prompt \(give `prompt`\)"):
        copied.run("edit", images=images)


@pytest.mark.slow
def test_every_command_that_draws_takes_prompts(copied: Pipeline, trained: Pipeline) -> None:
    measured = {"features": "classifier", "weights": trained.folder / "classifier" / "final"}
    copied.run("edit", images=[str(copied.images / "000.png")], prompt=PROMPTS, cfg=2.0)
    copied.run("anagram", prompt=PROMPTS, num=1, cfg=2.0)
    copied.run("hybrid", near=PROMPTS[0], far=PROMPTS[1], num=1, cfg=2.0)
    copied.run("sample", prompt=PROMPTS, num=12, label="some", progressive=True)
    copied.run("eval", samples="some", **measured)
    place = {"name": copied.name, "runs_dir": copied.runs_dir}
    sweep.run(Sweep(**place, machine=MACHINE, cfg=(1.0, 2.0), steps=(2,), num=8, prompt=PROMPTS, **measured), Silent())
    report.run(Report(**place), Silent())
    assert PROMPTS[0] in (copied.folder / "report.html").read_text()


def test_prompts_and_classes_are_reported_apart(copied: Pipeline, trained: Pipeline, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"`classes=red`: this model is conditioned on texts"):
        copied.run("sample", classes="red")
    labelled = trained.copy(tmp_path / "labelled")
    with pytest.raises(ConfigError, match=r"`prompt=a cat`: this model is conditioned on classes") as refused:
        labelled.run("sample", prompt=("a cat",))
    assert "give `classes`" in str(refused.value.remedy)
    with pytest.raises(ConfigError, match="the dit family takes labels, not text") as refused:
        copied.run("train-dit", replace=True)
    assert "mmdit" in str(refused.value.remedy)
    with pytest.raises(ConfigError, match=r"`conditioning=text`: .* has labels"):
        labelled.run("train-denoiser", conditioning="text", replace=True, **SMALL)


def test_a_resumed_training_on_captions_ends_in_the_weights_of_an_uninterrupted_one(
    captioned: Pipeline, copied: Pipeline
) -> None:
    folder = copied.folder / "denoiser"
    (folder / MANIFEST).unlink()
    shutil.rmtree(folder / "final")
    shutil.rmtree(folder / "checkpoints" / "0000000064")
    copied.run("train-denoiser", **SMALL)
    resumed, whole = ((p.folder / "denoiser" / "final" / "model.safetensors").read_bytes() for p in (copied, captioned))
    assert resumed == whole


@pytest.fixture(scope="module")
def frozen(captioned: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """The run with captions encoded by a frozen encoder of transformers; not to be changed."""
    pytest.importorskip("transformers")
    root = tmp_path_factory.mktemp("frozen")
    pipeline = captioned.copy(root)
    save_bert(root / "bert")
    pipeline.run("encode", replace=True, text={"encoder": str(root / "bert")})
    pipeline.run("train-denoiser", replace=True, **SMALL)
    return pipeline


def test_vectors_of_a_frozen_encoder_are_written_once_and_read_again(frozen: Pipeline) -> None:
    text, folder = text_of(frozen, "latents"), frozen.folder / "latents"
    encoder = open_encoders([Path(part["folder"]) for part in text.encoder["parts"]], "auto", torch.device("cpu"))
    _, samples = load_shard(folder / "shard-000000.tar", 0)
    for each in samples[:4]:
        made = [encoded.rows for encoded in encoder.encode(each.texts["txt"].splitlines(), text.length)]
        assert each.arrays["caption_lengths.npy"].tolist() == [len(rows) for rows in made]
        assert np.allclose(each.arrays["caption_tokens.npy"], np.concatenate(made), atol=2e-3)
    assert manifest(folder)["inputs"]["text_encoder"]["fingerprint"] == text.encoder["parts"][0]["sha256"]
    assert verify.run(Verify(path=frozen.folder), Silent()).exit_code == 0
    shown = inspect.run(Inspect(path=folder), Silent()).summary
    assert shown["of captions"].endswith("still the same") and shown["of text_encoder"].endswith("still the same")
    denoiser = text_of(frozen)
    assert denoiser.sizes == {"token_width": 16, "pooled_width": 0, "text_length": text.length}
    null = denoiser.null(2, torch.device("cpu"))
    assert null["mask"].sum(1).tolist() == [2, 2] and null["tokens"].shape == (2, text.length, 16)
    assert torch.allclose(null["tokens"][0, :2], torch.from_numpy(encoder.encode([""], 8)[0].rows).float(), atol=2e-3)


def test_new_prompts_need_the_encoder_and_only_that_one(frozen: Pipeline, tmp_path: Path) -> None:
    copied = frozen.copy(tmp_path)
    folder = Path(text_of(copied).encoder["parts"][0]["folder"])
    drawn = pngs(copied.run("sample", prompt=PROMPTS, num=1, cfg=2.0, away_from="blue").directory)
    folder.rename(folder.with_name("moved"))
    try:
        copied.run("sample", num=1, cfg=2.0)  # The prompts of previews were encoded before.
        with pytest.raises(DataError, match="bert is gone: the model needs its bert text encoder"):
            copied.run("sample", prompt=PROMPTS, num=1, cfg=2.0, away_from="blue", label="gone")
        moved = copied.run(
            "sample",
            prompt=PROMPTS,
            num=1,
            cfg=2.0,
            away_from="blue",
            label="moved",
            text_encoder=str(folder.with_name("moved")),
        )
        assert pngs(moved.directory) == drawn
        save_bert(folder, seed=1)
        with pytest.raises(DataError, match="bert is another text encoder than the bert"):
            copied.run("sample", prompt=PROMPTS, num=1, cfg=2.0, label="other")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_name("moved").rename(folder)
    with pytest.raises(DataError, match="another text encoder"):
        save_bert(tmp_path / "new", seed=2)
        copied.run("sample", prompt=PROMPTS, text_encoder=str(tmp_path / "new"))


def test_own_takes_no_other_encoder_beside_it(captioned: Pipeline, tmp_path: Path) -> None:
    copied = captioned.copy(tmp_path)
    with pytest.raises(ConfigError, match=r"`text\.encoder=own` is alone"):
        copied.run("encode", replace=True, text={"encoder": ("own", str(tmp_path))})
    with pytest.raises(ConfigError, match="the model has no frozen text encoder"):
        copied.run("sample", text_encoder=str(tmp_path))


def test_a_training_that_starts_from_another_keeps_the_rows_of_words_that_both_know(
    captioned: Pipeline, tmp_path: Path
) -> None:
    other = Pipeline(tmp_path / "runs", write_captioned(tmp_path / "images", 24))
    for number in range(24):
        (other.images / f"{number:03d}.txt").write_text("a zebra square on red")
    other.run("train-autoencoder", model={"preset": "identity"})
    other.run("encode")
    heard = Heard()
    other.run("train-denoiser", heard, **SMALL, train__images=8, train__lr=1e-9, start_from=captioned.folder)
    assert any("new: zebra</w>" in note and "left out" in note for note in heard.notes)
    tables = [load_file(p.folder / "denoiser/final/model.safetensors") for p in (captioned, other)]
    name = next(name for name in tables[0] if name.endswith("tower.table.weight"))
    rows = dict(zip(text_of(captioned).vocabulary, tables[0][name], strict=False))
    for number, row in zip(text_of(other).vocabulary, tables[1][name], strict=False):
        assert number not in rows or torch.allclose(row, rows[number], atol=1e-6)
    assert torch.allclose(tables[1][name][-1], tables[0][name][-1], atol=1e-6), "that of unknown words"


@pytest.mark.parametrize("reading", ["mapped", "streamed"])
def test_a_harmed_caption_is_named_before_it_is_read(copied: Pipeline, reading: str) -> None:
    path = copied.folder / "latents" / "shard-000000.tar"
    place = int(load_shard(path, 0)[0].offsets["caption_ids.npy"][3])
    whole = path.read_bytes()
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    shutil.rmtree(copied.folder / "denoiser")
    with pytest.raises(DataError, match=r"shard-000000\.tar"):
        copied.run("train-denoiser", reading=reading, **SMALL)


def test_a_manifest_with_another_vocabulary_than_the_network_is_refused(copied: Pipeline) -> None:
    folder = copied.folder / "denoiser"
    conditioning = manifest(folder)["facts"]["conditioning"]
    change_manifest(folder, conditioning={**conditioning, "vocabulary": [*conditioning["vocabulary"][1:], 49000]})
    with pytest.raises(DataError, match=r"facts\.conditioning is other than in final/config\.json"):
        copied.run("sample", num=1)


def test_captions_of_any_language_are_read(copied: Pipeline, tmp_path: Path) -> None:
    write_captioned(tmp_path / "odd", 12)
    for number, text in enumerate(("Ein rotes Quadrat 🟥", "赤い四角", "A", "x", "x" * 9000, "a b " * 400)):
        (tmp_path / "odd" / f"{number:03d}.txt").write_text(text, encoding="utf-8")
    heard = Heard()
    copied.run("encode", heard, replace=True, data={"source": str(tmp_path / "odd")})
    assert any("are longer than" in warning and "cut there" in warning for warning in heard.warnings)
    assert text_of(copied, "latents").length == 128


@pytest.mark.slow
def test_the_clip_score_of_samples_stands_beside_that_of_held_out_images(copied: Pipeline, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    save_clip(tmp_path / "clip", full=True)
    copied.run("sample", prompt=PROMPTS, num=2, label="some")
    folder = copied.run("eval", samples="some", clip=tmp_path / "clip").directory
    document = json.loads((folder / "metrics.json").read_text())
    assert 0 <= document["numbers"]["clip_score"] <= 100 and 0 <= document["real_against_real"]["clip_score"] <= 100
    with pytest.raises(ConfigError, match="these samples record none"):
        copied.run("eval", samples=str(copied.images), clip=tmp_path / "clip")


@pytest.mark.parametrize(
    "setting", [{"synthetic_share": 0.2}, {"synthetic_share": 0}, {"synthetic_first": "1k"}, {"synthetic_falling": 9}]
)
def test_synthetic_captions_that_are_not_there_are_refused(captioned: Pipeline, setting: dict[str, object]) -> None:
    with pytest.raises(
        ConfigError, match=r"`synthetic_(share=0\.2|share=0|first=1000|falling=9)`: the data have no synthetic captions"
    ):
        captioned.run("train-denoiser", **SMALL, **setting, label_dropout=0.2, replace=True)
    assert manifest(captioned.folder / "denoiser")["config"]["label_dropout"] == 0.1, "nothing is lost"
