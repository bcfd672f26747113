"""The CLIP score, against transformers' own embeddings."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ldm.core.errors import DataError
from ldm.core.metrics.clip_score import open_clip
from tests.support.text_encoders import save_clip

transformers = pytest.importorskip("transformers")
TEXTS = ["a red square on blue", "a photo of the ground", "the"]


def test_a_score_is_a_hundred_times_the_cosine_of_transformers_embeddings_or_nothing(tmp_path: Path) -> None:
    model = save_clip(tmp_path, full=True)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    clip = open_clip(tmp_path, torch.device("cpu"))
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    scores = clip.scores(images, TEXTS)
    prepared = transformers.CLIPImageProcessor.from_pretrained(tmp_path)(images=list(pixels), return_tensors="pt")
    words = transformers.AutoTokenizer.from_pretrained(tmp_path)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        found = model(**prepared, **words)
    cosine = (found.image_embeds * found.text_embeds).sum(1)
    assert torch.allclose(scores, 100 * cosine.clamp(min=0), atol=0.05) and bool((cosine.abs() > 0.005).all())
    clip.texts.network.text_projection.weight.neg_()
    assert torch.equal(clip.scores(images, TEXTS) == 0, scores > 0), "opposite vectors score nothing"


def test_a_network_of_texts_alone_is_not_a_clip(tmp_path: Path) -> None:
    save_clip(tmp_path, projection=True)
    with pytest.raises(DataError, match=r"does not exist|holds no image network"):
        open_clip(tmp_path, torch.device("cpu"))
