"""The named sizes of networks, which are known without torch."""

import subprocess
import sys
from pathlib import Path

import pytest

from ldm.core.autoencoders import registry as autoencoders
from ldm.core.denoisers import registry as denoisers
from ldm.core.settings import presets

ROOT = Path(__file__).resolve().parents[3]


def test_names_are_lower_case_as_any_other_is_read_so() -> None:
    for names in (presets.AUTOENCODERS, presets.DENOISERS):
        assert all(name == name.lower() for name in names)
    assert denoisers.preset("DIT-XL/2") == denoisers.preset("dit-xl/2")
    assert autoencoders.preset("VQVAE-F8") == autoencoders.preset("vqvae-f8")


@pytest.mark.parametrize("name", presets.AUTOENCODERS)
def test_a_named_autoencoder_has_the_settings_of_its_name(name: str) -> None:
    built = autoencoders.preset(name)
    assert {key: getattr(built, key) for key in presets.AUTOENCODERS[name]} == presets.AUTOENCODERS[name]


def test_a_preset_that_is_changed_leaves_the_table_as_it_was() -> None:
    denoisers.preset("dit-xs")["width"] = 1
    assert denoisers.preset("dit-xs")["width"] == presets.DENOISERS["dit-xs"]["width"] != 1


def test_the_names_are_known_without_torch() -> None:
    program = "import sys, ldm.core.settings.presets; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
