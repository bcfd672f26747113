"""Processes that wait for the others of their run, which may never come."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.several import environment, ranked

WAITS = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
from ldm.core.distributed.processes import process_group
from ldm.core.system.signals import stopping_at_once
print("ready", flush=True)
with stopping_at_once(), process_group(torch.device("cpu")):
    pass
"""


@pytest.mark.promise("R6")
def test_a_process_that_waits_for_the_first_one_ends_at_a_signal() -> None:
    arguments = [sys.executable, "-c", WAITS, str(Path(__file__).parents[3])]
    surroundings = {**os.environ, **ranked(environment(2), 1)}
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=surroundings) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            time.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == -signal.SIGTERM
        finally:
            process.kill()
