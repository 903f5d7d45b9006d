from dataclasses import replace
from math import inf

import pytest
import tomli_w

from muxd.config import Model, Proxy, load_config, load_proxy_config
from muxd.config.declarations import keys_of
from muxd.config.proxy_settings import settings_for_proxy, write_for_proxy
from muxd.config.schema import Key
from muxd.errors import ConfigError

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


def told_of(table):
    return {name for name, key in keys_of(table).items() if key.told}


def test_each_key_that_the_proxy_is_to_be_told_comes_back_from_it_as_it_was(told, tmp_path):
    """Take each key as the reference shows it, which is its default or an example."""
    shown = {table: {name: keys_of(table)[name].shown for name in told_of(table)} for table in (Proxy, Model, Key)}
    text = {"proxy": shown[Proxy], "models": {"qwen": shown[Model] | {"engine": "simulator"}}, "keys": [shown[Key]]}
    (tmp_path / "muxd.toml").write_text(tomli_w.dumps(text))
    whole = load_config(tmp_path / "muxd.toml", {"HOME": "/home"})
    written, read = settings_for_proxy(whole), told(whole)
    pairs = [(written["proxy"], whole.proxy, read.proxy), (written["keys"][0], whole.keys[0], read.keys[0])]
    pairs += [
        (written["muxd"], whole.daemon, read.daemon),
        (written["models"]["qwen"], whole.models[0], read.models[0]),
    ]
    for settings, before, after in pairs:
        assert settings.keys() == told_of(before)
        assert all(getattr(before, key) == getattr(after, key) for key in settings)


def test_what_a_models_server_can_do_is_told_in_the_file_too(config, told):
    shown = told(config).capabilities.of("a")
    assert shown.engine == "simulator"
    assert shown.answers is not None
    assert "/v1/completions" in shown.answers.routes["text"]


def test_a_users_own_file_tells_nothing_of_the_kind(tmp_path):
    (tmp_path / "muxd.toml").write_text("[capabilities]\n" + TEXT)
    with pytest.raises(ConfigError, match="capabilities"):
        load_config(tmp_path / "muxd.toml", {"HOME": "/home"})
