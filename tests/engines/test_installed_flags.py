"""Flags that a reload gives to models are shown to the engines that are installed: those that are new alone."""

from dataclasses import replace

import pytest

from muxd.config import Model
from muxd.config.engine_options import SGLangOptions
from muxd.config.half_options import HalfOptions
from muxd.engines.installed_flags import changed_models, faults_of_a_reload
from tests.interpreters import make_interpreter


def faults(wanted, running):
    found = faults_of_a_reload(changed_models(wanted, running), {"PATH": "/usr/bin:/bin"})
    return [(".".join(key), fault) for key, fault in found]


def sglang(name, python, **keys):
    return Model(name, model_path="o/m", served_names=(name,), engine_options=SGLangOptions(python=str(python)), **keys)


def test_one_interpreter_is_asked_once_for_all_models_that_are_new_or_have_other_flags(tmp_path):
    python = make_interpreter(tmp_path / "python", rejected={"b": "unrecognized arguments: --no-flag", "c": "why not"})
    stays = sglang("a", python, args=("--stays",))
    wanted = [stays, sglang("b", python, args=("--no-flag",)), sglang("c", python, args=("--x",))]
    (b, of_b), (c, of_c) = faults(wanted, [stays, sglang("b", python)])
    assert (b, c) == ("models.b.args", "models.c.args")
    assert of_b == (f"the SGLang of {python} does not take args: it knows no --no-flag; remove it", True)
    assert of_c == (f"the SGLang of {python} does not take args: why not", True)
    assert (tmp_path / "python.asked").read_text() == "asked\n" * 2, "for what it has, and for the flags"


def test_only_models_that_are_new_or_changed_are_looked_at(tmp_path):
    a, b, c = (sglang(name, "python") for name in "abc")
    other = replace(b, args=("--x",))
    assert changed_models([a, other, c], [a, b]) == [(other, b), (c, None)]


@pytest.mark.parametrize("is_refused", [True, False])
def test_another_engines_flag_is_refused_where_the_engine_refuses_it(tmp_path, is_refused):
    rejected = {"a": "unrecognized arguments: --max-model-len 5"} if is_refused else {}
    python = make_interpreter(tmp_path / "python", rejected=rejected)
    ((key, fault),) = faults([sglang("a", python, args=("--max-model-len", "5"))], [])
    assert key == "models.a.args"
    assert fault.text.startswith("--max-model-len is not SGLang's; ")
    assert fault.is_refused is is_refused


def test_flags_of_a_half_are_named_by_their_own_key(tmp_path):
    python = make_interpreter(tmp_path / "python", rejected={"a/decode": "why not"})
    running = sglang("a", python, prefill=HalfOptions(), decode=HalfOptions())
    wanted = replace(running, decode=HalfOptions(args=("--x",)))
    assert [key for key, _ in faults([wanted], [running])] == ["models.a.decode.args"]


def test_another_interpreter_is_asked_for_the_same_flags_and_one_without_the_engine_is_refused(tmp_path):
    python, other = make_interpreter(tmp_path / "python"), make_interpreter(tmp_path / "other", script="exit 0")
    running = sglang("a", python, args=("--x",))
    ((key, fault),) = faults([sglang("a", other, args=("--x",))], [running])
    assert key == "models.a.python"
    assert fault.text.startswith(f"{other}: no SGLang is installed in it; name the python of an environment that has")
    assert fault.is_refused


def test_what_cannot_be_compared_is_said_and_refuses_nothing(tmp_path):
    python = make_interpreter(tmp_path / "python", script="exit 7")
    ((_, fault),) = faults([sglang("a", python, args=("--x",))], [])
    assert "it ended with status 7: args were not compared with its flags" in fault.text
    assert not fault.is_refused
