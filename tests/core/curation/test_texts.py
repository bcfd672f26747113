"""What is said of captions: how many and how long they are, and which are missing, empty, repeated or stray."""

import json

from ldm.core.curation.texts import survey_captions
from ldm.core.images.settings import Data
from ldm.core.images.sources import open_source
from tests.core.images.test_captions import folder


def survey(place, **settings):
    data = Data(source=str(place), **settings)
    return survey_captions([open_source(str(place))], data)


def test_captions_are_counted_and_measured(tmp_path):
    found = survey(folder(tmp_path, {"a": "a cat\nA cat.", "b": "a cat", "c": "word " * 90, "d": "eel"}))
    assert (found["captions"], found["images"], found["missing"], found["wrong"]) == (5, 4, [], [])
    assert found["per_image"] == [1.0, 1.0, 2.0] and found["words"] == [1.0, 2.0, 90.0]
    assert found["tokens"] == [3.0, 4.0, 92.0] and found["long"] == 1
    assert found["repeated"] == {"captions": 2, "most": [("a cat", 2)]}


def test_what_is_missing_or_wrong_is_named_and_the_rest_is_counted(tmp_path):
    found = survey(folder(tmp_path, {"a": "a cat", "b": None, "c": "\n", "d": b"\xff"}))
    assert found["missing"] == ["b.png"] and found["captions"] == 1
    assert [("c.txt" in said, "d.txt" in said) for said in found["wrong"]] == [(True, False), (False, True)]


def test_captions_of_images_that_are_not_there_are_named(tmp_path):
    place = folder(tmp_path, {"a": None, "b": None})
    rows = [{"file_name": f"{name}.png", "text": name} for name in "abz"]
    (place / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert survey(place)["stray"] == ["z.png"]


def test_images_without_captions_have_nothing_to_survey(tmp_path):
    place = folder(tmp_path, {"a": None, "b": None})
    assert survey(place) is None and survey(folder(place, {"a": "x", "b": "y"}), captions="none") is None
