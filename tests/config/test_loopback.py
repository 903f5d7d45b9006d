"""Addresses that the proxy listens at; which of them are loopback is told by tests/config/test_key_tables.py."""

from itertools import combinations_with_replacement

import pytest

from muxd.config.loopback import collide
from muxd.ports import CannotListen, listen_at

HOSTS = ["127.0.0.1", "127.0.0.2", "0.0.0.0", "localhost", "::1", "::", "::ffff:127.0.0.1"]


@pytest.mark.parametrize(("one", "other"), [*combinations_with_replacement(HOSTS, 2)])
def test_two_addresses_collide_where_nobody_can_listen_at_both(one, other):
    def at_both() -> bool:
        with listen_at(one, 0) as listener:
            try:
                with listen_at(other, listener.getsockname()[1]):
                    return True
            except CannotListen:
                return False

    told = collide(one, other)
    both = any(at_both() for _ in range(2 if told else 5))  # another process may have a port at the other address
    assert (told, collide(other, one)) == (not both, not both)


def test_a_name_is_known_to_be_itself_alone():
    assert collide("GPU1", "gpu1")
    assert not collide("gpu1", "gpu2")
    assert not collide("gpu1", "127.0.0.1")
    assert collide("0.0.0.0", "gpu1")
    assert collide("::", "gpu1")
