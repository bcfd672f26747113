"""Each encoder of a text is dropped for itself: what it made of the empty caption stands in its place."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ldm.core import seeds
from ldm.core.conditioning.encoder_dropout import drop_encoders, require_encoders
from ldm.core.conditioning.text import TextConditioning, packed
from ldm.core.errors import ConfigError
from ldm.core.features.texts import open_encoders, with_padding
from ldm.stages.configs import TrainDenoiser
from tests.support.text_encoders import save_clip, save_t5

pytest.importorskip("transformers")
SHARES = (0.5, 0.25, 0.75)


@pytest.fixture(scope="module")
def conditioning(tmp_path_factory: pytest.TempPathFactory) -> TextConditioning:
    """Texts of a CLIP, a T5 and another CLIP, in this order, each with six tokens."""
    root = tmp_path_factory.mktemp("encoders")
    save_clip(root / "l", width=8), save_t5(root / "t5"), save_clip(root / "g", True, seed=1, width=12)
    found = open_encoders([root / name for name in ("l", "t5", "g")], "auto", torch.device("cpu"))
    encoder = with_padding(found, 12)
    known = dict(zip(("", "a"), map(packed, encoder.encode(["", "a red square"], 12)), strict=True))
    return TextConditioning(encoder.describe(), 12, widths=(24, 20), known=known, prompts=("a",))


def test_each_encoder_is_dropped_where_its_own_draw_is_below_its_share(conditioning: TextConditioning) -> None:
    positions = np.arange(400)
    draws = [seeds.uniform(3, f"dropout of encoder {place}", positions) for place in range(3)]
    whole = {name: rows.expand(400, *rows.shape[1:]) for name, rows in conditioning.groups().cond.items()}
    null = conditioning.null(400, torch.device("cpu"))
    found = drop_encoders(conditioning, whole, draws, SHARES)
    # The CLIPs of 8 and 12 are columns of the first rows, T5 the rows after; the whole has 8 and 12 of the CLIPs.
    places = (slice(0, 6), slice(0, 8)), (slice(6, 12), slice(0, 24)), (slice(0, 6), slice(8, 20))
    wholes = slice(0, 8), slice(0, 0), slice(8, 20)
    for draw, share, (rows, columns), part in zip(draws, SHARES, places, wholes, strict=True):
        dropped = draw < share
        assert abs(float(dropped.float().mean()) - share) < 0.08
        for chosen, source in ((dropped, null), (~dropped, whole)):
            assert torch.equal(found["tokens"][chosen, rows, columns], source["tokens"][chosen, rows, columns])
            assert torch.equal(found["pooled"][chosen, part], source["pooled"][chosen, part])
    assert not torch.equal(null["tokens"][0], whole["tokens"][0]) and torch.equal(found["mask"], whole["mask"])
    first = [[*np.flatnonzero(draw < share)[:5]] for draw, share in zip(draws, SHARES, strict=True)]
    assert first[0] == [2, 3, 6, 8, 10] and first[1][:3] == [0, 2, 3] and first[2] == [1, 2, 3, 5, 7]
    together = torch.stack([draw < share for draw, share in zip(draws, SHARES, strict=True)]).all(0)
    assert abs(float(together.float().mean()) - 0.5 * 0.25 * 0.75) < 0.05, "independent"
    some = drop_encoders(conditioning, {n: v[7:9] for n, v in whole.items()}, [draw[7:9] for draw in draws], SHARES)
    assert torch.equal(some["tokens"], found["tokens"][7:9]), "by position, whatever the batch"


def test_shares_are_those_of_the_encoders(conditioning: TextConditioning, tmp_path: Path) -> None:
    require_encoders(conditioning, ()), require_encoders(conditioning, SHARES)
    with pytest.raises(ConfigError, match="has 2 shares, and texts are read by 3 frozen encoders"):
        require_encoders(conditioning, SHARES[:2])
    with pytest.raises(ConfigError, match="has 1 shares, and texts are read by 0"):
        require_encoders(TextConditioning({"name": "own"}, 8), (0.5,))
    masked = [{"name": part["name"]} for part in conditioning.encoder["parts"]]
    with pytest.raises(ConfigError, match="needs texts of as many tokens each") as refused:
        require_encoders(TextConditioning({"name": "frozen", "parts": masked}, 8), SHARES)
    assert "text.padding=seen" in str(refused.value.remedy)


def test_a_whole_caption_is_dropped_as_often_as_all_encoders_together() -> None:
    def config(**given: Any) -> TrainDenoiser:
        return TrainDenoiser.model_validate({"model": {"preset": "mmdit-xs"}, **given})

    assert config().label_dropout == 0.1 and config().encoder_dropout == ()
    assert config(encoder_dropout=(0.5, 0.25)).label_dropout == 0.125
    assert config(encoder_dropout=["0.5", "0.25"]).label_dropout == 0.125
    again = TrainDenoiser.model_validate(config(encoder_dropout=(0.5, 0.25)).model_dump())
    assert again.label_dropout == 0.125
    with pytest.raises(ValueError, match="greater than 0"):
        config(encoder_dropout=(0.5, 0))
    with pytest.raises(ValueError, match="two ways to drop captions"):
        config(encoder_dropout=(0.5, 0.25), label_dropout=0.2)
