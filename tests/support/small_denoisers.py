"""The smallest model of every family of denoisers, by its settings."""

from typing import Any

SIZES: dict[str, dict[str, Any]] = {
    "dit": {"preset": "dit-xs", "width": 16, "depth": 1, "heads": 2},
    "dit-text": {"preset": "dit-cross-xs", "width": 16, "depth": 1, "heads": 2, "text_width": 16},
    "linear-dit": {"preset": "linear-dit-xs", "width": 16, "depth": 1, "heads": 2, "cross_heads": 2, "text_width": 16},
    "mmdit": {"preset": "mmdit-xs", "width": 16, "depth": 1, "heads": 2, "text_width": 16},
    "unet-mnist": {"preset": "unet-mnist", "width": 8},
    "unet": {"preset": "unet-xs", "channels": 8, "groups": 4, "heads": 2},
}
