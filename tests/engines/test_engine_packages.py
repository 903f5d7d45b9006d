"""What an engine's own parser says of a model's arguments, where an interpreter is asked."""

import os
import subprocess
import sys
from pathlib import Path

from muxd.engines.engine_packages import EnginePackage
from tests.end_to_end.muxd import eventually

#: A parser that takes one word without a flag, as vLLM's does: it would be served in place of the model.
PARSER = EnginePackage(
    "engine", "Engine", imports="", add="parser.add_argument('tag', nargs='?'); parser.add_argument('--dtype')"
)


def test_a_word_that_belongs_to_no_flag_is_refused_though_the_parser_takes_it():
    asked = {"stray": ["--dtype", "auto", "stray"], "good": ["--dtype", "auto"], "both": ["x", "--dtypo", "half"]}
    rejected = PARSER.rejected_args(sys.executable, os.environ, asked)
    assert {name: [fault.text for fault in faults] for name, faults in rejected.items()} == {
        "stray": ["stray belongs to no flag; remove it, or write its flag first"],
        "both": ["it knows no --dtypo; did you mean --dtype?"],
    }


def test_an_interpreter_that_is_asked_ends_with_who_asked(tmp_path):
    pid = tmp_path / "pid"
    imports = f"import os, time; open({str(pid)!r} + '.new', 'w').write(str(os.getpid())); "
    imports += f"os.rename({str(pid)!r} + '.new', {str(pid)!r}); time.sleep(600)"
    code = f"""
import os, sys
from muxd.engines.engine_packages import EnginePackage
EnginePackage("engine", "Engine", imports={imports!r}).rejected_args(sys.executable, os.environ, {{"a": ["--x"]}})
"""
    with subprocess.Popen([sys.executable, "-c", code]) as asking:
        eventually(pid.exists, "its parser is asked")
        asking.kill()
    eventually(lambda: not Path(f"/proc/{pid.read_text()}").exists(), "the interpreter has ended")
