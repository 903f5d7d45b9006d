"""What is seen of a launch script's server, on a pretend host: on which GPUs it is, and what that changes."""

from muxd.config import Model
from muxd.config.command_lines import Command
from muxd.config.model_schema import DeclaredServer, Script

from .fakes import NO_PID, Behaviour, a_model
from .one_supervisor import one_supervisor


def a_script(gpu: str, *, said: str) -> Model:
    """A model whose launch script is said to use one GPU."""
    declared = DeclaredServer(names=("org/a",), names_by="table", gpus=(said,), every=("0", "1"))
    return Model(
        "a",
        engine="simulator",
        served_names=("org/a",),
        gpus=(said,),
        script=Script(argv=("bash", "a.sh"), digest="d", said=declared),
    )


def serves(behaviour: Behaviour, gpu: str) -> None:
    words = ["python3", "-m", "muxd.simulator", "--model-path", "/models/a", "--port", "47000"]
    environ = {"CUDA_VISIBLE_DEVICES": gpu, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    behaviour.listens_at, behaviour.info = 47_000, {"model_path": "/models/a"}
    behaviour.processes = [Command(NO_PID + 1, 1, words, environ, True)]


async def test_a_server_on_other_gpus_than_it_was_granted_is_started_again_on_those(autojump_clock, tmp_path, caplog):
    async with one_supervisor(tmp_path, a_script("1", said="0"), a_model("b")) as muxd:
        await muxd.switch("b")
        serves(muxd.host.servers["a"], "1")
        assert await muxd.serves("a")
        assert muxd.status("a")["gpus"] == [1]
        told = "its server uses GPU 1, and its table says 0"
        assert (muxd.status("a")["reason"], f"a: {told}" in caplog.text) == (told, True)
        assert len([child for child in muxd.host.children.all if child.name == "a"]) == 2


async def test_what_is_learnt_of_a_server_where_it_belongs_takes_no_restart(autojump_clock, tmp_path):
    async with one_supervisor(tmp_path, a_script("0", said="0"), a_model("b")) as muxd:
        serves(muxd.host.servers["a"], "0")
        assert await muxd.serves("a")
        assert len(muxd.host.children.all) == 1
        assert muxd.supervisor.reloader.config.models[0].script.is_seen
