"""What the promises are tried with: commands in processes of their own, and all that they say."""

import json
import socket
import time

from tests.support.launcher import Launcher

PIPE = 1 << 16  # bytes that a pipe holds


def test_a_command_that_says_more_than_a_pipe_holds_ends_and_is_heard(ldm: Launcher) -> None:
    ended = ldm.start("config", "schema").wait(60)
    assert ended.code == 0 and len(ended.out) > PIPE
    assert json.loads(ended.out)["title"] == "ldm recipe"


def test_a_launcher_closes_at_once_though_a_command_was_waited_for() -> None:
    """As after a Ctrl-C, which must not cost the table of what was tried until then."""
    launcher = Launcher(preload=False)
    command = launcher.start(function=f"{__name__}:sleep")
    order = {"wait": command.pid, "patience": 3600.0}
    socket.send_fds(launcher._socket, [json.dumps(order).encode()], [])
    time.sleep(0.2)
    began = time.monotonic()
    launcher.close()
    assert time.monotonic() - began < 10


def sleep(arguments: list[str]) -> int:
    """A command that takes an hour."""
    time.sleep(3600)
    return 0
