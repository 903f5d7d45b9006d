"""What status says of the whole of muxd, from a configuration alone."""

from dataclasses import replace
from math import inf
from pathlib import Path

import pytest

from muxd.config import Config, Daemon, Proxy
from muxd.config.readers import Address
from muxd.config.schema import Key
from muxd.status import door_status

CONFIG = Config(Daemon(Path("/s"), Path("/d"), Path("/l")))


def a_key(name: str, expires: float = inf, revoked: bool = False) -> Key:
    return Key(name, "ab" * 32, expires=expires, revoked=revoked)


@pytest.mark.parametrize(
    ("host", "keys", "door"),
    [
        ("127.0.0.1", (), ("host", 0, 0)),
        ("localhost", (), ("host", 0, 0)),
        ("::1", (), ("host", 0, 0)),
        ("0.0.0.0", (), ("everybody", 0, 0)),
        ("gpu1.example.org", (), ("everybody", 0, 0)),
        ("127.0.0.1", (a_key("a"), a_key("b", 11.0)), ("key_holders", 2, 0)),
        ("0.0.0.0", (a_key("a"), a_key("b", 10.0), a_key("c", revoked=True)), ("key_holders", 1, 2)),
        ("0.0.0.0", (a_key("c", revoked=True),), ("key_holders", 0, 1)),
    ],
)
def test_the_door_says_who_may_ask(host, keys, door):
    config = replace(CONFIG, proxy=Proxy(Address(host, 30100)), keys=keys)
    assert tuple(door_status(config, 10.0).values()) == door
