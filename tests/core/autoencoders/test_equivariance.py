"""Equivariance regularisation: which changes there are, how often, and what a training makes of them."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ldm.core.autoencoders.codec import Autoencoder, Draws
from ldm.core.autoencoders.equivariance import CHANGES, Change, drawn, require_halves
from ldm.core.autoencoders.kl import KLAutoencoder
from ldm.core.autoencoders.kl_config import KLConfig
from ldm.core.autoencoders.msvq import MSVQ
from ldm.core.autoencoders.msvq_config import MSVQConfig
from ldm.core.errors import ConfigError

SMALL: dict[str, Any] = {"channels": 8, "channel_multipliers": (1, 2), "num_res_blocks": 1, "patch": 2}


def test_changes_are_all_turns_and_halves_but_the_one_that_changes_nothing() -> None:
    maps = torch.arange(2.0 * 3 * 4 * 8).view(2, 3, 4, 8)
    assert len(set(CHANGES)) == 7 and Change(0, halved=False) not in CHANGES
    assert Change(1, halved=False)(maps).shape == (2, 3, 8, 4)
    assert torch.equal(Change(2, halved=False)(maps), maps.flip(2, 3))
    halved = Change(0, halved=True)(maps)
    assert halved.shape == (2, 3, 2, 4)
    torch.testing.assert_close(halved[0, 0, 1, 3], maps[0, 0, 2:4, 6:8].mean())


@pytest.mark.parametrize("change", CHANGES)
def test_an_equivariant_decoder_makes_the_changed_images_of_changed_latents(change: Change) -> None:
    """A map of channels is equivariant; other decoders are drawn towards that."""
    decoder = nn.Conv2d(4, 3, 1)
    latents = torch.randn(2, 4, 8, 4)
    torch.testing.assert_close(decoder(change(latents)), change(decoder(latents)))
    uneven = nn.Conv2d(4, 3, 3, padding=1)
    assert not torch.allclose(uneven(change(latents)), change(uneven(latents)), atol=1e-2)


def test_a_share_of_the_steps_has_a_change_each_alike() -> None:
    steps = [drawn(0.6, Draws(0, step, np.arange(1))) for step in range(3000)]
    assert sum(each is not None for each in steps) / 3000 == pytest.approx(0.6, abs=0.04)
    for change in CHANGES:
        assert steps.count(change) / 3000 == pytest.approx(0.6 / 7, abs=0.025)
    assert steps == [drawn(0.6, Draws(0, step, np.arange(1))) for step in range(3000)]
    assert drawn(0.0, Draws(0, 0, np.arange(1))) is None
    assert len({drawn(1.0, part) for part in Draws(5, 64, np.arange(8)).split(4)}) == 1, "parts of a step change alike"


def test_latents_are_changed_before_they_are_decoded() -> None:
    torch.manual_seed(0)
    codec = KLAutoencoder(KLConfig(**SMALL))
    images, change = torch.rand(2, 3, 32, 16) * 2 - 1, Change(3, halved=True)
    with torch.no_grad():
        out = codec(images, between=change)
        torch.testing.assert_close(out.images, codec.decode(change(codec.encode(images).mean)))
    assert out.images.shape == change(images).shape == (2, 3, 8, 16)


def test_latents_that_cannot_be_halved_are_refused() -> None:
    autoencoder = Autoencoder(KLAutoencoder(KLConfig(**SMALL)))
    require_halves(autoencoder, (16, 24))
    with pytest.raises(ConfigError, match=r"latents of 5 x 4 cannot be halved.*multiples of 8"):
        require_halves(autoencoder, (20, 16))
    with pytest.raises(ConfigError, match="halves images of 24 pixels"):
        require_halves(autoencoder, (32, 24), smallest=17)
    with pytest.raises(ConfigError, match="of 4 x 4 cannot be halved"):
        require_halves(Autoencoder(MSVQ(MSVQConfig(**SMALL, scales=(1, 2, 4)))), (16, 16))
