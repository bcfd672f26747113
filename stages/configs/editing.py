"""Settings of `ldm edit`: which images, and how much of them stays."""

import re
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from ...core.pipeline.settings import Asking, Drawing, Repeatable, Seeded
from ...core.settings.fields import Count, Location, Section, Texts, option

STRENGTHS = (0.2, 0.4, 0.6, 0.8)


class Renoising(Section):
    """How a denoiser edits: from which noise."""

    strength: tuple[Annotated[float, Field(ge=0, le=1)], ...] | None = option(
        None,
        "Noise times to start from: 0 keeps the image, 1 forgets it; by default 0.2,0.4,0.6,0.8, with a mask or"
        " inversion 1.",
        "--strength",
    )
    start_index: tuple[Annotated[int, Field(ge=0)], ...] | None = option(
        None, "The same as places in the sampler's grid, counted from noise: a small one changes more.", "--start-index"
    )
    resample: int = option(
        1, "Draw each part of the path so many times, to fit the new to the kept (RePaint).", "--resample", ge=1, le=100
    )
    jump: int = option(10, "Steps of such a part.", ge=1)
    inversion: bool = option(
        False, "Start from the noise from which DDIM draws the image, and reconstruct it too.", "--inversion"
    )
    from_class: str | None = option(None, "Class or prompt of the image itself, for the inversion; by default none.")
    refine: int = option(1, "Corrections of each step of the inversion.", ge=0, le=100)


class KeptScales(Section):
    """How a generator of tokens edits: which of them stay."""

    keep_scales: tuple[Annotated[int, Field(ge=0)], ...] | None = option(
        None,
        "Of tokens: how many scales stay the image's, from the coarsest; by default 0.8 to 0.2 of them, with a mask 0.",
        "--keep-scales",
    )


class Edit(Drawing, Asking, Seeded, Repeatable, Renoising, KeptScales):
    """Settings of `ldm edit`."""

    command: ClassVar[str] = "edit"
    kind: ClassVar[str] = "edits"
    examples = (
        "ldm edit photo.jpg --class dog",
        "ldm edit photos/ --strength 0.4,0.7 --class cat,dog --cfg 4",
        "ldm edit sketch.png --start-index 5,10,20 --class 3 --num 4",
        "ldm edit photo.jpg --box 20,16,24,24 --class church --resample 5",
        "ldm edit photo.jpg --outpaint left=32 --class church",
        "ldm edit photo.jpg --inversion --class cat",
        "ldm edit photo.jpg --denoiser runs/tokens/var --keep-scales 6,4,2 --class cat",
    )

    images: Texts = option(
        (), "Images to edit: files, folders, or any source of images.", "IMAGE...", identity="contents"
    )
    classes: str | None = option(  # type: ignore[assignment]
        None, "Classes to edit towards, as for ldm sample; by default none.", "--class"
    )
    num: Count = option(1, "Results of each image, class and strength, with consecutive seeds.", "--num,--count", ge=1)
    mask: Location | None = option(
        None, "Picture of what to draw anew, in white; black is kept. Any size.", "--mask", identity="contents"
    )
    invert_mask: bool = option(False, "Draw anew what is black in the mask.", "--invert-mask")
    box: tuple[int, int, int, int] | None = option(
        None, "Draw anew only x,y,width,height of each image, in its pixels.", "--box"
    )
    outpaint: str | None = option(
        None, "Margins to add, in pixels of the image: left=32,top=16. More is added until it is square.", "--outpaint"
    )
    feather: int = option(2, "Pixels over which the new fades in, inside of the mask.", "--feather", ge=0, le=64)
    paste: bool = option(True, "Put the kept pixels back after decoding, to the byte.", "--paste/--no-paste")

    @property
    def margins(self) -> dict[str, int]:
        """The margins that `outpaint` asks for, by side."""
        return {side: int(width) for side, width in re.findall(r"(\w+)=(\d+)", self.outpaint or "")}

    @property
    def masked(self) -> bool:
        """Whether a part of each image is kept as it is."""
        return any(part is not None for part in (self.mask, self.box, self.outpaint))

    @property
    def strengths(self) -> tuple[float, ...]:
        if self.strength is not None:
            return self.strength
        return (1.0,) if self.masked or self.inversion else STRENGTHS

    def kept_of(self, scales: int) -> tuple[int, ...]:
        """Return how many of so many scales of tokens each edit keeps."""
        if self.keep_scales is not None:
            return self.keep_scales
        return (0,) if self.masked else tuple(dict.fromkeys(max(round(scales * (1 - t)), 1) for t in STRENGTHS))

    @model_validator(mode="before")
    @classmethod
    def _margins_are_sides(cls, values: Any) -> Any:
        text = values.get("outpaint") if isinstance(values, dict) else None
        side = r"\s*(left|top|right|bottom)=\d{1,5}\s*"
        if text is not None and not re.fullmatch(rf"{side}(,{side})*", str(text)):
            raise ValueError(f"`outpaint={text}`: give margins as left=32,top=16; the others are right and bottom")
        return values

    @model_validator(mode="after")
    def _settings_go_together(self) -> "Edit":
        if self.image_size is not None:
            raise ValueError("`image_size`: edits have the size of the model's images; leave it out")
        if self.strength is not None and self.start_index is not None:
            raise ValueError("`strength` and `start_index` are the same setting in two forms; give one of them")
        for name in ("strength", "start_index", "keep_scales"):
            if getattr(self, name) == ():
                raise ValueError(f"`{name}`: give at least one")
        if sum(part is not None for part in (self.mask, self.box, self.outpaint)) > 1:
            raise ValueError("`mask`, `box` and `outpaint` each say what to draw anew; give one of them")
        if self.inversion and (self.sampler == "ddpm" or self.eta):
            raise ValueError("`inversion` needs a deterministic sampler; use `sampler=ddim` with `eta=0`")
        if self.inversion and self.masked:
            raise ValueError("`inversion` of a part of an image is not defined; leave out the mask")
        if self.from_class is not None and not self.inversion:
            raise ValueError("`from_class` has no effect without `inversion`")
        return self
