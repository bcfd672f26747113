"""How often classes count: what users write of it."""

from collections.abc import Sequence

from ..errors import ConfigError
from ..settings.words import nearest


def repeats_of(given: Sequence[str], names: Sequence[str]) -> dict[int, float]:
    """Return how often each class counts, by its label, of texts such as `red=3`. Raises ConfigError for others."""
    repeats: dict[int, float] = {}
    for text in given:
        name, _, written = text.rpartition("=")
        known = names.index(name) if name in names else None
        if known is None:
            near = nearest(name, [*names])
            hint = f"did you mean {near}={written}?" if near else f"name one of {', '.join(names[:10])}"
            raise ConfigError(f"`train.repeats={text}`: {name!r} is an unknown class", hint)
        if not _is_factor(written) or known in repeats:
            raise ConfigError(f"`train.repeats={text}`: {written!r} is no factor of its own", "give one of 0.01 to 100")
        repeats[known] = float(written)
    return repeats


def _is_factor(text: str) -> bool:
    try:
        return 0.01 <= float(text) <= 100
    except ValueError:
        return False
