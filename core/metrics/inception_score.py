"""How sharp and how varied a classifier finds a set of images: exp E KL(p(y|x) ‖ p(y)) (Salimans et al. 2016)."""

import torch
from torch import Tensor

from ..seeds import generator


def inception_score(logits: Tensor, splits: int = 10, seed: int = 0) -> tuple[float, float]:
    """Return mean and standard deviation over `splits` parts of about equal size, in a shuffled order; between 1 and K.

    logits (N, K), N ≥ splits. With one split the order does not matter.
    """
    assert logits.ndim == 2 and 1 <= splits <= len(logits)
    order = torch.from_numpy(generator(seed, "inception score").permutation(len(logits)))
    log_p = logits.cpu().double()[order].log_softmax(1)
    ends = [number * len(log_p) // splits for number in range(1, splits)]
    scores = torch.stack([_score(part) for part in log_p.tensor_split(ends)])
    return float(scores.mean()), float(scores.std(correction=0))


def _score(log_p: Tensor) -> Tensor:
    p = log_p.exp()
    # A class that no image has underflows to a marginal of zero; 0 log 0 is 0.
    log_marginal = p.mean(0).clamp(min=torch.finfo(p.dtype).tiny).log()
    return (p * (log_p - log_marginal)).sum(1).mean().exp()
