"""What the promises are tried with: commands in processes of their own, and all that they say."""

import json

from launcher import Launcher

PIPE = 1 << 16  # bytes that a pipe holds


def test_a_command_that_says_more_than_a_pipe_holds_ends_and_is_heard(ldm: Launcher) -> None:
    ended = ldm.start("config", "schema").wait(60)
    assert ended.code == 0 and len(ended.out) > PIPE
    assert json.loads(ended.out)["title"] == "ldm recipe"
