"""The named sizes of networks, which are known without torch."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ldm.core.autoencoders.families import FAMILIES as AUTOENCODERS
from ldm.core.denoisers.families import FAMILIES as DENOISERS
from ldm.core.settings.families import Families, config_of_preset, family_of, preset_names

ROOT = Path(__file__).resolve().parents[3]
LATENTS: dict[str, Any] = {"latent_channels": 4, "latent_size": 64, "num_classes": 3}


@pytest.mark.parametrize(("families", "given"), [(AUTOENCODERS, {}), (DENOISERS, LATENTS)])
def test_a_name_in_any_case_stands_for_its_settings(families: Families, given: dict[str, Any]) -> None:
    for name in preset_names(families):
        assert name == name.lower()
        family = families[family_of(name, families)].config
        tokens = {"token_width": 32} if "cross" in str(family.presets[name].get("blocks")) else {}
        built = config_of_preset(name.upper(), families, **given, **tokens)
        assert all(getattr(built, key) == value for key, value in built.presets[name].items())


def test_other_fields_change_a_config_and_not_the_preset() -> None:
    wide = config_of_preset("dit-xs", DENOISERS, **LATENTS, width=384)
    assert wide == config_of_preset("dit-xs", DENOISERS, **LATENTS).replace(width=384)
    assert config_of_preset("dit-xs", DENOISERS, **LATENTS) != wide


def test_names_and_settings_are_known_without_torch() -> None:
    program = """if True:
        import sys, ldm.core.denoisers.settings, ldm.core.autoencoders.settings
        assert not {"torch", "numpy"} & set(sys.modules)"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
