"""What muxd has in its environment and a worker must not get: the secrets of clients' API keys."""

from pathlib import Path

import pytest

from tests.ports import free_port

from .conftest import two_models
from .muxd import Muxd
from .scripts import Scripts
from .test_reload import add, reload
from .test_scripts import SHAPES, write

ALICE = '[[keys]]\nname = "alice"\nsecret_env = "ALICES_KEY"\n'
BOB = '[[keys]]\nname = "bob"\nsecret_env = "BOBS_KEY"\n'


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of muxd."""
    for name, value in {"ALICES_KEY": "alices-secret", "BOBS_KEY": "bobs-secret", "HF_TOKEN": "hf-secret"}.items():
        monkeypatch.setenv(name, value)


def seen_by(muxd: Muxd, model: str) -> set[str]:
    """Which of these any process of its worker has in its environment."""
    pids = [muxd.status(model)["pid"], *muxd.worker(model).values()]
    entries = b"\0".join(Path(f"/proc/{pid}/environ").read_bytes() for pid in pids)
    return {value for value in ("alices-secret", "bobs-secret", "hf-secret") if value.encode() in entries}


def test_a_worker_sees_what_muxd_does_but_for_api_keys_old_and_new(start):
    muxd = start(two_models(levels=(3, 3)) + ALICE)
    assert muxd.switch("alpha")["type"] == "ready"
    assert seen_by(muxd, "alpha") == {"bobs-secret", "hf-secret"}, "nothing says yet that one of these is a key"
    add(muxd, BOB)
    assert reload(muxd)[0] == 200
    assert muxd.switch("beta")["type"] == "ready"
    assert seen_by(muxd, "beta") == {"hf-secret"}
    muxd.config.write_text(muxd.config.read_text().replace(ALICE, ""))
    assert reload(muxd)[0] == 200
    assert muxd.switch("alpha")["type"] == "ready"
    assert seen_by(muxd, "alpha") == {"hf-secret"}, "that it opens no door here does not make it a worker's"


@pytest.mark.thorough
def test_a_launch_script_does_not_see_them_either(tmp_path):
    script = write(tmp_path, "alpha", SHAPES["no exec"], free_port())
    with Scripts(tmp_path, script, models=ALICE + BOB) as muxd:
        muxd.until_state("alpha", "ready")
        assert seen_by(muxd, "alpha") == {"hf-secret"}
