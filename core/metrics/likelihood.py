"""Bits per dimension: the variational bound on a model's likelihood of held-out latents.

Of continuous latents it is a density, in the units of the normalised latent space, and may be negative: it compares
denoisers over one autoencoder, and nothing else.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import seeds
from ..diffusion import conditions, variance
from ..diffusion.conditions import Cond
from ..diffusion.schedules import Schedule, add_noise

Estimate = Callable[[Tensor, Tensor, Cond], tuple[Tensor, dict[str, Tensor]]]
"""(x_t (B, ...), t (B,), cond) → the estimate of x0, and by name fractions of a variance, as `variance.Fraction` gives
them, that broadcast against x0."""


@dataclass(frozen=True)
class Bound:
    """The bound in bits per dimension, and its parts: of the first step (t = 1/T), of all others, and of the prior.

    error: standard deviation of the total as an estimate over latents and times; None of a single latent.
    """

    total: float
    first: float
    others: float
    prior: float
    error: float | None


@torch.no_grad()
def bits_per_dim(
    estimate: Estimate,
    schedule: Schedule,
    batches: Iterable[tuple[Tensor, Cond, Tensor]],
    num_times: int,
    seed: int,
    device: torch.device,
) -> dict[str, Bound]:
    """Return the bound for each variance that `estimate` names.

    batches: x0 (B, C, h, w), their condition and int64 indices (B,), from which each latent's noise and times follow.
    num_times: terms drawn for each latent besides the first step's, one in each equal stretch of the other T − 1 steps;
    T − 1 or more takes them all.
    """
    steps = schedule.num_steps
    strata = min(num_times, steps - 1)
    found: dict[str, list[Tensor]] = {}
    priors: list[Tensor] = []
    for x0, cond, indices in batches:
        cond = conditions.each(cond, lambda field: field.to(device))
        priors.append(variance.prior_bits(schedule, x0.double()))
        terms: dict[str, list[Tensor]] = {}
        for stratum in range(-1, strata):
            step = torch.ones(len(x0), dtype=torch.float64)
            if stratum >= 0:
                jitter = seeds.uniform(seed, f"bound time {stratum}", indices.numpy()).double()
                step = 2 + ((stratum + jitter) * (steps - 1) / strata).floor()
            noise = seeds.normal(seed, f"bound noise {stratum}", indices.numpy(), tuple(x0.shape[1:]))
            t = (step / steps).float()
            alpha, sigma = (part.view(-1, 1, 1, 1) for part in schedule.alpha_sigma(t))
            x_t = add_noise(x0, noise, alpha, sigma)
            x0_hat, fractions = estimate(x_t.to(device), t.to(device), cond)
            for name, fraction in fractions.items():
                bits = variance.vlb_bits(schedule, x0, x_t, t, x0_hat.cpu(), fraction.cpu())
                terms.setdefault(name, []).append(bits)
        for name, several in terms.items():
            found.setdefault(name, []).append(torch.stack(several))
    prior = torch.cat(priors)
    return {name: _bound(torch.cat(parts, dim=1), prior, steps) for name, parts in found.items()}


def _bound(terms: Tensor, prior: Tensor, steps: int) -> Bound:
    """Add up the terms (1 + strata, N) of N latents: the first step's, then as many as were drawn of the others."""
    first, others = terms[0], (steps - 1) * terms[1:].mean(0)
    each = first + others + prior
    error = float(each.std() / len(each) ** 0.5) if len(each) > 1 else None
    return Bound(float(each.mean()), float(first.mean()), float(others.mean()), float(prior.mean()), error)
