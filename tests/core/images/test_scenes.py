"""Built-in scenes are the same bytes everywhere, and say what they show."""

import hashlib

import numpy as np
import pytest

from ldm.core.conditioning.scenes import CATEGORIES, COLOURS, GROUNDS, Scene, Thing, caption, parse, prompts
from ldm.core.errors import ConfigError, DataError
from ldm.core.images.scenes import real_scenes
from ldm.core.images.sets import image_sources
from ldm.core.images.settings import Data
from ldm.core.images.sources import open_parts, open_source


@pytest.fixture(scope="module")
def scenes():
    return open_source("scenes:300")


def test_scenes_are_the_same_bytes_everywhere(scenes):
    whole = hashlib.sha256(b"".join(bytes(scenes.read(row)) for row in range(40)))
    whole.update("\n".join(f"{a[0]}\n{b[0]}" for a, b in zip(scenes.captions, scenes.synthetic, strict=True)).encode())
    assert whole.hexdigest() == "90e51485a478bf609726bbd4eda4d25bfb7daabb63742b181d3d75b40fa10079"


def test_a_scene_does_not_depend_on_how_many_there_are(scenes):
    few = open_source("scenes:7")
    assert [*map(bytes, map(few.read, range(7)))] == [*map(bytes, map(scenes.read, range(7)))]
    assert few.captions == scenes.captions[:7]


def test_held_out_scenes_are_of_held_out_digits(scenes):
    held_out = open_parts("scenes:300")["val"]
    assert len(held_out) == 60 and held_out.captions != scenes.captions[:60]


def said(scene):
    """Return whether colours, a relation, a size and the ground are said."""
    first = scene.things[0]
    return tuple(value is not None for value in (first.colour, scene.relation, first.size, scene.ground))


def test_short_captions_leave_out_of_detailed_ones_whatever_can_be_left_out(scenes):
    forms = {"single": set(), "pair": set(), "counted": set()}
    for (short,), (detailed,) in zip(scenes.captions, scenes.synthetic, strict=True):
        less, more = parse(short), parse(detailed)
        assert less is not None and more is not None
        assert more.ground is not None and all(thing.colour for thing in more.things)
        assert {thing.digit for thing in less.things} == {thing.digit for thing in more.things}
        assert less.count == more.count and all(had or not has for has, had in zip(said(less), said(more), strict=True))
        for thing in less.things:
            (whole,) = (each for each in more.things if each.digit == thing.digit)
            assert thing.colour in (None, whole.colour) and thing.size in (None, whole.size)
        forms["counted" if less.count > 1 else "pair" if len(less.things) > 1 else "single"].add(said(less))
    assert {kind: len(found) for kind, found in forms.items()} == {"single": 8, "pair": 8, "counted": 4}
    assert {parse(short).category for (short,) in scenes.captions} == {*CATEGORIES}


def test_two_digits_are_named_in_reading_order_mostly_and_always_where_it_is_not_said_how_they_lie(scenes):
    in_order = []
    for (short,), (detailed,) in zip(scenes.captions, scenes.synthetic, strict=True):
        less, more = parse(short), parse(detailed)
        if len(more.things) == 2:
            in_order.append(more.relation in ("left of", "above"))
            same = [thing.digit for thing in less.things] == [thing.digit for thing in more.things]
            assert same == (in_order[-1] or less.relation is not None), (short, detailed)
            assert less.relation in (None, more.relation)
    assert 0.65 < np.mean(in_order) < 0.85


def test_a_larger_picture_is_of_the_same_scene(scenes):
    (large, small), texts = [real_scenes("train", 20, size)[0].astype(float) for size in (64, 32)], scenes.captions[:20]
    assert open_source("scenes-64:20").captions == texts
    halved = large.reshape(20, 32, 2, 32, 2, 3).mean((2, 4))
    assert np.corrcoef(halved.ravel(), small.ravel())[0, 1] > 0.9


def test_a_caption_is_read_as_the_scene_that_it_was_made_for(scenes):
    for text in (*prompts(200), *(text for (text,) in scenes.synthetic)):
        assert caption(parse(text)) == text


@pytest.mark.parametrize(
    ("text", "scene"),
    [
        ("A red seven left of a blue three.", Scene((Thing(7, "red"), Thing(3, "blue")), relation="left of")),
        ("an eight", Scene((Thing(8),))),
        ("a one above an eight", Scene((Thing(1), Thing(8)), relation="above")),
        ("four small pink sixes on a grey ground", Scene((Thing(6, "pink", "small"),), 4, ground="grey")),
        ("a horse", None),
        ("", None),
        ("five threes", None),
        ("a red three and", None),
    ],
)
def test_prompts_are_read_by_the_grammar(text, scene):
    assert parse(text) == scene


def test_there_are_prompts_of_every_category_and_they_do_not_repeat():
    chosen = prompts()
    assert len({*chosen}) == len(chosen) and prompts() == chosen
    counts = {name: sum(parse(text).category == name for text in chosen) for name in CATEGORIES}
    assert counts == {**dict.fromkeys(CATEGORIES, 20), "single object": 10}


def test_colours_and_grounds_are_far_apart():
    named = np.array([*COLOURS.values(), *GROUNDS.values()], dtype=float)
    apart = np.linalg.norm(named[:, None] - named, axis=-1) + 1000 * np.eye(len(named))
    assert apart.min() > 60


def test_scenes_come_with_captions_and_parts_of_their_own():
    sources = image_sources(Data(source="scenes:50"))
    assert sources.captioned and sources.train.synthetic is not None and len(sources.val) == 10
    assert sources.described == "scenes:50: 60 images, with captions"
    assert sources.caption_input == {} or sources.with_captions().caption_input == sources.caption_input
    assert not image_sources(Data(source="scenes:50", captions="none")).captioned


@pytest.mark.parametrize("name", ["scenes:0", "scenes:2000000"])
def test_a_number_of_scenes_that_cannot_be_is_refused(name):
    with pytest.raises(DataError, match="scenes"):
        open_source(name)


def test_a_folder_of_that_name_is_not_taken_for_the_built_in_scenes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scenes").mkdir()
    with pytest.raises(ConfigError, match="builtin:scenes"):
        open_source("scenes")
    assert len(open_source("builtin:scenes:5")) == 5
