from dataclasses import replace
from math import inf

import pytest

from muxd.config import load_config, load_proxy_config
from muxd.config.proxy_settings import write_for_proxy

TEXT = """\
[muxd]
socket = "/s"
log_format = "json"
[proxy]
listen = "[::1]:1234"
max_body = "1MiB"
upstream_timeout = "2min"
hosts = ["gpu1", "*.lan", "fd00::1"]
allow_origins = ["http://localhost:3000"]
[models.a]
engine = "simulator"
served_names = ["x", "y"]
switch_timeout = "inf"
env = { HF_TOKEN = "secret" }
"""


@pytest.fixture
def config(tmp_path):
    file = tmp_path / "muxd.toml"
    file.write_text(TEXT)
    return load_config(file, {"HOME": "/home"})


@pytest.fixture
def told(tmp_path):
    def told(config):
        write_for_proxy(config, tmp_path / "proxy.toml")
        return load_proxy_config(tmp_path / "proxy.toml", {})

    return told


def test_the_proxy_is_told_what_muxd_runs_with(config, told):
    proxys = told(config)
    assert (proxys.daemon, proxys.proxy) == (config.daemon, config.proxy)
    (model,) = proxys.models
    assert (model.name, model.served_names, model.switch_timeout) == ("a", ("x", "y"), inf)


def test_it_is_told_no_secrets_and_nobody_else_may_read_it(config, told, tmp_path):
    told(config)
    assert "secret" not in (tmp_path / "proxy.toml").read_text()
    assert (tmp_path / "proxy.toml").stat().st_mode & 0o777 == 0o600


def test_a_level_of_the_command_line_is_the_proxys_too(config, told):
    assert told(config.with_log_level("debug")).daemon == replace(config.daemon, log_level="debug")
    assert told(config.with_log_level(None)).daemon == config.daemon
