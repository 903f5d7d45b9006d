"""A real configuration in a folder, with muxd down or played."""

import os
import tomllib

import pytest

from muxd.config import load_config
from muxd.http.request import Request
from muxd.proxy.auth.api_keys import Keyring

MAIN = """\
[proxy]
listen = "127.0.0.1:0"
[models.qwen]
engine = "simulator"
served_names = ["Qwen/Qwen3-14B"]
[models.llama]
engine = "simulator"
"""
HASH = "ab" * 32
RELOADED = {"applied": True, "files": ["F"], "plan": [], "settings": ["keys"], "unchanged": ["qwen"]}


@pytest.fixture
def config(elsewhere):
    """Where muxctl finds it: in the working directory."""
    path = elsewhere / "work/muxd.toml"
    path.write_text(MAIN)
    return path


@pytest.fixture
def file(config):
    return config.parent / "muxd.d/keys.toml"


@pytest.fixture
def written(file):
    return lambda: tomllib.loads(file.read_text())["keys"]


@pytest.fixture
def running(muxd, config):
    """A muxd that runs with it, and takes whatever is reloaded."""
    muxd.scripts["GET /v1/status"] = lambda talk: talk.json({"config": str(config)})
    muxd.scripts["POST /v1/reload"] = lambda talk: talk.json(RELOADED)
    return muxd


def authenticate(config, secret):
    """Who the proxy takes the secret's holder for."""
    ring = Keyring(load_config(config, dict(os.environ)).keys)
    return ring.authenticate(
        Request("POST", b"/", [(b"authorization", b"Bearer " + secret.encode())], b"", "1.1", True)
    )
