"""Settings of `ldm anagram`, `ldm hybrid` and `ldm interpolate`: two conditions, one image or a way between."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from ...core.diffusion.names import ViewName
from ...core.errors import ConfigError
from ...core.pipeline.settings import Drawing, Repeatable, Seeded
from ...core.settings.fields import Count, Texts, option


class Combination(Drawing, Repeatable):
    """Images of two conditions."""

    @property
    def pair(self) -> tuple[str, str]:
        """The two classes, empty for none. Raises ConfigError where they were not given."""
        raise NotImplementedError

    def own_settings(self, classes: Sequence[str]) -> dict[str, Any]:
        """Return the settings by which an image of these two classes is drawn again, besides those of drawing."""
        raise NotImplementedError

    @property
    def title(self) -> str:
        """What the folder's name begins with."""
        return "-".join(self.pair).strip("-") or "any"


class Anagram(Combination, Seeded):
    """Settings of `ldm anagram`."""

    command: ClassVar[str] = "anagram"
    kind: ClassVar[str] = "anagrams"

    classes: Texts = option((), "Give it twice: what is seen upright, and what through the view.", "--class")
    view: ViewName = option("flip", "How the other is seen; flip is upside down, jigsaw 4 x 4 pieces.", "--view")
    space: Literal["auto", "latents", "pixels"] = option(
        "auto",
        "Where the view is taken: of latents, or of decoded pixels at every step; auto is pixels, the better.",
        "--space",
    )

    @property
    def pair(self) -> tuple[str, str]:
        if len(self.classes) != 2:
            raise ConfigError("an anagram has two classes", "give `classes` twice")
        return self.classes[0], self.classes[1]

    def own_settings(self, classes: Sequence[str]) -> dict[str, Any]:
        return {"classes": [*classes], "view": self.view, "space": self.space}

    @property
    def title(self) -> str:
        return f"{super().title}_{self.view}"

    def in_pixels(self, of_pixels: bool) -> bool:
        """Whether the view is taken of decoded pixels. of_pixels: whether the model's latents are pixels."""
        return not of_pixels and (self.space == "pixels" or (self.space == "auto" and self.view != "none"))


class Hybrid(Combination, Seeded):
    """Settings of `ldm hybrid`."""

    command: ClassVar[str] = "hybrid"
    kind: ClassVar[str] = "hybrids"

    near: str = option("", "Class that is seen from near: its fine detail.", "--near")
    far: str = option("", "Class that is seen from afar, or small: its coarse shapes.", "--far")
    sigma: float | None = option(
        None, "Blur that divides the two, pixels of the image; by default a 32nd of its side.", "--sigma", gt=0, le=256
    )

    @property
    def pair(self) -> tuple[str, str]:
        if not (self.near and self.far):
            raise ConfigError("a hybrid has two classes", "give `near` and `far`")
        return self.near, self.far

    def own_settings(self, classes: Sequence[str]) -> dict[str, Any]:
        return {"near": classes[0], "far": classes[1], "sigma": self.sigma}


class Interpolate(Combination):
    """Settings of `ldm interpolate`."""

    command: ClassVar[str] = "interpolate"
    kind: ClassVar[str] = "interpolations"

    classes: Texts = option(
        (), "The class; given twice, those at the two ends; without one, the unconditional model.", "--class"
    )
    to_seed: int | None = option(None, "Seed at the other end; by default the same.", "--to-seed", ge=0, lt=2**63)
    frames: Count = option(16, "Images from end to end.", "--frames", ge=2, le=10_000)

    @property
    def pair(self) -> tuple[str, str]:
        if len(self.classes) > 2:
            raise ConfigError(f"`classes` is given {len(self.classes)} times", "give it once, or one for each end")
        if self.to_seed in (None, self.seed) and len(set(self.classes)) <= 1:
            raise ConfigError("both ends are the same", "give `to_seed`, or another class for the other end")
        ends = self.classes or ("",)
        return ends[0], ends[-1]

    def own_settings(self, classes: Sequence[str]) -> dict[str, Any]:
        named = dict.fromkeys(name for name in classes if name)
        return {"classes": [*named], "to_seed": self.to_seed, "frames": self.frames}
