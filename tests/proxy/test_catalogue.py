"""What a model is called, what else its name may say, and when muxd is asked how its models are."""

from pathlib import Path

import pytest
import trio
import trio.testing

from muxd.client import ControlClient
from muxd.config.model_capabilities import ModelCapabilities
from muxd.config.model_schema import Model
from muxd.config.schema import Config, Daemon
from muxd.proxy.catalogue import Catalogue, CatalogueEntry

from .fake_muxd import FakeMuxd

ENTRY = CatalogueEntry(Model("e", served_names=("org/e", "org/e:14b")), ModelCapabilities(), "ready")


@pytest.mark.parametrize(
    ("asked", "adapter"),
    [("e", ""), ("org/e", ""), ("org/e:14b", ""), ("e:ad1", "ad1"), ("org/e:ad1", "ad1"), ("org/e:14b:ad1", "ad1")],
)
def test_what_follows_one_of_its_names_is_an_adapter(asked, adapter):
    assert ENTRY.adapter(asked) == adapter


async def test_amid_a_switch_states_are_told_by_events_and_muxd_is_asked_at_its_end(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    muxd, daemon = FakeMuxd(tmp_path / "muxd.sock"), Daemon(tmp_path / "muxd.sock", tmp_path, tmp_path)
    muxd.models = [{"name": "beta", "state": "unloaded"}]
    catalogue = Catalogue(ControlClient([muxd.path]), Config(daemon=daemon), lambda _: None)
    async with muxd.running(), trio.open_nursery() as nursery:
        nursery.start_soon(catalogue.run)
        await catalogue.tried.wait()
        await trio.sleep(1)
        (entry,) = catalogue.entries()
        muxd.models[0]["url"] = "http://127.0.0.1:9"
        muxd.calls.clear()
        for state in ("starting", "ready"):
            muxd.set_state("beta", state)
            await trio.sleep(0.01)
            assert entry.state == state
        assert entry.url == "http://127.0.0.1:9"
        assert muxd.calls == ["GET /v1/status"]
        await trio.sleep(1)
        muxd.set_state("beta", "draining")
        await trio.sleep(0.01)
        assert (entry.state, entry.url) == ("draining", None)
        assert muxd.calls == ["GET /v1/status"]
        await trio.sleep(1)
        assert muxd.calls == 2 * ["GET /v1/status"]  # of what else has changed
        nursery.cancel_scope.cancel()
