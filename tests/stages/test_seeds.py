"""Which seeds are drawn: some in a row, those that are listed, or one at random; and the picture of what is drawn."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ldm.cli.layers import merged_config
from ldm.core.errors import ConfigError
from ldm.core.images.decode import decode
from ldm.core.pipeline import writing
from ldm.core.settings.fields import read_seeds
from tests.support.pipeline_run import Pipeline, manifest, pngs


def drawn(trained: Pipeline, command: str, **settings: Any) -> dict[str, bytes]:
    return pngs(trained.run(command, **settings).directory)


@pytest.mark.parametrize(("text", "seeds"), [("0-3", [0, 1, 2, 3]), ("3,7, 20", [3, 7, 20]), ("5,1-2", [5, 1, 2])])
def test_seeds_are_numbers_and_ranges_in_the_order_given(text: str, seeds: list[int]) -> None:
    assert read_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "3-1", "1,1", "0-5,3", "-1", "1-", "0-2000000", str(2**63)])
def test_other_texts_are_refused_as_seeds(text: str) -> None:
    with pytest.raises(ConfigError, match="seeds"):
        merged_config("sample", flags={"seeds": text})


def test_listed_seeds_draw_what_each_draws_alone_of_every_class_the_same(trained: Pipeline) -> None:
    found = drawn(trained, "sample", classes="red,blue", seeds="4-5,9", label="listed")
    assert [*sorted(found)] == [f"{row:03d}-{seed:06d}.png" for row in (0, 1) for seed in (4, 5, 9)]
    for row, name in enumerate(("red", "blue")):
        alone = drawn(trained, "sample", classes=name, seed=9, num=1, label=f"nine {name}")
        assert found[f"{row:03d}-000009.png"] == alone["000009.png"]
    records = manifest(trained.folder / "samples" / "listed")
    assert [each["seed"] for each in records["facts"]["images"]] == 2 * [4, 5, 9]
    assert records["config"]["seeds"] == "4-5,9"


def test_edits_and_images_of_two_classes_take_listed_seeds_too(trained: Pipeline) -> None:
    listed = drawn(trained, "hybrid", near="red", far="blue", seeds="7,2", label="listed")
    in_a_row = drawn(trained, "hybrid", near="red", far="blue", seed=2, num=6, label="row")
    assert [listed["000000.png"], listed["000001.png"]] == [in_a_row["000005.png"], in_a_row["000000.png"]]
    edited = trained.run("edit", seeds="7,2", classes="red", label="listed").directory
    assert [each["seed"] for each in manifest(edited)["facts"]["images"]] == 3 * [7, 2]


def test_a_seed_at_random_is_another_each_time_and_recorded_as_a_number() -> None:
    found = [merged_config("sample", flags={"seed": "random"}) for _ in range(2)]
    seeds = [each.chosen_seed for each in found]
    assert seeds[0] != seeds[1] and [vars(each.config)["seed"] for each in found] == seeds
    assert merged_config("train-dit", overrides=["seed=random"]).chosen_seed is not None
    assert merged_config("sample", flags={"seed": "3"}).chosen_seed is None


def test_processes_that_share_a_drawing_choose_no_seed_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="each process would choose another"):
        merged_config("sample", flags={"seed": "random"})


def test_previews_show_the_estimate_after_every_so_many_steps_and_change_no_image(
    trained: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = drawn(trained, "sample", classes="red", num=3, steps=6, label="unwatched")
    shown: list[tuple[Path, np.ndarray]] = []
    write = writing.write_png

    def watching(path: Path, image: np.ndarray, *more: Any) -> None:
        write(path, image, *more)
        if path.name == writing.PREVIEW:
            shown.append((path, decode(path.read_bytes(), str(path))))

    monkeypatch.setattr(writing, "write_png", watching)
    folder = trained.run("sample", classes="red", num=3, steps=6, preview_every=2, label="watched").directory
    assert pngs(folder) == plain and len(shown) == 3 and {path.parent for path, _ in shown} == {folder}
    assert not np.array_equal(shown[0][1], shown[1][1])
    final = decode((folder / "000000.png").read_bytes(), "the first image")
    scale = 64 // final.shape[0]
    assert np.array_equal(shown[-1][1][2 : 2 + 64, 2 : 2 + 64], final.repeat(scale, 0).repeat(scale, 1))
    assert not (folder / writing.PREVIEW).exists(), "gone when all is drawn"

    # Images of two conditions show theirs in the same way.
    folder = trained.run("hybrid", near="red", far="blue", num=2, steps=6, preview_every=3, label="both").directory
    assert [path for path, _ in shown[3:]] == [folder / writing.PREVIEW] * 2
    assert not (folder / writing.PREVIEW).exists()
