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
    def asks(self) -> str | None:
        """The setting by which the conditions were asked for; None for one that takes those of any kind."""
        return None

    @property
    def pair(self) -> tuple[str, str]:
        """The two classes or prompts, empty for none. Raises ConfigError where they were not given."""
        raise NotImplementedError

    def own_settings(self, named: Sequence[str]) -> dict[str, Any]:
        """Return the settings by which an image of these two conditions is drawn again, besides those of drawing."""
        raise NotImplementedError

    @property
    def title(self) -> str:
        """What the folder's name begins with."""
        return "-".join(self.pair).strip("-") or "any"


class Named(Combination):
    """Images of two conditions that are named by one setting, given twice."""

    classes: Texts = ()
    prompt: Texts = ()

    @property
    def asks(self) -> str:
        return "prompt" if self.prompt else "classes"

    @property
    def given(self) -> tuple[str, ...]:
        """What was given. Raises ConfigError where that is classes and prompts."""
        if self.classes and self.prompt:
            raise ConfigError("`classes` and `prompt` are both given", "give one of the two")
        return self.prompt or self.classes


class Anagram(Named, Seeded):
    """Settings of `ldm anagram`."""

    command: ClassVar[str] = "anagram"
    kind: ClassVar[str] = "anagrams"
    examples = (
        "ldm anagram --class 6 --class 9 --view rotate180",
        "ldm anagram --class church --class parachute --view flip --cfg 5",
    )

    classes: Texts = option((), "Give it twice: what is seen upright, and what through the view.", "--class")
    prompt: Texts = option((), "The same of a model of captions.", "--prompt")
    view: ViewName = option("flip", "How the other is seen; flip is upside down, jigsaw 4 x 4 pieces.", "--view")
    space: Literal["auto", "latents", "pixels"] = option(
        "auto",
        "Where the view is taken: of latents, or of decoded pixels at every step; auto is pixels, the better.",
        "--space",
    )

    @property
    def pair(self) -> tuple[str, str]:
        if len(self.given) != 2:
            raise ConfigError("an anagram has two classes or prompts", f"give `{self.asks}` twice")
        return self.given[0], self.given[1]

    def own_settings(self, named: Sequence[str]) -> dict[str, Any]:
        return {self.asks: [*named], "view": self.view, "space": self.space}

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
    examples = (
        "ldm hybrid --near 8 --far 1",
        "ldm hybrid --near dog --far church --sigma 3",
    )

    near: str = option("", "Class or prompt that is seen from near: its fine detail.", "--near")
    far: str = option("", "Class or prompt that is seen from afar, or small: its coarse shapes.", "--far")
    sigma: float | None = option(
        None, "Blur that divides the two, pixels of the image; by default a 32nd of its side.", "--sigma", gt=0, le=256
    )

    @property
    def pair(self) -> tuple[str, str]:
        if not (self.near and self.far):
            raise ConfigError("a hybrid has two classes", "give `near` and `far`")
        return self.near, self.far

    def own_settings(self, named: Sequence[str]) -> dict[str, Any]:
        return {"near": named[0], "far": named[1], "sigma": self.sigma}


class Interpolate(Named):
    """Settings of `ldm interpolate`."""

    command: ClassVar[str] = "interpolate"
    kind: ClassVar[str] = "interpolations"
    examples = (
        "ldm interpolate --class 3 --to-seed 1",
        "ldm interpolate --class 3 --class 8 --frames 24",
    )

    classes: Texts = option(
        (), "The class; given twice, those at the two ends; without one, the unconditional model.", "--class"
    )
    prompt: Texts = option((), "The same of a model of captions.", "--prompt")
    to_seed: int | None = option(None, "Seed at the other end; by default the same.", "--to-seed", ge=0, lt=2**63)
    frames: Count = option(16, "Images from end to end.", "--frames", ge=2, le=10_000)

    @property
    def pair(self) -> tuple[str, str]:
        if len(self.given) > 2:
            raise ConfigError(f"`{self.asks}` is given {len(self.given)} times", "give it once, or one for each end")
        if self.to_seed in (None, self.seed) and len(set(self.given)) <= 1:
            another = "class" if self.asks == "classes" else self.asks
            raise ConfigError("both ends are the same", f"give `to_seed`, or another {another} for the other end")
        ends = self.given or ("",)
        return ends[0], ends[-1]

    def own_settings(self, named: Sequence[str]) -> dict[str, Any]:
        return {
            self.asks: [*dict.fromkeys(name for name in named if name)],
            "to_seed": self.to_seed,
            "frames": self.frames,
        }
