"""Text as denoisers take it: what padding may change, which is nothing, and what order changes."""

import pytest
import torch

from ldm.core.denoisers.text import TextInput
from ldm.core.denoisers.text_config import TextDenoiserConfig
from ldm.core.diffusion.conditions import Cond, index
from ldm.core.errors import ConfigError

SHAPE = {"latent_channels": 4, "latent_size": 8}
OWN = TextDenoiserConfig(**SHAPE, vocabulary=9, text_length=8, text_width=16)
FROZEN = TextDenoiserConfig(**SHAPE, token_width=12, text_length=8)


def read(config: TextDenoiserConfig) -> TextInput:
    """Return it as after some training: with weights in the maps that begin at zero."""
    torch.manual_seed(0)
    model = TextInput(config).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and not module.weight.any():
            torch.nn.init.normal_(module.weight, std=0.2)
    return model


def texts() -> Cond:
    """Of 5, 2 and 3 valid ids, padded to 8."""
    ids = torch.arange(24).view(3, 8) * 5 % 9
    return {"ids": ids, "mask": torch.arange(8) < torch.tensor([[5], [2], [3]])}


@torch.no_grad()
def test_a_text_is_read_alike_with_any_padding_and_beside_any_others() -> None:
    model, cond = read(OWN), texts()
    tokens, _, pooled = model(cond)
    other = model({**cond, "ids": torch.where(cond["mask"], cond["ids"], 8)})
    shorter = model({name: field[:, :5] for name, field in cond.items()})
    alone = model(index(cond, slice(1, 2)))
    torch.testing.assert_close(other[0], tokens)
    torch.testing.assert_close(shorter[0], tokens[:, :5])
    torch.testing.assert_close(shorter[2], pooled)
    torch.testing.assert_close(alone[2], pooled[1:2])
    assert bool((tokens[~cond["mask"]] == 0).all())


@torch.no_grad()
def test_its_network_sees_the_order_of_words_and_every_word_both_ways() -> None:
    model, cond = read(OWN), texts()
    tokens = model(cond)[0]
    assert (model({**cond, "ids": cond["ids"].flip(1)})[0] - tokens).abs().max() > 0.1
    last = cond["ids"].clone()
    last[0, 4] = (last[0, 4] + 1) % 9
    moved = (model({**cond, "ids": last})[0] - tokens).abs().amax(-1)
    assert bool((moved[0, :5] > 1e-4).all()) and moved[1:].max() == 0


@torch.no_grad()
def test_the_one_vector_is_the_mean_of_valid_tokens_unless_the_encoder_made_one() -> None:
    model, mask = read(FROZEN), texts()["mask"]
    tokens = torch.randn(3, 8, 12)
    expected = torch.stack([row[valid].mean(0) for row, valid in zip(tokens, mask, strict=True)])
    torch.testing.assert_close(model({"tokens": tokens, "mask": mask})[2], expected)
    pooled = torch.randn(3, 6)
    assert torch.equal(model({"tokens": tokens, "mask": mask, "pooled": pooled})[2], pooled)


def test_sizes_that_do_not_fit_together_are_refused() -> None:
    for fields in ({"token_width": 12}, {"text_length": 0}, {"text_width": 200}):
        with pytest.raises(ConfigError, match=r"text_length|heads"):
            OWN.replace(**fields)
