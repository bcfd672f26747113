"""How people read numbers, settings, and how samples were drawn: one way for every page and table."""

from collections.abc import Mapping
from typing import Any

_UNITS = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_USUAL = {"eta": 0.0, "cfg_rescale": 0.0, "spacing": "trailing", "autoguide_scale": 1.0, "classifier_scale": 0.0}
_USUAL |= {"cfg_interval": None, "cfg_channels": None, "away_from": None, "shift": None, "checkpoint": "final"}


def number(numbers: Mapping[str, float], name: str) -> str:
    """Write one of some numbers with four digits; nothing where it is not among them."""
    return f"{numbers[name]:.4g}" if name in numbers else ""


def amount(value: float) -> str:
    """Write a number with three digits and a letter for its thousands: 0, 999, 12.3 k, 712 G."""
    for size, letter in _UNITS:
        if value >= 0.9995 * size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g}"


def megabytes(size: float) -> str:
    """Write bytes as megabytes: 1,234.5 MB."""
    return f"{size / 1e6:,.1f} MB"


def rate(images_per_second: float) -> str:
    """Write a number of images a second: whole numbers from ten on."""
    return f"{images_per_second:,.0f}" if images_per_second >= 10 else f"{images_per_second:.2g}"


def sides(shape: list[int]) -> str:
    """Write a shape: 4 × 32 × 32."""
    return " × ".join(map(str, shape))


def plain(name: str) -> str:
    """Return the name of a number or setting in words, without that of an extractor."""
    words = name.partition("[")[0].replace("val_", "validation ").replace("_", " ")
    words = words.replace("kl ", "KL ").replace("mu std", "std of μ").replace("sigma", "mean σ")
    return words.upper() if words in ("fid", "kid", "psnr", "ssim", "lpips") else words.replace("frechet", "Fréchet")


def how(sampling: Mapping[str, Any]) -> str:
    """Write how images were drawn: sampler, steps, guidance, and what is unusual."""
    parts = [str(sampling["sampler"])]
    parts += [f"{sampling['steps']} steps"] if "steps" in sampling else []
    parts += [f"cfg {sampling['cfg']:g}"] if "cfg" in sampling else []
    parts += [f"{plain(key)} {sampling[key]}" for key, value in _USUAL.items() if sampling.get(key, value) != value]
    return ", ".join(parts)


def conditions_in_words(seen: Mapping[str, Any]) -> str:
    """Write in one line what numbers depend on."""
    parts = [how(seen["sampling"])] if "sampling" in seen else []
    if seen.get("n_reference"):
        parts.append(
            f"{seen.get('n_samples', 0):,} against {seen['n_reference']:,} of {seen.get('reference', 'the reference')}"
        )
    if "extractor" in seen:
        weights, resize = seen.get("weights_sha256", ""), seen.get("resize", "unknown")
        parts.append(f"{seen['extractor']} features {weights[:8]}, resize {resize}")
    if "n_latents" in seen:
        times = seen.get("times_per_latent", 0)
        parts.append(f"{seen['n_latents']:,} latents, {times} times each; {seen.get('of', '')}")
    return "; ".join(parts)
