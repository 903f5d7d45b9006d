"""Ollama's listings, in the shapes of its documentation."""

from dataclasses import dataclass

import pytest

from muxd import __version__
from muxd.proxy.requests import ollama


@dataclass(frozen=True)
class Entry:
    name: str
    served_names: tuple[str, ...]
    state: str

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.name, *self.served_names)))


ENTRIES = [
    Entry("qwen", ("Qwen/Qwen3-14B", "gpt-4o-mini"), "ready"),
    Entry("llama", ("llama",), "asleep"),
    Entry("busy", ("busy",), "draining"),
]


def test_every_name_is_a_tag():
    models = ollama.tags(ENTRIES)["models"]
    assert [model["name"] for model in models] == ["qwen", "Qwen/Qwen3-14B", "gpt-4o-mini", "llama", "busy"]
    assert set(models[0]) == {"name", "model", "modified_at", "size", "digest", "details"}
    assert models[1]["model"] == "Qwen/Qwen3-14B"


def test_models_that_are_awake_run():
    models = ollama.ps(ENTRIES)["models"]
    assert [model["name"] for model in models] == ["Qwen/Qwen3-14B", "busy"]
    assert set(models[0]) == {"name", "model", "size", "digest", "details", "expires_at", "size_vram"}


def test_digests_are_long_enough_for_ollamas_own_client():
    """It cuts twelve characters out of them, and dies where there are fewer."""
    assert all(len(model["digest"]) == 64 for model in ollama.tags(ENTRIES)["models"])


@pytest.mark.parametrize(("speaks_text", "capability"), [(True, "completion"), (False, "embedding")])
def test_a_model_is_shown_with_what_it_can_do(speaks_text, capability):
    shown = ollama.show("Qwen/Qwen3-14B", speaks_text=speaks_text)
    assert shown["capabilities"] == [capability]
    assert shown["details"]["family"] == "Qwen3-14B"
    assert shown["model_info"]["general.name"] == "Qwen/Qwen3-14B"


def test_the_version_is_muxds_own():
    assert ollama.version() == {"version": __version__}


@pytest.mark.parametrize(
    ("asked", "name"),
    [("qwen:latest", "qwen"), ("qwen", "qwen"), ("qwen:14b", "qwen:14b"), ("a:latest:latest", "a:latest")],
)
def test_the_tag_that_means_nothing_is_taken_off(asked, name):
    assert ollama.untagged(asked) == name
