"""A GPU that is lost under its models, on a pretend host: whoever has another one is served as before."""

import pytest

from muxd.core.ledger import GpuId

from .fakes import FakeGpus, GpuMemory, a_model
from .one_supervisor import one_supervisor


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> set[GpuId]:
    """The GPUs that no reading has any more."""
    gone: set[GpuId] = set()
    now = FakeGpus.now

    def without(self: FakeGpus) -> dict[GpuId, GpuMemory]:
        return {gpu: memory for gpu, memory in now(self).items() if gpu not in gone}

    monkeypatch.setattr(FakeGpus, "now", without)
    return gone


async def test_a_gpu_that_vanishes_from_nvml_harms_no_model_of_another_and_is_taken_back(
    autojump_clock, tmp_path, lost
):
    models = (a_model("a", gpus=("0",)), a_model("b", gpus=("0",)), a_model("c", gpus=("1",)))
    async with one_supervisor(tmp_path, *models) as muxd:
        for name in "acb":
            await muxd.serves(name)
        lost.add("1")
        for name in "abab":
            assert await muxd.serves(name)
        assert [gpu["index"] for gpu in muxd.service.status()["gpus"]] == [0]
        assert await muxd.serves("c"), "it answers: nobody ends it for what NVML does not see"
        lost.clear()
        assert (await muxd.switch("c"))["type"] == "ready"
        assert await muxd.serves("a")
        assert [gpu["index"] for gpu in muxd.service.status()["gpus"]] == [0, 1]


async def test_what_sleeps_on_a_gpu_that_vanished_is_not_believed_to_have_left_it_until_it_is_seen_again(
    autojump_clock, tmp_path, lost
):
    async with one_supervisor(tmp_path, a_model("a"), a_model("b")) as muxd:
        await muxd.serves("a")
        lost.add("0")
        refused = await muxd.wants("b").told("failed")
        assert refused.error.code == "worker_stuck"
        assert "as it cannot be read, of its memory did not come back" in refused.error.message
        lost.clear()
        await muxd.until("a", "unloaded", "backoff")
        assert await muxd.serves("b")
