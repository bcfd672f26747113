"""The names that settings take are those of the code, and one check says which go together."""

import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from ldm.core.diffusion import names, predictions, samplers, schedules
from ldm.core.pipeline.settings import Diffusion

ROOT = Path(__file__).resolve().parents[3]


def test_every_name_has_its_code() -> None:
    assert (*schedules.BETAS, names.STRAIGHT) == names.SCHEDULES
    assert get_args(names.SamplerName) == tuple(samplers.SAMPLERS) == tuple(samplers.DEFAULT_STEPS)


@pytest.mark.parametrize("prediction", names.PREDICTIONS)
def test_settings_and_code_allow_the_same_predictions(prediction: str) -> None:
    for kind, zero in product(names.SCHEDULES, (False, True)):
        values = {"schedule": kind, "zero_terminal_snr": zero, "prediction": prediction}
        try:
            predictions.check(prediction, schedules.schedule(kind, 1000, zero))
        except ValueError as error:
            with pytest.raises(ValidationError, match=str(error).split(":")[0]):
                Diffusion.model_validate(values)
        else:
            assert Diffusion.model_validate(values).prediction == prediction


def test_the_names_are_known_without_torch() -> None:
    program = "import sys, ldm.core.diffusion.names; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
