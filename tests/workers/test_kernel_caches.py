"""Where servers keep what they compile."""

import stat
from dataclasses import replace

import pytest

from muxd.config import Model, SGLangOptions
from muxd.engines.registry import kind_of
from muxd.workers.kernel_caches import LIBRARIES, with_kernel_caches
from tests.fakes import a_model
from tests.one_supervisor import one_supervisor

OWN = {"ENGINE_CACHE": "engine"}


def test_all_servers_keep_them_in_one_folder_that_only_muxds_user_reads(tmp_path):
    env = with_kernel_caches({"A": "1"}, tmp_path / "cache", OWN, {})
    root = tmp_path / "cache/kernels"
    assert env == {
        "A": "1",
        "TRITON_CACHE_DIR": f"{root}/triton",
        "TORCHINDUCTOR_CACHE_DIR": f"{root}/inductor",
        "FLASHINFER_WORKSPACE_BASE": f"{root}/flashinfer",
        "DG_JIT_CACHE_DIR": f"{root}/deep_gemm",
        "CUDA_CACHE_PATH": f"{root}/cuda",
        "TILELANG_CACHE_DIR": f"{root}/tilelang",
        "ENGINE_CACHE": f"{root}/engine",
    }
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    assert with_kernel_caches({"A": "1"}, tmp_path / "cache", OWN, {}) == env, "the next server finds them"


def test_what_the_user_says_goes_before(tmp_path):
    env = with_kernel_caches({"TRITON_CACHE_DIR": "/mine"}, tmp_path, OWN, {})
    assert env["TRITON_CACHE_DIR"] == "/mine"
    assert env["TORCHINDUCTOR_CACHE_DIR"] == f"{tmp_path}/kernels/inductor"


@pytest.mark.parametrize("said", [{"ENGINE_CACHE": "/mine"}, {"XDG_CACHE_HOME": "/mine"}])
def test_a_root_that_the_user_names_is_one_for_everything(tmp_path, said):
    assert with_kernel_caches({"A": "1", **said}, tmp_path, OWN, said) == {"A": "1", **said}


def test_without_a_folder_servers_keep_them_where_they_would_by_themselves(tmp_path, caplog):
    assert with_kernel_caches({"A": "1"}, None, OWN, {}) == {"A": "1"}
    (tmp_path / "file").touch()
    assert with_kernel_caches({"A": "1"}, tmp_path / "file/cache", OWN, {}) == {"A": "1"}
    assert "[muxd] cache_dir" in caplog.text


@pytest.mark.parametrize("engine", ["sglang", "vllm"])
def test_the_engines_name_their_own_folders(engine):
    own = kind_of(Model("a", engine=engine)).caches
    assert own
    assert LIBRARIES.keys().isdisjoint(own)


async def test_a_server_is_started_with_them_and_one_that_pretends_is_not(autojump_clock, tmp_path, monkeypatch):
    for name in (*LIBRARIES, "SGLANG_CACHE_DIR", "SGLANG_DG_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    real = replace(a_model("b", env={"CUDA_CACHE_PATH": "/mine"}), engine="sglang", engine_options=SGLangOptions("/py"))
    async with one_supervisor(tmp_path, a_model("a"), real) as muxd:
        for name in "ab":
            await muxd.serves(name)
        a, b = (child.spec.env for child in muxd.host.children.all)
    root = f"{tmp_path}/cache/kernels"
    assert LIBRARIES.keys().isdisjoint(a)
    assert (b["SGLANG_CACHE_DIR"], b["TORCHINDUCTOR_CACHE_DIR"]) == (f"{root}/sglang", f"{root}/inductor")
    assert b["CUDA_CACHE_PATH"] == "/mine"
