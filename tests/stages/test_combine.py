"""Anagrams, hybrids and interpolations are plain samples where both conditions and views are the same."""

from typing import Any, get_args

import numpy as np
import pytest

from ldm.core.diffusion.names import ViewName
from ldm.core.errors import ConfigError
from ldm.core.progress import Silent
from ldm.stages.configs.folders import Verify
from ldm.stages.tools import verify
from tests.support.pipeline_run import Pipeline, manifest, png_files, pngs, some_of

SAMPLERS = pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpmpp-2m"])


def sampled(trained: Pipeline, classes: str, num: int = 3, seed: int = 0, **settings: Any) -> dict[str, bytes]:
    label = f"plain {classes} {num} {seed} {settings.get('sampler')}"
    plain = {"num": num, "seed": seed, "steps": 3, "label": label}
    return pngs(trained.run("sample", classes=classes, **plain, **settings).directory)


@SAMPLERS
def test_an_anagram_by_the_identity_view_of_one_class_is_the_sample_to_the_byte(
    trained: Pipeline, sampler: str
) -> None:
    settings = {"sampler": sampler, "cfg": 2}
    drawn = trained.run("anagram", classes=["red", "red"], view="none", label=f"same {sampler}", **settings)
    assert pngs(drawn.directory) == sampled(trained, "red", **settings)


@SAMPLERS
def test_a_hybrid_of_one_class_is_the_sample_to_the_byte(trained: Pipeline, sampler: str) -> None:
    settings = {"sampler": sampler, "cfg": 2}
    drawn = trained.run("hybrid", near="red", far="red", label=f"same {sampler}", **settings).directory
    assert pngs(drawn) == sampled(trained, "red", **settings)


def test_an_interpolation_begins_and_ends_with_the_samples(trained: Pipeline) -> None:
    settings = {"classes": ["red", "blue"], "to_seed": 7, "frames": 4, "cfg": 2}
    folder = trained.run("interpolate", label="way", **settings).directory
    frames = [content for _, content in sorted(pngs(folder).items())]
    assert frames[0] == sampled(trained, "red", 1, cfg=2)["000000.png"]
    (last,) = sampled(trained, "blue", 1, 7, cfg=2).values()
    ends = [np.frombuffer(content, np.uint8).astype(int) for content in (frames[-1], last)]
    assert np.abs(ends[0] - ends[1]).max() <= 1, "slerp's end is exact but for rounding"
    assert len(set(frames)) == 4 and (folder / "animation.webp").stat().st_size > 0


@pytest.mark.parametrize("view", get_args(ViewName)[1:])
def test_every_view_draws_in_latents_and_in_pixels(trained: Pipeline, view: str) -> None:
    made = [
        png_files(
            trained.run("anagram", classes=["red", "blue"], view=view, space=space, label=f"{view} {space}").directory
        )
        for space in ("latents", "pixels")
    ]
    assert len(made[0]) == len(made[1]) == 3 and made[0] != made[1]


def test_an_image_of_two_conditions_is_the_same_alone_and_among_others_and_the_run_is_whole(copied: Pipeline) -> None:
    settings: dict[str, Any] = {"near": "red", "far": "blue", "sampler": "ddpm"}
    together = png_files(copied.run("hybrid", num=5, batch_size=2, label="many", **settings).directory)
    alone = png_files(copied.run("hybrid", num=1, seed=3, label="one", **settings).directory)
    assert alone["000000.png"] == together["000003.png"], "also in what it carries"
    record = manifest(copied.folder / "hybrids" / "many")["facts"]["images"][3]
    assert record["seed"] == 3 and [each["class"] for each in record["conditions"]] == ["red", "blue"]
    assert copied.run("hybrid", num=1, seed=3, label="one", **settings).already_complete
    assert verify.run(Verify(path=copied.folder), Silent()).verdict == "is whole"


def test_what_cannot_be_combined_is_refused(trained: Pipeline) -> None:
    for command, settings, words in (
        ("anagram", {"classes": ["red"]}, "give `classes` twice"),
        ("anagram", {"classes": ["red", "all"]}, "name one class"),
        ("hybrid", {"near": "red", "far": ""}, "`near` and `far`"),
        ("hybrid", {"near": "red", "far": "purple"}, "unknown class"),
        ("interpolate", {"classes": ["red"]}, "both ends are the same"),
        ("interpolate", {"classes": []}, "both ends are the same"),
        ("interpolate", {"classes": [], "to_seed": 1, "cfg": 2}, "none is given"),
        ("interpolate", {"classes": ["red", "blue", "green"]}, "given 3 times"),
    ):
        with pytest.raises(ConfigError) as caught:
            trained.run(command, **settings)
        assert words in str(caught.value)


def test_without_a_class_the_way_is_that_of_the_unconditional_model(trained: Pipeline) -> None:
    folder = trained.run("interpolate", classes=[], to_seed=7, frames=3, label="no class").directory
    records = manifest(folder)["facts"]["images"]
    assert records[0]["conditions"] == [{}, {}]
    edited = trained.run(
        "edit", strength=[1.0], steps=3, images=some_of(trained.images)[:1], label="no class"
    ).directory
    assert pngs(folder)["000000.png"] == pngs(edited)["000000-000.png"]
