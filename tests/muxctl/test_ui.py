"""`muxctl ui`: the link, and how it is reached."""

from socket import gethostname

import pytest


@pytest.fixture
def link(muxd):
    """Has muxd give the link with this address."""

    def run(address):
        url = f"http://{address}/ui/api/enter?token=t"
        muxd.scripts["POST /v1/ui/link"] = lambda talk: talk.json({"url": url})
        return url

    return run


@pytest.mark.parametrize(
    ("address", "place"),
    [("127.0.0.1:30102", "30102:127.0.0.1:30102"), ("[::1]:30103", "30103:[::1]:30103")],
)
def test_who_came_by_ssh_is_told_how_a_console_on_loopback_is_reached(link, muxctl, monkeypatch, address, place):
    monkeypatch.setenv("SSH_CONNECTION", "10.0.0.7 50000 10.0.0.8 22")
    said = f"on your own machine, before you open it: ssh -L {place} {gethostname()}\n"
    url = link(address)
    assert muxctl("ui") == (0, f"{url}\n", said)


def test_who_did_not_or_need_not_is_told_the_link_alone(link, muxctl, monkeypatch):
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    url = link("127.0.0.1:30102")
    assert muxctl("ui") == (0, f"{url}\n", "")
    monkeypatch.setenv("SSH_CONNECTION", "10.0.0.7 50000 10.0.0.8 22")
    url = link("gpu1.example:30102")
    assert muxctl("ui") == (0, f"{url}\n", "")
