"""Settings of what conditions latents."""

from typing import Literal

from ..settings.fields import Section, Texts, option


class TextSettings(Section):
    """What encodes captions, and how much of them it reads."""

    encoder: Texts = option(
        ("own",),
        "What reads captions: own, a text network that is trained with the denoiser, or the folder of a frozen encoder"
        " of transformers; several for several together.",
        "--text-encoder",
        identity="contents",
    )
    layer: Literal["auto", "last", "penultimate"] = option(
        "auto", "Whose output is taken of a frozen encoder; auto is the last layer's, of CLIP that before it."
    )
    length: int | None = option(
        None, "Most tokens of a caption; by default as many as nearly all captions have.", "--text-length", ge=3, le=512
    )
    padding: Literal["masked", "seen"] = option(
        "masked",
        "Of a frozen encoder: masked, or seen as in Stable Diffusion, where every text has as many tokens.",
    )
