"""Drawing: an edit changes where sampling starts, which times it visits, or the denoiser, and nothing else."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from ldm.core.autoencoders.codec import Autoencoder
from ldm.core.autoencoders.identity import IdentityCodec
from ldm.core.autoencoders.identity_config import IdentityConfig
from ldm.core.diffusion import editing
from ldm.core.errors import ConfigError
from ldm.core.pipeline.generation import Sampling, Start, generate
from ldm.core.pipeline.model import Model
from tests.core.pipeline.test_guided import POLICY, model

SEEDS = np.arange(5)


def drawn(of: Model, edit: Callable[[Start], Start] | None = None, sampler: str = "ddim") -> np.ndarray:
    how = Sampling(sampler=sampler, steps=6, cfg=2.0)
    return generate(of, {"labels": torch.arange(5) % 2}, SEEDS, how, POLICY, edit=edit)


def known(start: Start) -> torch.Tensor:
    """A picture of its own for every image of the request."""
    return torch.from_numpy(start.rows).float().view(-1, 1, 1, 1).expand_as(start.x) / 10


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpmpp-2m"])
def test_an_edit_that_keeps_nothing_is_the_plain_sample_to_the_byte(sampler: str) -> None:
    toy = model()

    def from_image(start: Start) -> Start:
        x, visited = editing.from_image(known(start), start.x, start.schedule, start.times, strength=1.0)
        return replace(start, x=x, times=visited)

    def inpaint(start: Start) -> Start:
        new = torch.ones(1, 1, 2, 2, dtype=torch.bool)
        fresh = lambda call: start.noise("known noise", call)  # noqa: E731
        return replace(start, denoise=editing.inpainting(start.denoise, known(start), new, start.schedule, fresh))

    plain = drawn(toy, sampler=sampler)
    assert np.array_equal(drawn(toy, from_image, sampler), plain)
    assert np.array_equal(drawn(toy, inpaint, sampler), plain)


def test_an_edit_that_keeps_everything_is_the_decoded_image_of_each_row() -> None:
    toy = model()

    def keep(start: Start) -> Start:
        x, visited = editing.from_image(known(start), start.x, start.schedule, start.times, strength=0.0)
        return replace(start, x=x, times=visited)

    latents = torch.arange(5.0).view(-1, 1, 1, 1).expand(5, 4, 2, 2) / 10
    assert np.array_equal(drawn(toy, keep), toy.decode(latents, POLICY))


def test_an_image_is_edited_alike_alone_and_among_others() -> None:
    toy = model()

    def resample(start: Start) -> Start:
        new = torch.zeros(1, 1, 2, 2, dtype=torch.bool)
        new[..., 0] = True
        same = torch.full_like(start.x, 0.3)
        denoise = editing.inpainting(start.denoise, same, new, start.schedule, lambda n: start.noise("known noise", n))
        return replace(start, denoise=denoise, times=editing.resampling(start.times, 2, 2))

    how = Sampling(sampler="ddpm", steps=6, cfg=2.0)
    together = drawn(toy, resample, "ddpm")
    alone = generate(toy, {"labels": torch.tensor([1])}, SEEDS[3:4], how, POLICY, edit=resample)
    assert np.array_equal(together[3:4], alone)


@pytest.mark.parametrize("clip", ["static", "dynamic"])
def test_clipped_estimates_are_pixels_after_guidance_and_latents_are_not_clipped(clip: str) -> None:
    pixels = Autoencoder(IdentityCodec(IdentityConfig(image_channels=3)))
    pixels.set_statistics(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.4, 0.5, 0.6]))
    toy, widest = model(autoencoder=pixels, latent_shape=(3, 2, 2)), dict[str, float]()
    for how in ("none", clip):
        seen: list[torch.Tensor] = []
        sampling = Sampling(steps=4, cfg=4.0, clip=how)
        cond = {"labels": torch.arange(5) % 2}
        generate(toy, cond, SEEDS, sampling, POLICY, on_step=lambda i, t, x, x0, seen=seen: seen.append(x0))
        std, mean = (values[:, None, None] for values in (pixels.latent_std, pixels.latent_mean))
        widest[how] = float((torch.stack(seen) * std + mean).abs().max())
    assert widest["none"] > 1.5 and widest[clip] <= 1 + 1e-6
    with pytest.raises(ConfigError, match=f"`clip={clip}` is for models of pixels"):
        generate(model(), {"labels": torch.arange(5) % 2}, SEEDS, Sampling(clip=clip), POLICY)
