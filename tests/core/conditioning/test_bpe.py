"""CLIP's vocabulary, as its own tokenizer has it."""

import json
from pathlib import Path

import pytest

from ldm.core.conditioning import bpe

GOLDEN = {
    "a photo of a cat": [49406, 320, 1125, 539, 320, 2368, 49407],
    "": [49406, 49407],
    "A dog runs.": [49406, 320, 1929, 5586, 269, 49407],
    "hello world": [49406, 3306, 1002, 49407],
}
ODD = (
    "Ünïcödé ÉÀ don't we'll I'M x's",
    "日本語 の 🐟🐠!!'s 123 4²½ Ⅷ",
    "a\tb\n  c  naïve cafe\u0301",
    "عربي हिन्दी",
    "a_b-c...!?'re İstanbul ẞ \x00\u200b",
)


@pytest.mark.parametrize("text", GOLDEN)
def test_ids_are_those_that_clip_was_trained_with(text: str) -> None:
    assert bpe.encode(text) == GOLDEN[text]


def test_ids_are_those_of_transformers_tokenizer(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    _, ranks, ids = bpe._vocabulary()
    (tmp_path / "vocab.json").write_text(json.dumps({**ids, "<|startoftext|>": bpe.START, "<|endoftext|>": bpe.END}))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in ranks)]
    (tmp_path / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    theirs = transformers.CLIPTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    for text in (*GOLDEN, *ODD):
        assert bpe.encode(text) == theirs(text)["input_ids"], text


def test_a_text_cannot_write_the_end_of_a_text() -> None:
    ids = bpe.encode("a <|endoftext|> b")
    assert ids.count(bpe.END) == 1 and ids[-1] == bpe.END


def test_spaces_entities_and_case_make_no_difference() -> None:
    assert bpe.encode("  Salt &amp;\n Pepper ") == bpe.encode("salt & pepper") != bpe.encode("salt pepper")
