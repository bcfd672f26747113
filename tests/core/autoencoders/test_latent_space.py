"""The autoencoder owns its latent space: normalisation, its statistics, shapes."""

import numpy as np
import pytest
import torch

from ldm.core.autoencoders.codec import Autoencoder, Draws
from ldm.core.autoencoders.statistics import LatentStatistics, evening_rotation
from ldm.core.autoencoders.vq import VQVAE
from ldm.core.autoencoders.vq_config import VQVAEConfig
from ldm.core.errors import ConfigError, DataError


@pytest.fixture
def autoencoder() -> Autoencoder:
    torch.manual_seed(0)
    config = VQVAEConfig(channels=8, channel_multipliers=(1, 2), num_res_blocks=1, latent_channels=3, codebook_size=16)
    return Autoencoder(VQVAE(config)).requires_grad_(False)


def _measured(autoencoder: Autoencoder, images: torch.Tensor) -> LatentStatistics:
    statistics = LatentStatistics(autoencoder.latent_channels)
    for batch in images.split(3):
        statistics.add(autoencoder.codec.encode(batch).mean)
    return statistics


def test_decode_inverts_the_normalisation_of_encode(autoencoder: Autoencoder) -> None:
    images = torch.rand(2, 3, 8, 8) * 2 - 1
    plain = autoencoder.decode(autoencoder.encode(images))
    autoencoder.set_statistics(torch.tensor([0.5, -2.0, 30.0]), torch.tensor([0.1, 3.0, 7.0]))
    torch.testing.assert_close(autoencoder.decode(autoencoder.encode(images)), plain)


def test_with_measured_statistics_latents_have_mean_zero_and_deviation_one(autoencoder: Autoencoder) -> None:
    images = torch.rand(10, 3, 8, 8) * 2 - 1
    statistics = _measured(autoencoder, images)
    autoencoder.set_statistics(statistics.mean, statistics.std)
    latents = autoencoder.encode(images)
    torch.testing.assert_close(latents.mean(dim=(0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(latents.std(dim=(0, 2, 3), unbiased=False), torch.ones(3), rtol=0, atol=1e-5)


def test_streamed_statistics_are_those_of_numpy_over_the_whole() -> None:
    latents = torch.randn(37, 3, 4, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 5.0, 0.01])[
        :, None, None
    ] + torch.tensor([0.0, -3.0, 10_000.0])[:, None, None].to(torch.float64)
    statistics = LatentStatistics(3)
    for batch in latents.split(8):
        statistics.add(batch)
    rows = latents.numpy().transpose(1, 0, 2, 3).reshape(3, -1)
    np.testing.assert_allclose(statistics.mean.numpy(), rows.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(statistics.std.numpy(), rows.std(axis=1), rtol=1e-9)
    assert statistics.count == 37 * 4 * 5


def test_statistics_are_the_same_to_the_bit_in_whatever_layout_the_latents_lie() -> None:
    """A shard that was just encoded lies in memory as the network left it, one that is read as a file has it."""
    latents = torch.randn(32, 4, 9, 7, generator=torch.Generator().manual_seed(0)).half()
    plain, other = LatentStatistics(4), LatentStatistics(4)
    plain.add(latents)
    other.add(latents.to(memory_format=torch.channels_last))
    assert torch.equal(plain.mean, other.mean) and torch.equal(plain.std, other.std)


@pytest.mark.parametrize("num", [1, 2, 4, 16])
def test_the_evening_rotation_is_orthogonal_and_leaves_every_channel_the_mean_variance(num: int) -> None:
    factor = torch.randn(num, 2 * num, dtype=torch.float64, generator=torch.Generator().manual_seed(num))
    covariance = factor @ torch.diag(torch.logspace(-3, 1, 2 * num, dtype=torch.float64)) @ factor.T
    rotation = evening_rotation(covariance)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(num, dtype=torch.float64))
    variances = (rotation @ covariance @ rotation.T).diagonal()
    torch.testing.assert_close(variances, covariance.trace().div(num).expand(num), rtol=1e-9, atol=0)


@pytest.mark.parametrize("cosine", [False, True])
def test_normalising_a_codebooks_space_changes_no_reconstruction_and_divides_by_one_number(cosine: bool) -> None:
    torch.manual_seed(0)
    config = VQVAEConfig(channels=8, channel_multipliers=(1, 2), num_res_blocks=1, codebook_size=64, cosine=cosine)
    codec = VQVAE(config).requires_grad_(False)
    codec.encoder.conv_out.weight *= torch.tensor([0.2, 1.0, 5.0, 0.5])[:, None, None, None]
    autoencoder = Autoencoder(codec)
    images = torch.rand(10, 3, 8, 8) * 2 - 1
    codec.initialise(images, Draws(1, 0, np.arange(10)))
    before = autoencoder.decode(autoencoder.encode(images))
    autoencoder.normalise_by(_measured(autoencoder, images))
    assert len(set(autoencoder.latent_std.tolist())) == 1
    torch.testing.assert_close(autoencoder.decode(autoencoder.encode(images)), before, rtol=0, atol=1e-5)
    latents = autoencoder.encode(images)
    torch.testing.assert_close(latents.mean(dim=(0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-5)
    torch.testing.assert_close(latents.std(dim=(0, 2, 3), unbiased=False), torch.ones(4), rtol=0, atol=1e-4)


def test_decoded_images_are_within_their_range(autoencoder: Autoencoder) -> None:
    with torch.no_grad():
        autoencoder.codec.decoder.conv_out.bias.fill_(5.0)  # type: ignore[attr-defined]
    images = autoencoder.decode(torch.randn(2, 3, 4, 4))
    assert images.max() == 1 and images.min() >= -1


def test_latents_and_images_are_float32_under_autocast(autoencoder: Autoencoder) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        latents = autoencoder.encode(torch.rand(1, 3, 8, 8))
        assert latents.dtype == autoencoder.decode(latents).dtype == torch.float32


def test_a_posterior_without_randomness_is_the_encoding(autoencoder: Autoencoder) -> None:
    images = torch.rand(1, 3, 8, 8)
    mean, std = autoencoder.posterior(images)
    assert std is None
    assert torch.equal(mean, autoencoder.encode(images))


def test_latent_shape_is_that_of_encode_and_other_sizes_are_refused(autoencoder: Autoencoder) -> None:
    assert autoencoder.latent_shape(8) == tuple(autoencoder.encode(torch.zeros(1, 3, 8, 8)).shape[1:])
    with pytest.raises(ConfigError, match=r"image_size=9` .* multiple of 2.*use 8 or 10"):
        autoencoder.latent_shape(9)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.0), (0.0, float("nan")), (float("inf"), 1.0)])
def test_statistics_that_cannot_normalise_are_refused(autoencoder: Autoencoder, mean: float, std: float) -> None:
    with pytest.raises(DataError, match="latent channel 1"):
        autoencoder.set_statistics(torch.tensor([0.0, mean, 0.0]), torch.tensor([1.0, std, 1.0]))
    assert torch.equal(autoencoder.latent_std, torch.ones(3))
