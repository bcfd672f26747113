"""Vector quantisation: every latent vector is replaced by the nearest code of a codebook (van den Oord et al. 2017).

    loss = ||sg[z] - e||^2 + beta ||z - sg[e]||^2

beta is on the encoder's term. With an EMA codebook the first term is left out: codes are EMAs of the
vectors assigned to them. The codebook changes only in `initialise` and `update`, which the trainer calls: after
a finite step, and with its own generator, so that nothing here draws from a global stream.

Shapes: N vectors, D channels, K codes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..system.precision import no_tf32
from .parts_config import CodebookConfig

_CACHE_ROWS = 256  # rows whose K scores stay in a CPU's cache
_DEVICE_ROWS = 16384  # rows that bound an accelerator's memory
_LLOYD_STEPS = 8
_LEAST_SHARE = 1e-12


@dataclass(frozen=True)
class Assignment:
    """Which code each vector of a batch took: vectors (N, D) without gradient, indices (N,)."""

    vectors: Tensor
    indices: Tensor


@dataclass(frozen=True)
class Quantised:
    """The result of quantising a batch.

    latents: (B, D, h, w), the codes, with the gradient of the vectors they replace. loss: scalar, beta included.
    indices: (B, h, w). counts: (K,), how many vectors took each code.
    """

    latents: Tensor
    loss: Tensor
    indices: Tensor
    counts: Tensor
    assignment: Assignment


class Quantizer(nn.Module):
    """A codebook: `codes` (K, D), and the moving `shares` (K,) and `sums` (K, D) of the vectors that took them."""

    codes: Tensor
    shares: Tensor
    sums: Tensor

    def __init__(self, config: CodebookConfig) -> None:
        super().__init__()
        self.config = config
        codes, sums = (torch.empty(config.codebook_size, config.latent_channels) for _ in range(2))
        if not codes.is_meta:  # Meta tensors would load sympy and the compiler, for two seconds.
            codes = self.project(torch.randn(config.codebook_size, config.latent_channels), dim=1)
            sums = codes / config.codebook_size
        if config.codebook == "gradient":
            self.codes = nn.Parameter(codes)
        else:
            self.register_buffer("codes", codes)
            self.register_buffer("sums", sums)
        self.register_buffer("shares", torch.full((config.codebook_size,), 1 / config.codebook_size))

    def project(self, latents: Tensor, dim: int = 1) -> Tensor:
        """Return latents (B, D, h, w) as they are compared, float32: on the unit sphere with `cosine`."""
        latents = latents.float()
        return F.normalize(latents, dim=dim) if self.config.cosine else latents

    def forward(self, latents: Tensor) -> Quantised:
        """Quantise projected latents (B, D, h, w), float32."""
        vectors = latents.movedim(1, -1)
        indices, chosen = self.choose(vectors.flatten(0, -2))
        chosen = chosen.view(vectors.shape)
        loss = self.config.commitment * F.mse_loss(vectors, chosen.detach())
        if self.config.codebook == "gradient":
            loss = loss + F.mse_loss(chosen, vectors.detach())
        return Quantised(
            latents=(vectors + (chosen - vectors).detach()).movedim(-1, 1),
            loss=loss,
            indices=indices.view(vectors.shape[:-1]),
            counts=torch.bincount(indices, minlength=self.config.codebook_size),
            assignment=Assignment(vectors.detach().flatten(0, -2), indices),
        )

    def lookup(self, latents: Tensor) -> Tensor:
        """Return the codes (B, D, h, w) nearest to latents (B, D, h, w), float32."""
        vectors = self.project(latents).movedim(1, -1)
        _, chosen = self.choose(vectors.flatten(0, -2))
        return chosen.view(vectors.shape).movedim(-1, 1)

    def embed(self, indices: Tensor) -> Tensor:
        """Return the codes (B, D, h, w) of their numbers (B, h, w), float32."""
        return F.embedding(indices, self.project(self.codes)).movedim(-1, 1)

    @torch.no_grad()
    def initialise(self, vectors: Tensor, generator: torch.Generator) -> None:
        """Place the codes in the data: k-means on projected vectors (N, D) from a random choice of them.

        With fewer vectors than codes, repeats are set apart by a hundredth of the vectors' deviation.
        """
        num_codes = self.config.codebook_size
        codes = vectors[_draw(len(vectors), num_codes, generator).to(vectors.device)].float()
        if len(vectors) < num_codes:
            noise = torch.randn(codes.shape, generator=generator).to(codes)
            codes = codes + 0.01 * vectors.float().std(dim=0, unbiased=False) * noise
        for _ in range(_LLOYD_STEPS):
            indices = nearest_code(vectors, codes)
            counts, sums = _tally(vectors, indices, num_codes)
            codes = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp_min(1), codes)
            codes = self.project(codes)
        self._place(codes, torch.ones(num_codes, dtype=torch.bool, device=codes.device))

    @torch.no_grad()
    def update(self, assignments: Sequence[Assignment], generator: torch.Generator) -> None:
        """Move the codes after a step that was accepted, and restart the dead ones from its vectors.

        assignments: one per forward pass of the step. generator: on the CPU; the number of draws from it depends
        only on the number of vectors.
        """
        vectors = torch.cat([a.vectors for a in assignments])
        counts, sums = _tally(vectors, torch.cat([a.indices for a in assignments]), self.config.codebook_size)
        weight = 1 - self.config.ema_decay
        self.shares.lerp_(counts / len(vectors), weight)
        if self.config.codebook == "ema":
            self.sums.lerp_(sums / len(vectors), weight)
            alive = self.shares[:, None] > _LEAST_SHARE
            means = self.sums / self.shares[:, None].clamp_min(_LEAST_SHARE)
            self.codes.copy_(torch.where(alive, self.project(means), self.codes))
        if self.config.dead_code_threshold > 0:
            dead = self.shares < self.config.dead_code_threshold / self.config.codebook_size
            fresh = _draw(len(vectors), self.config.codebook_size, generator).to(vectors.device)
            self._place(vectors[fresh].float(), dead)

    @torch.no_grad()
    def rotate(self, rotation: Tensor) -> None:
        """Turn the codes by an orthogonal matrix (D, D): rotated vectors take the codes they took before."""
        self.codes.copy_((self.codes.double() @ rotation.to(self.codes.device).T).to(self.codes))
        if self.config.codebook == "ema":
            self.sums.copy_((self.sums.double() @ rotation.to(self.sums.device).T).to(self.sums))

    def choose(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Return the numbers (N,) of the codes nearest to projected vectors (N, D), and the codes (N, D), float32."""
        codes = self.project(self.codes)  # A gradient step and an average of codes both leave the sphere.
        indices = nearest_code(vectors.detach(), codes.detach())
        return indices, F.embedding(indices, codes)

    def _place(self, codes: Tensor, where: Tensor) -> None:
        """Set codes (K, D) where the mask (K,) is True, each with an even share."""
        even = 1 / self.config.codebook_size
        self.codes.copy_(torch.where(where[:, None], codes, self.codes))
        self.shares.copy_(torch.where(where, torch.full_like(self.shares, even), self.shares))
        if self.config.codebook == "ema":
            self.sums.copy_(torch.where(where[:, None], codes * even, self.sums))


@torch.no_grad()
def nearest_code(vectors: Tensor, codes: Tensor) -> Tensor:
    """Return for each vector (N, D) the index of the code (K, D) nearest to it, int64 (N,).

    Of equally near ones it is any, as their distances may round apart.

    In float32 also under autocast or TF32, since lower precision chooses other codes. ||z - e||^2 is compared
    without its ||z||^2, about the codes' mean so that an offset common to all does not cost digits.
    """
    rows = _CACHE_ROWS if vectors.device.type == "cpu" else _DEVICE_ROWS
    with torch.autocast(vectors.device.type, enabled=False), no_tf32():
        centre = codes.float().mean(dim=0)
        centred = codes.float() - centre
        half_norms, transposed = centred.square().sum(dim=1) / 2, centred.T.contiguous()
        found = [
            torch.addmm(half_norms, part - centre, transposed, alpha=-1).argmin(dim=1)
            for part in vectors.float().split(rows)
        ]
    return torch.cat(found)


def usage(counts: Tensor) -> Tensor:
    """Return the share of codes (K,) that any vector took, in [0, 1]."""
    return (counts > 0).float().mean()


def perplexity(counts: Tensor) -> Tensor:
    """Return exp of the entropy of the codes' counts (K,): K when all are used evenly, 1 when only one is."""
    p = counts.double() / counts.sum()
    return torch.special.entr(p).sum().exp()


def _tally(vectors: Tensor, indices: Tensor, num_codes: int) -> tuple[Tensor, Tensor]:
    """Return how many vectors took each code (K,) and their sum (K, D), float32."""
    counts = torch.bincount(indices, minlength=num_codes).float()
    sums = torch.zeros(num_codes, vectors.shape[1], device=vectors.device)
    return counts, sums.index_add_(0, indices, vectors.float())


def _draw(num_vectors: int, num_codes: int, generator: torch.Generator) -> Tensor:
    """Choose a vector for every code (K,), each at most once while there are enough."""
    order = torch.randperm(num_vectors, generator=generator)
    return order.repeat(-(-num_codes // num_vectors))[:num_codes]
