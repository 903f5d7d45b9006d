"""What muxd sees of the vLLM of an interpreter, and what it says of a model for that vLLM."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from muxd.config.engine_options import VLLMOptions
from muxd.config.model_schema import Memory, Model
from muxd.engines.engine_packages import Interpreter
from muxd.engines.vllm.installation import (
    FEATURES,
    KV_CACHE_BYTES,
    MIDDLEWARE,
    NO_ERROR_STACK,
    RELEASE_HOST_MEMORY,
    RELEASE_KV_CACHE,
    SHUTDOWN_TIMEOUT,
    broken_sleep,
    folder_of,
    lacking,
    odd_args,
    paths_read,
    share_in,
    unfit,
)
from muxd.engines.vllm.kind import VLLM_KIND

MODEL = Model("qwen", engine="vllm", model_path="/m", served_names=("qwen",), sleep_level=1)


@pytest.fixture
def environment(tmp_path):
    """`environment(*lacks)`: the python of a virtual environment whose vLLM has all features but these."""

    def environment(*lacks):
        package = tmp_path / "venv/lib/python3.11/site-packages/vllm"
        for name, (files, word) in FEATURES.items():
            file = package / files.replace("*", "openai")
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a") as text:
                text.write("" if name in lacks else f"{word}\n")
        python = tmp_path / "venv/bin/python"
        python.parent.mkdir()
        python.symlink_to("/bin/sh")
        return python

    return environment


@pytest.mark.parametrize("name", FEATURES)
def test_what_a_version_lacks_is_seen_in_its_files(environment, name):
    assert lacking(folder_of(str(environment(name)), {})) == {name}


def test_where_the_package_is_not_found_what_nothing_needs_is_not_counted_on(tmp_path):
    assert folder_of("no-such-python", {"PATH": str(tmp_path)}) is None
    assert lacking(None) == {RELEASE_HOST_MEMORY, NO_ERROR_STACK}


def test_an_interpreter_is_found_as_its_worker_will(environment):
    python = environment()
    assert folder_of("python", {"PATH": str(python.parent)}) == python.parents[1] / "lib/python3.11/site-packages/vllm"


def test_a_version_is_asked_about_the_flags_alone_with_which_it_would_be_launched(environment):
    python = environment(SHUTDOWN_TIMEOUT, NO_ERROR_STACK)
    model = replace(MODEL, engine_options=VLLMOptions(python=str(python)), args=("--seed", "1"))
    checks = VLLM_KIND.installation
    assert checks is not None
    flags = checks.flags(model)
    assert "--seed" in flags
    assert MIDDLEWARE in flags
    assert not {SHUTDOWN_TIMEOUT, NO_ERROR_STACK} & {*flags}


@pytest.mark.parametrize(
    ("version", "is_broken"),
    [
        *(("0.13.0", False), ("0.14.0", True), ("0.15.1", True), ("0.16.0rc1+cu129", True), ("0.17.0", False)),
        *(("0.32.0", False), ("1.14.0", False), ("of unknown version", False), ("0.140.0", False)),
    ],
)
def test_versions_whose_sleep_keeps_the_weights_are_known(version, is_broken):
    why = broken_sleep(version)
    assert bool(why) is is_broken
    assert not is_broken or (version in why and "sleep_level = 3" in why and "0.17" in why)


def told(python: Path, version: str = "0.32.0", **keys: Any) -> list[tuple[str, str]]:
    found = Interpreter(str(python), version, title="vLLM", folder=str(folder_of(str(python), {})))
    return [(key[0], why) for key, why in unfit(replace(MODEL, **keys), found)]


def test_a_broken_sleep_is_refused_at_every_level_that_may_come_to_it(environment):
    """A model of level 0 is put deeper where others need its room."""
    python = environment()
    for level in (0, 1, 2):
        assert [key for key, _ in told(python, "0.15.0", sleep_level=level)] == ["sleep_level"]
    assert told(python, "0.15.0", sleep_level=3) == []


def test_a_version_without_level_0_and_with_a_broken_sleep_is_told_to_sleep_at_level_3(environment):
    ((key, why),) = told(environment(RELEASE_KV_CACHE), "0.15.0", sleep_level=0)
    assert (key, why.partition("; ")[2]) == ("sleep_level", "install vLLM 0.31 or newer, or use sleep_level = 3")


def test_an_old_version_cannot_do_all(environment):
    python = environment(MIDDLEWARE, RELEASE_KV_CACHE, KV_CACHE_BYTES, SHUTDOWN_TIMEOUT)
    (key, why), (other, level), (third, size) = told(python, "0.9.0", sleep_level=0, memory=Memory(weights=1, kv=1))
    assert (key, other, third) == ("python", "sleep_level", "memory")
    assert "any user of this host could use its control routes" in why
    assert "has no level 0" in level
    assert KV_CACHE_BYTES in size
    assert [key for key, _ in told(python, "0.9.0", sleep_level=3)] == ["python"]


def test_what_nobody_sees_is_not_held_against_it():
    assert list(unfit(replace(MODEL, sleep_level=0), Interpreter("p", "0.32.0"))) == []


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("--mem-fraction-static", "0.8"), "--mem-fraction-static is SGLang's; vLLM calls it --gpu-memory-utilization"),
        (("--is-embedding",), "--is-embedding is SGLang's; vLLM calls it --runner pooling"),
    ],
)
def test_flags_that_are_likely_a_mistake_are_told(args, text):
    (fault,) = odd_args(args)
    assert text in fault.text


def test_a_share_is_a_share():
    assert share_in(("--gpu-memory-utilization", "0.5")) == 0.5
    assert share_in(("--gpu-memory-utilization", "0")) is share_in(()) is None
    assert list(odd_args(("--gpu-memory-utilization", "1.0", "--max-model-len", "5"))) == []


def test_absolute_paths_are_those_that_vllm_reads():
    args = ["--chat-template", "/t.jinja", "--lora-modules", "a=/l", "b=/m", "--download-dir", "/d", "--tokenizer=o/t"]
    assert list(paths_read(args)) == [
        ("--chat-template", "/t.jinja"),
        ("--lora-modules", "/l"),
        ("--lora-modules", "/m"),
    ]
