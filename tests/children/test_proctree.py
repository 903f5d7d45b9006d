"""Which processes are taken for a child's, and which are not."""

# ruff: noqa: ASYNC221  (a short command)

import os
import subprocess
import sys

from msgspec.structs import replace

from muxd.children.proctree import ProcessFingerprint, find
from muxd.shim.processes import look_up
from tests.childworld import TOKEN, eventually


async def test_a_session_whose_leader_is_gone_is_trusted_only_by_who_saw_it(world):
    """Its number may have been used again since; a muxd that lost its shim this moment knows that it was not."""
    subprocess.run(["setsid", "sh", "-c", f"{world.sleep} &"], check=True)
    [process] = await world.asleep(1)
    await eventually(lambda: look_up(process.session) is None)
    marks = ProcessFingerprint(token=TOKEN, leader=(process.session, 1))
    assert find(marks) == []
    assert [found.pid for found in find(replace(marks, just_now=True))] == [process.pid]


def test_muxd_itself_is_spared_even_if_it_bears_the_token():
    script = f"from muxd.children.proctree import ProcessFingerprint, find; print(find(ProcessFingerprint('{TOKEN}')))"
    run = subprocess.run([sys.executable, "-c", script], env=os.environ | {"MUXD_TOKEN": TOKEN}, stdout=subprocess.PIPE)
    assert run.stdout == b"[]\n"
