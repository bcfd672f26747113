"""`ldm edit`: exact at its ends, whatever images come in; and each image is edited alike alone and among others."""

import io
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from ldm.core.errors import ConfigError, DataError, Stopped
from ldm.core.images.decode import decode, to_training, write_png
from ldm.core.pipeline import drawing
from ldm.core.pipeline.drawing import open_model
from ldm.core.progress import Silent
from ldm.core.system.precision import resolve
from ldm.stages.configs.folders import Verify
from ldm.stages.tools import verify
from tests.support.pipeline_run import Pipeline, manifest, png_files, pngs, some_of

SIDE = 16


def read(path: Path) -> np.ndarray:
    return decode(path.read_bytes(), str(path))


def write_mask(folder: Path, levels: np.ndarray) -> Path:
    write_png(folder / "mask.png", levels.astype(np.uint8))
    return folder / "mask.png"


def square(location: str) -> np.ndarray:
    return to_training(read(Path(location)), SIDE)


def only(folder: Path) -> bytes:
    (content,) = pngs(folder).values()
    return content


def test_strength_one_is_the_sample_of_that_seed_to_the_byte(trained: Pipeline) -> None:
    image = some_of(trained.images)[:1]
    drawn = trained.run("edit", images=image, classes="green", strength=[1.0], seed=5, cfg=2).directory
    sampled = trained.run(
        "sample", classes="green", num=1, seed=5, steps=4, cfg=2, label="plain", metadata=False
    ).directory
    assert only(drawn) == only(sampled)


def test_strength_zero_is_what_the_autoencoder_makes_of_the_image(trained: Pipeline) -> None:
    images = some_of(trained.images)
    config = trained.config("edit", images=images, strength=[0.0], classes="red")
    folder = trained.run("edit", images=images, strength=[0.0], classes="red").directory
    policy = resolve("cpu", "fp32")
    model = open_model(config).load(config, policy)
    squares = np.stack([square(image) for image in images])
    expected = model.decode(model.encode(squares, policy), policy)
    assert np.array_equal(np.stack([read(folder / name) for name in sorted(pngs(folder))]), expected)


@pytest.mark.parametrize("resample", [1, 2])
def test_a_black_mask_returns_the_image_and_a_white_one_the_sample(
    trained: Pipeline, tmp_path: Path, resample: int
) -> None:
    (image,) = some_of(trained.images, 1)
    more: dict[str, Any] = {
        "images": [image],
        "classes": "red",
        "cfg": 2,
        "replace": True,
        "resample": resample,
        "strength": None,
        "jump": 2,
    }
    black = trained.run("edit", mask=write_mask(tmp_path, np.zeros((7, 9))), label="black", **more).directory
    (name,) = pngs(black)
    assert np.array_equal(read(black / name), square(image))
    if resample == 1:
        white = trained.run("edit", mask=write_mask(tmp_path, np.full((7, 9), 255)), label="white", **more).directory
        plain = trained.run("sample", classes="red", num=1, steps=4, cfg=2, label="unmasked", metadata=False).directory
        assert only(white) == only(plain)


def test_what_lies_outside_of_a_box_keeps_its_bytes_and_the_inside_changes(trained: Pipeline) -> None:
    images = some_of(trained.images)
    folder = trained.run(
        "edit", images=images, classes="blue", box=[5, 4, 10, 8], strength=None, feather=0, label="box"
    ).directory
    for image, name in zip(images, sorted(pngs(folder)), strict=True):
        before, after = square(image).astype(int), read(folder / name).astype(int)
        inside = np.zeros((20, 20), np.uint8)  # the images have 20 pixels, of which 16 are made
        inside[4:12, 5:15] = 255
        kept = to_training(np.repeat(inside[:, :, None], 3, 2), SIDE)[:, :, 0] == 0
        assert np.array_equal(before[kept], after[kept]) and (before != after)[~kept].mean() > 0.5


def test_an_image_in_larger_margins_stays_in_its_middle(trained: Pipeline, tmp_path: Path) -> None:
    image = tmp_path / "half.png"
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    write_png(image, pixels)
    made = trained.run(
        "edit", images=[str(image)], outpaint="left=8", strength=None, classes="red", feather=0, label="out"
    ).directory
    (name,) = pngs(made)
    drawn = read(made / name)
    assert np.array_equal(drawn[4:12, 8:], pixels), "eight more at the left, and as many above and below together"


@pytest.mark.parametrize("kind", ["grey", "alpha", "turned by EXIF", "wide", "tiny"])
def test_images_of_any_size_and_mode_are_edited(trained: Pipeline, tmp_path: Path, kind: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (24, 24, 3)).astype(np.uint8)
    picture = Image.fromarray(pixels)
    exif = Image.Exif()
    if kind == "grey":
        picture = picture.convert("L")
    elif kind == "alpha":
        picture.putalpha(100)
    elif kind == "turned by EXIF":
        exif[0x0112] = 6
    elif kind == "wide":
        picture = picture.resize((300, 20))
    else:
        picture = picture.resize((3, 2))
    picture.save(tmp_path / "image.png", exif=exif)
    path = str(tmp_path / "image.png")
    folder = trained.run("edit", images=[path], mask=write_mask(tmp_path, np.zeros((5, 5))), label=kind).directory
    (name,) = pngs(folder)
    assert np.array_equal(read(folder / name), square(path))


def test_bad_input_is_named(trained: Pipeline, tmp_path: Path) -> None:
    cut = tmp_path / "cut.png"
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((30, 30, 3), np.uint8)).save(buffer, format="PNG")
    cut.write_bytes(buffer.getvalue()[:60])
    os.mkfifo(pipe := tmp_path / "pipe.png")
    for images, words in (
        ([str(pipe)], "pipe.png"),
        ([str(cut)], "cut.png"),
        ([*some_of(trained.images), str(cut)], "cut.png"),
        ([str(tmp_path / "none.png")], "none.png"),
        ([str(tmp_path / "nowhere")], "nowhere does not exist"),
    ):
        with pytest.raises(DataError, match=re.escape(words)):
            trained.run("edit", images=images, label="refused")
        assert not (trained.folder / "edits/refused/identity.json").exists(), "an edit that was never begun"
    with pytest.raises(ConfigError, match="no images given"):
        trained.run("edit", images=[])
    with pytest.raises(DataError, match="20 x 20 pixels, in which the box 15,0,10,5 does not"):
        trained.run("edit", box=[15, 0, 10, 5])
    with pytest.raises(ConfigError, match=r"`mask=.*gone\.png` is not a file"):
        trained.run("edit", mask=tmp_path / "gone.png")
    with pytest.raises(ConfigError, match="`start_index=9` is beyond the last step, 4"):
        trained.run("edit", strength=None, start_index=[9])
    with pytest.raises(ConfigError, match="none is given"):
        trained.run("edit", cfg=3)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"start_index": [1]}, "two forms"),
        ({"box": [0, 0, 1, 1], "outpaint": "left=3"}, "give one of them"),
        ({"outpaint": "above=3"}, "left=32,top=16"),
        ({"inversion": True, "sampler": "ddpm"}, "deterministic"),
        ({"inversion": True, "box": [0, 0, 1, 1]}, "leave out the mask"),
        ({"from_class": "red"}, "without `inversion`"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(trained: Pipeline, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        trained.config("edit", **settings)


def test_places_in_the_grid_and_strengths_name_the_same_times(trained: Pipeline) -> None:
    by_place = trained.run("edit", strength=None, start_index=[1, 3], label="places").directory
    by_time = trained.run("edit", strength=[0.75, 0.25], label="times").directory
    assert pngs(by_place) == pngs(by_time)
    found = [(each["strength"], each["snr_db"]) for each in manifest(by_time)["facts"]["images"][:2]]
    assert [strength for strength, _ in found] == [0.75, 0.25] and found[0][1] < 0 < found[1][1]


def test_an_image_is_edited_alike_alone_among_others_and_by_any_seed_list(trained: Pipeline) -> None:
    images = some_of(trained.images)
    settings: dict[str, Any] = {"classes": "red,blue", "strength": [0.3, 0.8], "sampler": "ddpm"}
    together = trained.run("edit", images=images, num=2, label="together", **settings).directory
    alone = trained.run("edit", images=images[1:2], seed=1, label="by itself", **settings).directory
    by_content = {
        tuple(each[key] for key in ("image", "class", "seed", "strength")): (together / each["file"]).read_bytes()
        for each in manifest(together)["facts"]["images"]
    }
    assert len(by_content) == 3 * 2 * 2 * 2
    for each in manifest(alone)["facts"]["images"]:
        known = by_content[tuple(each[key] for key in ("image", "class", "seed", "strength"))]
        assert (alone / each["file"]).read_bytes() == known


def test_an_interrupted_edit_of_many_goes_on_to_the_same_bytes(
    copied: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"images": [str(copied.images / "red")], "batch_size": 8, "strength": [0.25, 0.5]}
    generate, calls = drawing.generate, 0

    def stopping(*given: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise Stopped("stopped in the middle")
        return generate(*given, **more)

    monkeypatch.setattr(drawing, "generate", stopping)
    with pytest.raises(Stopped):
        copied.run("edit", label="many", **settings)
    monkeypatch.undo()
    assert len(pngs(copied.folder / "edits" / "many")) == 24
    folder = copied.run("edit", label="many", **settings).directory
    whole = copied.run("edit", label="whole", **settings).directory
    assert pngs(folder) == pngs(whole) and len(pngs(folder)) == 80
    assert copied.run("edit", label="many", **settings).already_complete
    assert verify.run(Verify(path=copied.folder), Silent()).verdict == "is whole"


@pytest.mark.slow
def test_a_folder_of_a_thousand_images_goes_on_where_it_stopped(copied: Pipeline, tmp_path: Path) -> None:
    folder = tmp_path / "thousand"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(1000):
        write_png(folder / f"{number}.png", random.integers(0, 255, (20, 20, 3)).astype(np.uint8))

    class Stopping(Silent):
        drawing = False

        def start(self, title: str, total: int, unit: str, done: int = 0) -> None:
            self.drawing = title == "sampling"

        def update(self, done: int, **numbers: float) -> None:
            if self.drawing and done == 512:
                raise Stopped("stopped in the middle")

    with pytest.raises(Stopped):
        copied.run("edit", Stopping(), images=[str(folder)], label="some")
    begun = {
        name: (copied.folder / "edits/some" / name).stat().st_mtime_ns for name in pngs(copied.folder / "edits/some")
    }
    made = copied.run("edit", images=[str(folder)], label="some").directory
    assert len(pngs(made)) == 1000 and len(begun) >= 448
    assert all((made / name).stat().st_mtime_ns == written for name, written in begun.items()), "nothing is drawn twice"


def test_inversion_is_recorded_with_the_error_of_its_reconstruction(trained: Pipeline) -> None:
    images = some_of(trained.images)
    settings: dict[str, Any] = {"images": images, "inversion": True, "classes": "green", "strength": [0.5]}
    folder = trained.run("edit", from_class="red", label="inverted", **settings).directory
    facts = manifest(folder)["facts"]
    pairs = [facts["images"][number : number + 2] for number in (0, 2, 4)]
    assert all(own["class"] == "red" and own["reconstruction"] and other["class"] == "green" for own, other in pairs)
    errors = [own["psnr"] for own, _ in pairs]
    assert facts["psnr"] == pytest.approx(np.mean(errors)) and facts["psnr_of_autoencoder"] > 0
    exact = trained.run("edit", label="to the start", **{**settings, "strength": [0.0]}).directory
    found = manifest(exact)["facts"]
    assert found["psnr"] == pytest.approx(found["psnr_of_autoencoder"], abs=1e-4)


def test_without_a_class_a_model_without_a_null_is_refused(copied: Pipeline) -> None:
    copied.run("train-dit", label_dropout=0, replace=True)
    with pytest.raises(ConfigError, match=r"draws nothing without a class.*give `classes`"):
        copied.run("edit")
    with pytest.raises(ConfigError, match=r"`inversion` takes the class.*label dropout 0.*give `from_class`"):
        copied.run("edit", inversion=True, classes="red", cfg=1, label="inverted")
    assert not (copied.folder / "edits" / "inverted" / "identity.json").exists(), "an edit that was never begun"
    copied.run("edit", inversion=True, classes="red", from_class="blue", cfg=1, label="inverted")
    assert len(pngs(copied.run("edit", classes="red", cfg=1).directory)) == 3


def test_saved_latents_are_those_that_the_images_were_decoded_from_and_change_no_image(copied: Pipeline) -> None:
    settings: dict[str, Any] = {"classes": "red", "strength": [0.5, 1.0]}
    plain = copied.run("edit", label="plain", **settings).directory
    folder = copied.run("edit", label="with-latents", save_latents=True, **settings).directory
    assert png_files(folder) == png_files(plain)
    config = copied.config("edit", **settings)
    model, policy = open_model(config).load(config, resolve("cpu", "fp32")), resolve("cpu", "fp32")
    for name in pngs(folder):
        latent = load_file(folder / name.replace("png", "safetensors"))["latent"]
        decoded = model.decode(latent[None], policy)[0].astype(int)
        assert tuple(latent.shape) == model.latent_shape and np.abs(decoded - read(folder / name)).max() <= 1

    # One that is damaged is made again, with its image, to the same bytes.
    lost = folder / "000001-001.safetensors"
    before = lost.read_bytes()
    lost.write_bytes(b"damaged")
    assert copied.run("edit", label="with-latents", save_latents=True, **settings).directory == folder
    assert lost.read_bytes() == before


@pytest.mark.parametrize(
    ("command", "settings"),
    [
        ("sample", {"num": 1}),
        ("anagram", {"classes": ["red", "blue"], "view": "flip", "num": 3}),
        ("hybrid", {"near": "red", "far": "blue", "num": 3}),
        ("interpolate", {"classes": ["red", "blue"], "frames": 3}),
    ],
)
def test_every_command_that_draws_saves_a_latent_for_each_image(
    trained: Pipeline, command: str, settings: dict[str, Any]
) -> None:
    folder = trained.run(command, label="latents", save_latents=True, **settings).directory
    files = manifest(folder)["files"]
    assert len(pngs(folder)) == 3 and all(name.replace("png", "safetensors") in files for name in pngs(folder))
