"""What an engine's own parser says of a model's arguments, where an interpreter is asked."""

import os
import sys

from muxd.engines.engine_packages import EnginePackage

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
