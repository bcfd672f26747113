"""The U-Net as settings: its levels, each a string of blocks, and its named designs. Imports no torch."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from ..errors import ConfigError
from ..settings.fields import option
from ..settings.words import did_you_mean
from .text_config import TextDenoiserConfig

BLOCKS = {
    "res": "two convolutions",
    "conv": "a ConvNeXt block",
    "attn": "self-attention",
    "cross": "a transformer that attends to tokens, such as those of a text",
    "class-attn": "channels mixed by the class",
    "channel-attn": "channels weighted by their mean",
}
Multiplier = Annotated[float, Field(gt=0, le=64)]
_MOST_WORDS, _MOST_LEVELS = 16, 12
_FIRST = ("res", "conv")  # those that can change the number of channels, and so begin a level


def _adm(channels: int, multipliers: tuple[float, ...], attention: int, repeats: int, **more: Any) -> dict[str, Any]:
    """Return Dhariwal & Nichol's design. attention: level from which on there is attention."""
    levels = ",".join("res attn" if level >= attention else "res" for level in range(len(multipliers)))
    return {"channels": channels, "multipliers": multipliers, "blocks": levels, "repeats": repeats, **more}


def _ldm(channels: int, multipliers: tuple[float, ...], repeats: int, levels: str, **more: Any) -> dict[str, Any]:
    """Return Rombach et al.'s design."""
    own = {"middle": "res cross res", "resample": "conv", "modulation": "add", **more}
    return {"channels": channels, "multipliers": multipliers, "blocks": levels, "repeats": repeats, **own}


def _menu(blocks: str, channels: int = 128) -> dict[str, Any]:
    """Return a design of one string for all levels, where the time scales and the class shifts."""
    own = {"middle": f"{blocks} {blocks}", "resample": "conv", "modulation": "split", "edge": 7, "repeats": 1}
    return {"channels": channels, "multipliers": (2, 4, 8), "blocks": blocks, **own}


PRESETS: dict[str, dict[str, Any]] = {
    # For latents and small images on a CPU.
    "unet-xs": _adm(64, (1, 2, 4), 1, 1),
    "unet-s": _adm(96, (1, 2, 3), 1, 2, head_width=32),
    # Dhariwal & Nichol 2021, by image size; and the same design for latents of 32 x 32.
    "adm-64": _adm(192, (1, 2, 3, 4), 1, 3),
    "adm-128": _adm(256, (1, 1, 2, 3, 4), 2, 2, heads=4),
    "adm-256": _adm(256, (1, 1, 2, 2, 4, 4), 3, 2),
    "adm-512": _adm(256, (0.5, 1, 1, 2, 2, 4, 4), 4, 2),
    "adm-latent": _adm(192, (1, 2, 3, 4), 0, 2),
    # Rombach et al. 2022: for text.
    "ldm-xs": _ldm(64, (1, 2, 4), 1, "res cross,res cross,res", heads=4),
    "sd-1.5": _ldm(320, (1, 2, 4, 4), 2, "res cross,res cross,res cross,res", heads=8),
    "sd-2.1": _ldm(320, (1, 2, 4, 4), 2, "res cross,res cross,res cross,res"),
    # Block menus of gmongaras, "Diffusion models from scratch".
    "menu-res": _menu("res class-attn channel-attn"),
    "menu-res-conv": _menu("res conv class-attn channel-attn"),
    "menu-res-res": _menu("res res class-attn channel-attn"),
    "menu-res-res-attn": _menu("res res class-attn attn channel-attn"),
    "menu-res-wide": _menu("res class-attn channel-attn", 192),
}


@dataclass(frozen=True)
class Part:
    """A part of the network. kind: "unit", a string of blocks; "shrink" and "grow" change the side to that of `level`.

    skip: channels of the earlier maps that are joined to its input, which has `inputs` channels with them.
    """

    where: Literal["down", "middle", "up"]
    kind: Literal["unit", "shrink", "grow"]
    level: int
    inputs: int
    channels: int
    blocks: tuple[str, ...] = ()
    skip: int = 0


class UNetConfig(TextDenoiserConfig):
    """Shape of a U-Net, whose `cross` attends to the tokens of a text."""

    presets = PRESETS
    default_preset: ClassVar[str] = "unet-xs"
    sizes: ClassVar[str] = "unet-xs, unet-s, adm-64 … adm-512, ldm-xs, sd-1.5, menu-res …"

    channels: int = option(
        ..., "Channels that multipliers multiply; vectors of time and class are four times as wide.", ge=1, le=16_384
    )
    multipliers: tuple[Multiplier, ...] = option(
        ..., "Channels of each level over the first ones: 1,2,4.", min_length=1
    )
    blocks: str = option(
        ..., f"Blocks of each level, or of all, with commas between levels: {', '.join(BLOCKS)}, as in 'res,res attn'."
    )
    middle: str = option("res attn res", "Blocks between the way down and the way up.")
    repeats: int = option(..., "How often a level has its blocks on the way down; one more on the way up.", ge=1, le=64)
    resample: Literal["res", "conv"] = option("res", "Between levels: BigGAN's residual blocks, or one convolution.")
    modulation: Literal["scale-shift", "add", "split"] = option(
        "scale-shift", "By time + class: AdaGN's, or added; split: the time scales, the class shifts."
    )
    head_width: int = option(64, "Width of attention heads.", ge=1, le=4096)
    heads: int | None = option(None, "Attention heads, instead of their width.", ge=1, le=4096)
    depth: int = option(1, "Blocks of each `cross` transformer.", ge=1, le=64)
    edge: Literal[1, 3, 5, 7] = option(3, "Kernel of the first and last convolution.")
    groups: int = option(32, "Groups of normalisation.", ge=1, le=1024)

    @field_validator("blocks", "middle")
    @classmethod
    def _blocks_are_known(cls, value: str) -> str:
        for string in value.split(","):
            words = string.split()
            for word in words:
                if word not in BLOCKS:
                    raise ValueError(
                        f"{word!r} is not a block{did_you_mean(word, BLOCKS)}; there are {', '.join(BLOCKS)}"
                    )
            if len(words) > _MOST_WORDS:
                raise ValueError(f"a string has {len(words)} blocks, at most {_MOST_WORDS}")
            if not words or words[0] not in _FIRST:
                raise ValueError(f"{string!r} must begin with {' or '.join(_FIRST)}")
        return value

    @property
    def levels(self) -> list[str]:
        """The blocks of each level."""
        strings = [string.strip() for string in self.blocks.split(",")]
        return strings * len(self.multipliers) if len(strings) == 1 else strings

    def check(self) -> None:
        super().check()
        if len(self.multipliers) > _MOST_LEVELS:
            raise ConfigError(f"multipliers has {len(self.multipliers)} levels", f"give {_MOST_LEVELS} at most")
        if len(self.levels) != len(self.multipliers):
            raise ConfigError(
                f"blocks has {len(self.levels)} strings for {len(self.multipliers)} levels",
                "give one for each, or one for all",
            )
        self._check_size()
        used = {block for part in self.parts() for block in part.blocks}
        if not self.num_classes and (self.modulation == "split" or "class-attn" in used):
            what = "modulation=split" if self.modulation == "split" else "class-attn"
            raise ConfigError(f"{what} needs classes, which these data do not have", "choose another preset")
        if self.takes_text != ("cross" in used):
            have = f"tokens of width {self.context_width}" if self.takes_text else "no tokens"
            raise ConfigError(
                f"these data have {have}, and blocks are {', '.join(sorted(used))}",
                "choose a preset with cross, such as ldm-xs" if self.takes_text else "choose a preset without cross",
            )
        for part in self.parts():
            self._check_part(part)

    def _check_size(self) -> None:
        """Refuse sizes that do not halve as often as there are levels: maps would not fit their skips."""
        step = 2 ** (len(self.multipliers) - 1)
        if min(self.size) < 1 or any(side % step for side in self.size):
            given, wanted = (
                " x ".join(str(side) for side in sides)
                for sides in (self.size, [max(step, -(-side // step) * step) for side in self.size])
            )
            raise ConfigError(
                f"latents of {given} do not divide by {step}, as {len(self.multipliers)} levels need",
                f"the next size that does is {wanted}: choose another image size, or fewer multipliers",
            )

    def _check_part(self, part: Part) -> None:
        for channels in {part.inputs, part.channels}:
            if channels < 1 or channels % self.groups:
                raise ConfigError(
                    f"{channels} channels do not divide into {self.groups} groups", "choose other channels or groups"
                )
        if {"attn", "cross"} & set(part.blocks) and part.channels % (self.heads or self.head_width):
            what = f"{self.heads} heads" if self.heads else f"heads of width {self.head_width}"
            raise ConfigError(f"{part.channels} channels do not divide into {what}", "choose other heads or channels")

    def num_heads(self, channels: int) -> int:
        """Return the heads of attention in maps of so many channels."""
        return self.heads or channels // self.head_width

    @property
    def num_blocks(self) -> int:
        return len(self.parts())

    @property
    def embedding(self) -> int:
        """Width of the vectors of time and class."""
        return 4 * self.channels

    def parts(self) -> list[Part]:
        """Return the parts in order. Each but the last one on the way down leaves its maps for the way up, as does the
        first convolution."""
        levels = [int(self.channels * multiplier) for multiplier in self.multipliers]
        blocks = [tuple(string.split()) for string in self.levels]
        now, skips, parts = levels[0], [levels[0]], list[Part]()

        for level, channels in enumerate(levels):
            for _ in range(self.repeats):
                parts.append(Part("down", "unit", level, now, channels, blocks[level]))
                now = channels
                skips.append(now)
            if level < len(levels) - 1:
                parts.append(Part("down", "shrink", level + 1, now, now))
                skips.append(now)

        parts.append(Part("middle", "unit", len(levels) - 1, now, now, tuple(self.middle.split())))

        for level in reversed(range(len(levels))):
            for _ in range(self.repeats + 1):
                skip = skips.pop()
                parts.append(Part("up", "unit", level, now + skip, levels[level], blocks[level], skip))
                now = levels[level]
            if level:
                parts.append(Part("up", "grow", level - 1, now, now))
        return parts
