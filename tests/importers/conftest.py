from pathlib import Path

import pytest

from .bash import Bash
from .imports import Imports


@pytest.fixture
def bash(tmp_path: Path) -> Bash:
    return Bash(tmp_path)


@pytest.fixture
def swap(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/bird")
    monkeypatch.setenv("BIRDS_KEY", "sk-of-the-birds")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.chdir(tmp_path)
    return Imports("llama-swap", tmp_path)
