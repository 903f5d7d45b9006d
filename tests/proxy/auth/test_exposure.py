"""A socket that was passed to the proxy: whether anybody may use the models through it."""

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from muxd.config.schema import Config, Daemon, Key, Proxy
from muxd.errors import ConfigError
from muxd.proxy.auth.exposure import loopback_only, metrics_said_at_start, said_at_start, would_open

CONFIG = Config(Daemon(Path("/s"), Path("/d"), Path("/l")))
OPEN = replace(CONFIG, proxy=Proxy(allow_anonymous=True))
KEYED = replace(CONFIG, keys=(Key("a", "ab" * 32, revoked=True),))
EVERYWHERE = [("0.0.0.0", 80), ("192.168.0.7", 80), ("::", 80, 0, 0), ("fe80::1%eth0", 80, 0, 2)]
HERE = [("127.0.0.1", 80), ("127.1.2.3", 80), ("::1", 80, 0, 0), "/run/muxd/http", b"\0muxd", ""]


@pytest.mark.parametrize("name", HERE)
def test_what_only_this_machine_reaches_needs_no_key(name):
    loopback_only(CONFIG, name)
    assert said_at_start(OPEN, name) is None


@pytest.mark.parametrize("name", EVERYWHERE)
def test_what_others_reach_needs_a_key_or_a_word(name):
    loopback_only(KEYED, name)
    loopback_only(OPEN, name)
    with pytest.raises(ConfigError, match="lets other machines in, and there is no API key: make one with"):
        loopback_only(CONFIG, name)
    assert said_at_start(KEYED, name) is None


def test_the_advice_names_the_socket_and_both_ways_out():
    with pytest.raises(ConfigError) as caught:
        loopback_only(CONFIG, ("::", 30100, 0, 0))
    assert caught.value.problems == [
        "the proxy was passed a socket at [::]:30100, which lets other machines in, and there is no API key: "
        "make one with `muxctl keys add NAME`, or write allow_anonymous = true under [proxy] "
        "if anybody may use the models"
    ]


def test_an_open_door_is_said_at_the_start():
    assert said_at_start(OPEN, ("0.0.0.0", 30100)) == (
        "0.0.0.0:30100 asks nobody for an API key (allow_anonymous): whoever reaches it may use the models"
    )


def test_a_configuration_opens_what_others_reach_without_a_key_and_without_a_word():
    assert would_open(CONFIG, ("0.0.0.0", 80))
    assert not would_open(CONFIG, ("127.0.0.1", 80))
    assert not would_open(KEYED, ("0.0.0.0", 80))
    assert not would_open(OPEN, ("0.0.0.0", 80))


@pytest.mark.parametrize("config", [OPEN, KEYED])
def test_metrics_that_others_reach_are_said_at_the_start_with_keys_and_without(config):
    def said(*where):
        return metrics_said_at_start(replace(config, proxy=replace(config.proxy, metrics_listen=where)))

    assert said("0.0.0.0", 30101) == (
        "0.0.0.0:30101 (metrics_listen) tells whoever reaches it the models' names and how they are used"
    )
    assert said("::", 30101).startswith("[::]:30101 ")
    assert said("127.0.0.1", 30101) is None
    assert metrics_said_at_start(config) is None


def test_a_real_sockets_name_is_understood():
    with socket.create_server(("0.0.0.0", 0)) as listener, pytest.raises(ConfigError):
        loopback_only(CONFIG, listener.getsockname())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        loopback_only(CONFIG, listener.getsockname())
