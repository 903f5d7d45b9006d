"""A real vLLM model that makes vectors, which its flags do not say: its routes do."""

from pathlib import Path

from tests.end_to_end.muxd import Muxd

from .vllm_cpu import CPU_ARGS, CPU_ENV

CONFIG = """\
[models.vectors]
engine = "vllm"
python = "{home}/venv/bin/python"
model_path = "{home}/models/tiny-a"
args = {args}
env = {env}
sleep_level = 2
"""

DEADLINE = 240.0


def vector(muxd: Muxd) -> list[float]:
    answer = muxd.post("/v1/embeddings", {"model": "vectors", "input": "hello"})
    assert answer.status_code == 200, answer.text
    found: list[float] = answer.json()["data"][0]["embedding"]
    return found


def test_a_model_that_was_seen_to_make_vectors_refuses_chats_asleep_and_answers_the_same_after_a_wake(
    vllm_home: Path, tmp_path: Path
):
    env = "{ " + ", ".join(f'{key} = "{value}"' for key, value in CPU_ENV.items()) + " }"
    text = CONFIG.format(home=vllm_home, args=[*CPU_ARGS, "--convert", "embed"], env=env)
    with Muxd(tmp_path, text, deadline=DEADLINE) as muxd:
        first = vector(muxd)
        assert muxd.status("vectors")["is_generation"] is False
        muxd.muxctl("sleep", "vectors")
        chat = {"model": "vectors", "messages": [{"role": "user", "content": "hello"}]}
        answer = muxd.post("/v1/chat/completions", chat)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "not_a_text_model")
        assert muxd.state("vectors") == "asleep"
        assert vector(muxd) == first
