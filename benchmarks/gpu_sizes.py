"""At which sizes `gpu` measures: those of the papers on a GPU, and tiny ones that go the same ways anywhere."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Case:
    """A training to be measured: preset, side of the latents (4 channels), batch, compiled, activations recomputed."""

    preset: str
    side: int
    batch: int
    compiled: bool
    checkpointing: bool = False

    @property
    def name(self) -> str:
        """What it is called in results."""
        how = ("compiled" if self.compiled else "eager") + (", checkpointing" if self.checkpointing else "")
        return f"{self.preset}, {self.side} x {self.side} x 4, batch {self.batch}, {how}"


@dataclass(frozen=True)
class Sizes:
    """How large, and how long, everything is measured.

    profiled: the training of which the kernels are listed. sampled: presets. side: of the latents sampled and loaded.
    vqvae, image_size, images: preset, side and batch of the autoencoder. loaded: latents got ready at once. matrix:
    side of the products by which utilisation is measured. seconds: of each measurement.
    """

    trainings: tuple[Case, ...]
    profiled: Case
    sampled: tuple[str, ...]
    side: int
    steps: int
    vqvae: str
    image_size: int
    images: int
    loaded: int
    matrix: int
    seconds: float


_XL = Case("dit-xl/2", 32, 64, compiled=True)

FULL = Sizes(
    trainings=(
        Case("dit-s/2", 32, 256, compiled=True),
        Case("dit-s/2", 32, 256, compiled=False),
        Case("dit-b/2", 32, 256, compiled=True),
        _XL,
        replace(_XL, compiled=False),
        replace(_XL, batch=256, checkpointing=True),
    ),
    profiled=_XL,
    sampled=("dit-s/2", "dit-b/2", "dit-xl/2"),
    side=32,
    steps=50,
    vqvae="vqvae-m",
    image_size=256,
    images=16,
    loaded=512,
    matrix=8192,
    seconds=10.0,
)

_XS = Case("dit-xs", 8, 4, compiled=False)

TINY = Sizes(
    trainings=(_XS, replace(_XS, checkpointing=True)),
    profiled=_XS,
    sampled=("dit-xs",),
    side=8,
    steps=2,
    vqvae="vqvae-xs",
    image_size=16,
    images=4,
    loaded=8,
    matrix=64,
    seconds=0.02,
)
