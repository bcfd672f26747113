"""`ldm edit` by a next-scale transformer: tokens are kept from an image, by scale or outside of a mask."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ldm
from ldm.core.errors import ConfigError
from ldm.core.images.decode import as_tensor, as_uint8, decode, to_training, write_png
from ldm.core.images.parameters import read_parameters
from ldm.core.pipeline.generator import open_generator
from ldm.core.progress import Silent
from ldm.core.system.precision import resolve
from ldm.stages.configs.folders import Verify
from ldm.stages.table import STAGES
from ldm.stages.tools import verify
from tests.support.pipeline_run import MACHINE, Pipeline, manifest, png_files, pngs, some_of

SIDE = 16


@pytest.fixture(scope="module")
def trained(next_scale: Pipeline) -> Pipeline:
    return next_scale


def edited(pipeline: Pipeline, **changes: Any) -> Path:
    how = {"strength": None, "steps": None, "label": "some", "replace": True, **changes}
    return pipeline.run("edit", **how).directory


def read(path: Path) -> np.ndarray:
    return decode(path.read_bytes(), str(path))


def squares(pipeline: Pipeline) -> np.ndarray:
    return np.stack([to_training(read(Path(image)), SIDE) for image in some_of(pipeline.images)])


def write_mask(folder: Path, levels: np.ndarray) -> Path:
    write_png(folder / "mask.png", levels.astype(np.uint8))
    return folder / "mask.png"


def test_with_no_scale_kept_it_is_the_sample_of_that_seed_to_the_byte(trained: Pipeline) -> None:
    how: dict[str, Any] = {"classes": "green", "cfg": 2.0, "top_k": 8, "seed": 5}
    images = edited(trained, images=some_of(trained.images)[:2], keep_scales=[0], num=2, **how)
    sampled = pngs(trained.run("sample", num=2, steps=None, label="plain", **how).directory)
    found = [content for _, content in sorted(pngs(images).items())]
    assert found == 2 * [sampled["000005.png"], sampled["000006.png"]]


def test_with_all_scales_kept_it_is_what_the_images_own_tokens_decode_to(trained: Pipeline) -> None:
    folder = edited(trained, classes="red", keep_scales=[3])
    policy = resolve("cpu", "fp32")
    config = trained.config("sample", steps=None)
    codec = open_generator(config).generator(config, policy).autoencoder.codec  # type: ignore[attr-defined]
    images = as_tensor(squares(trained))
    expected = as_uint8(codec.decode(codec.from_tokens(codec.tokens(images))).detach().float().clamp(-1, 1))
    found = np.stack([read(folder / name) for name in sorted(pngs(folder))]).astype(int)
    assert np.abs(found - expected).max() <= 1, "other batches round otherwise"
    assert {each["kept_scales"] for each in manifest(folder)["facts"]["images"]} == {3}


def test_kept_scales_are_those_of_the_image_and_the_others_are_drawn(trained: Pipeline) -> None:
    folder = edited(trained, classes="red", cfg=2.0)
    kept = [each["kept_scales"] for each in manifest(folder)["facts"]["images"]]
    assert kept == 3 * [2, 1], "0.8 to 0.2 of three scales, each once"
    how: dict[str, Any] = {"images": some_of(trained.images)[:1], "num": 4, "cfg": 2.0}
    different = [len(set(pngs(edited(trained, classes="red", keep_scales=[kept], **how)).values())) for kept in (1, 3)]
    assert different == [4, 1], "seeds matter as long as any scale is drawn"


def test_a_black_mask_returns_the_image_and_a_white_one_the_sample(trained: Pipeline, tmp_path: Path) -> None:
    images = some_of(trained.images)[:1]
    how: dict[str, Any] = {"images": images, "classes": "red", "cfg": 2.0}
    black = edited(trained, mask=write_mask(tmp_path, np.zeros((7, 9))), **how)
    (name,) = pngs(black)
    assert np.array_equal(read(black / name), squares(trained)[0])
    white = edited(trained, mask=write_mask(tmp_path, np.full((7, 9), 255)), **how)
    plain = trained.run("sample", classes="red", num=1, steps=None, cfg=2.0, label="unmasked").directory
    assert [*pngs(white).values()] == [*pngs(plain).values()]


def test_outside_of_a_box_the_image_keeps_its_bytes_and_in_margins_it_stays_in_its_place(
    trained: Pipeline, tmp_path: Path
) -> None:
    before = squares(trained).astype(int)
    folder = edited(trained, box=[8, 0, 8, 16], classes="blue", cfg=2.0, feather=0)
    after = np.stack([read(folder / name) for name in sorted(pngs(folder))]).astype(int)
    assert np.array_equal(before[:, :, :8], after[:, :, :8]) and (before != after)[:, :, 8:].mean() > 0.5
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    write_png(tmp_path / "half.png", pixels)
    out = edited(trained, images=[str(tmp_path / "half.png")], outpaint="left=8", classes="red", feather=0)
    (name,) = pngs(out)
    assert np.array_equal(read(out / name)[4:12, 8:], pixels)


def test_an_image_is_edited_alike_alone_and_among_others_drawn_again_and_verified(trained: Pipeline) -> None:
    how: dict[str, Any] = {"classes": "red", "keep_scales": [1], "cfg": 2.0, "box": [0, 0, 8, 8]}
    images = some_of(trained.images)
    together = edited(trained, label="together", images=images, **how)
    alone = edited(trained, label="alone", images=images[1:2], **how)
    assert png_files(alone)["000000-000.png"] == png_files(together)["000001-000.png"]
    stage = STAGES["edit"]
    place = {"name": trained.name, "runs_dir": trained.runs_dir, "machine": MACHINE, "images": images}
    lone = together / "000001-000.png"
    again = stage.load().run(stage.settings.model_validate({**place, "like": lone, "label": "again"}), Silent())
    assert [*png_files(again.directory).values()] == [lone.read_bytes()]
    assert read_parameters(lone).settings["keep_scales"] == [1]
    assert verify.run(Verify(path=together), Silent()).verdict == "is whole"


def test_from_python_it_is_the_commands_edit(trained: Pipeline) -> None:
    image = some_of(trained.images)[0]
    run = ldm.open(trained.folder, **MACHINE)
    drawn = run.edit(image, "red", keep_scales=1, seeds=[4], cfg=2.0)
    folder = edited(trained, images=[image], classes="red", keep_scales=[1], seed=4, cfg=2.0)
    assert np.array_equal(drawn[0], read(folder / "000000-000.png"))


def test_settings_of_denoisers_are_refused_and_more_scales_than_there_are(trained: Pipeline) -> None:
    for changes, words in (
        ({"strength": [0.5]}, r"`strength=\(0.5,\)` is not a setting of a next-scale transformer"),
        ({"inversion": True}, "`inversion=True` is not a setting of a next-scale transformer"),
        ({"keep_scales": [4]}, "`keep_scales=4`: there are 3"),
    ):
        with pytest.raises(ConfigError, match=words):
            edited(trained, **changes)
