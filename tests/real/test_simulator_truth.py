"""The simulator answers as SGLang does: the same requests to both, and the shapes of the answers compared.

A shape is every key with the kind of its value, and the value itself where it is a word of the
protocol.  Texts, numbers and how a stream is cut into events are the model's and the machine's.
"""

import json
import os
import signal
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from muxd.simulator.process_tree import SCHEDULER, comm
from tests.ports import free_port
from tests.simulator.harness import Simulator

from .sglang_cpu import CPU_ARGS, CPU_ENV, eventually, kill_server, process_of

#: Calls of tools need a grammar; this parser's demands are plain JSON, which even a random model fulfils,
#: where the grammar does not let it write blanks for ever.
TOOLS = (
    *("--grammar-backend", "xgrammar"),
    *("--tool-call-parser", "pythonic"),
    "--constrained-json-disable-any-whitespace",
)

pytestmark = pytest.mark.long

NO_RESPONSES = "this SGLang has no /v1/responses: openai_harmony is not installed beside it"
NAME = "tests/tiny-a"
MESSAGES = [{"role": "user", "content": "hello"}]
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Rome", "Oslo"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}
FORCED = {"type": "function", "function": {"name": "get_weather"}}
CLAUDE_TOOL = {"name": "get_weather", "input_schema": SCHEMA}
STREAM = {"stream": True, "stream_options": {"include_usage": True}}
SAMPLING = {"max_new_tokens": 6, "temperature": 0}
LOGPROBS = {
    "sampling_params": {**SAMPLING, "ignore_eos": True},
    "return_logprob": True,
    "logprob_start_len": 0,
    "top_logprobs_num": 2,
}
OLLAMA = {"options": {"num_predict": 6, "temperature": 0}}

Question = tuple[str, dict[str, Any]]


def chat(**fields: Any) -> Question:
    return "/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 6, "temperature": 0, **fields}


def complete(**fields: Any) -> Question:
    return "/v1/completions", {"prompt": "hello", "max_tokens": 6, "temperature": 0, **fields}


def messages(**fields: Any) -> Question:
    return "/v1/messages", {"messages": MESSAGES, "max_tokens": 6, "temperature": 0, **fields}


def tool_call(choice: Any, **fields: Any) -> Question:
    return chat(tools=[TOOL], tool_choice=choice, **{"max_tokens": 200, **fields})


QUESTIONS: dict[str, Question] = {
    "a chat": chat(),
    "a streamed chat": chat(stream=True),
    "a streamed chat with usage": chat(**STREAM),
    "a chat of nothing": chat(max_tokens=0),
    "a chat with logprobs": chat(logprobs=True, top_logprobs=2),
    "a chat with logprobs of its own tokens only": chat(logprobs=True),
    "a streamed chat with logprobs": chat(logprobs=True, top_logprobs=2, **STREAM),
    "two chats": chat(n=2),
    "two streamed chats": chat(n=2, **STREAM),
    "no chat": chat(n=0),
    "a chat with a seed": chat(temperature=1, seed=3),
    "a chat that is stopped": chat(max_tokens=60, stop=["e"]),
    "a streamed chat that is stopped": chat(max_tokens=60, stop="e", stream=True),
    "a chat that is stopped and shows it": chat(max_tokens=60, stop="e", no_stop_trim=True),
    "a chat in JSON": chat(max_tokens=200, response_format={"type": "json_object"}),
    "a chat in JSON of a schema": chat(
        max_tokens=200, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    ),
    "a chat with a tool that is not used": chat(tools=[TOOL]),
    "a streamed chat with a tool that is not used": chat(tools=[TOOL], **STREAM),
    "a chat with a tool that may not be used": chat(tools=[TOOL], tool_choice="none", **STREAM),
    "a demanded call": tool_call("required"),
    "a streamed demanded call": tool_call("required", **STREAM),
    "a call of one function": tool_call(FORCED),
    "a streamed call of one function": tool_call(FORCED, stream=True),
    "a call that is cut": tool_call("required", max_tokens=3),
    "a call of an unknown function": tool_call({"type": "function", "function": {"name": "nope"}}),
    "a call of nothing": chat(tool_choice="required"),
    "a completion": complete(),
    "a streamed completion": complete(stream=True),
    "a streamed completion with usage": complete(**STREAM),
    "a completion with logprobs": complete(logprobs=2),
    "a streamed completion with logprobs": complete(logprobs=2, **STREAM),
    "two completions": complete(n=2),
    "two streamed completions": complete(n=2, **STREAM),
    "completions of two prompts": complete(prompt=["hello", "world"]),
    "a completion of tokens": complete(prompt=[5, 6, 7]),
    "a completion with its prompt": complete(echo=True),
    "a completion that is stopped": complete(max_tokens=60, stop="e"),
    "a streamed completion that is stopped": complete(max_tokens=60, stop="e", stream=True),
    "messages": messages(),
    "streamed messages": messages(stream=True),
    "messages that are stopped": messages(max_tokens=60, stop_sequences=["e"]),
    "messages without a limit": ("/v1/messages", {"messages": MESSAGES}),
    "messages with a demanded call": messages(max_tokens=200, tools=[CLAUDE_TOOL], tool_choice={"type": "any"}),
    "streamed messages with a call": messages(
        max_tokens=200, tools=[CLAUDE_TOOL], tool_choice={"type": "tool", "name": "get_weather"}, stream=True
    ),
    "a count of messages": ("/v1/messages/count_tokens", {"messages": MESSAGES}),
    "a response": ("/v1/responses", {"input": "hello", "max_output_tokens": 6, "temperature": 0}),
    "a streamed response": (
        "/v1/responses",
        {"input": "hello", "max_output_tokens": 6, "temperature": 0, "stream": True},
    ),
    "a response to messages": (
        "/v1/responses",
        {"input": MESSAGES, "instructions": "be kind", "max_output_tokens": 6, "temperature": 0},
    ),
    "scores": ("/v1/score", {"query": "a", "items": ["b", "c"], "label_token_ids": [5, 6]}),
    "an Ollama chat": ("/api/chat", {"messages": MESSAGES, "stream": False, **OLLAMA}),
    "a generation": ("/generate", {"text": "hello", "sampling_params": SAMPLING}),
    "a generation with logprobs of the prompt": ("/generate", {"input_ids": [11, 13, 17], **LOGPROBS}),
    "a streamed generation": ("/generate", {"text": "hello", "sampling_params": SAMPLING, "stream": True}),
    "a streamed Ollama chat": ("/api/chat", {"messages": MESSAGES, **OLLAMA}),
    "Ollama's generate": ("/api/generate", {"prompt": "hello", "stream": False, **OLLAMA}),
    "Ollama's generate, streamed": ("/api/generate", {"prompt": "hello", **OLLAMA}),
    "Ollama's generate of nothing": ("/api/generate", {"prompt": ""}),
    "tokens": ("/v1/tokenize", {"prompt": "hello world"}),
    "text of tokens": ("/v1/detokenize", {"tokens": [5, 6]}),
    "an embedding of a model that makes none": ("/v1/embeddings", {"input": "a"}),
    "an encoding of a model that makes none": ("/encode", {"text": "a"}),
    "a chat without messages": ("/v1/chat/completions", {}),
    "an empty chat": chat(messages=[]),
    "a chat that is too cold": chat(temperature=-1),
    "an unknown route": ("/v1/nothing", {}),
    "a chat by an adapter": chat(model=f"{NAME}:latest"),
    "a streamed chat by an adapter": chat(model="whatever:latest", stream=True),
    "a chat by an adapter without a name": chat(model=f"{NAME}: "),
    "a chat by an adapter beside the model": chat(lora_path="latest"),
    "a completion by an adapter": complete(model=f"{NAME}:latest"),
    "messages by an adapter": messages(model=f"{NAME}:latest"),
    "streamed messages by an adapter": messages(model=f"{NAME}:latest", stream=True),
    "a count of messages by an adapter": ("/v1/messages/count_tokens", {"model": f"{NAME}:a", "messages": MESSAGES}),
    "a generation by an adapter": ("/generate", {"text": "hello", "sampling_params": SAMPLING, "lora_path": "a"}),
    "an Ollama chat by an adapter": (
        "/api/chat",
        {"model": f"{NAME}:a", "messages": MESSAGES, "stream": False, **OLLAMA},
    ),
    "scores by an adapter": ("/v1/score", {"model": f"{NAME}:a", "query": "a", "items": ["b"], "label_token_ids": [5]}),
    "tokens by an adapter": ("/v1/tokenize", {"model": f"{NAME}:a", "prompt": "hello world"}),
    "a response by an adapter": ("/v1/responses", {"model": f"{NAME}:a", "input": "hello", "max_output_tokens": 6}),
}

NUMBERS: dict[str, Question] = {
    "embeddings": ("/v1/embeddings", {"input": ["a", "b"]}),
    "a ranking": ("/v1/rerank", {"query": "q", "documents": ["a", "b"]}),
    "a classification": ("/v1/classify", {"input": ["a", "b"]}),
    "an encoding": ("/encode", {"text": "a"}),
    "an encoding of ids": ("/encode", {"input_ids": [11, 13, 17]}),
    "two encodings": ("/classify", {"text": ["a", "b"]}),
    "tokens": ("/v1/tokenize", {"prompt": "hello world"}),
    "embeddings by an adapter": ("/v1/embeddings", {"model": f"{NAME}:latest", "input": ["a", "b"]}),
    "a classification by an adapter": ("/v1/classify", {"model": f"{NAME}:latest", "input": ["a", "b"]}),
    "an encoding by an adapter": ("/encode", {"text": "a", "lora_path": "latest"}),
}


class Server:
    """A real one, by its port and its log."""

    def __init__(self, main_process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.main_process = main_process
        self.url = f"http://127.0.0.1:{port}"
        self.log = log

    @property
    def has_responses(self) -> bool:
        return "Responses API (/v1/responses) disabled" not in self.log.read_text()

    def is_ready(self) -> bool:
        assert self.main_process.poll() is None, self.log.read_text()[-4000:]
        try:
            return httpx.get(f"{self.url}/ready").status_code == 200
        except httpx.TransportError:
            return False


@contextmanager
def real_server(home: Path, folder: Path, *args: str) -> Iterator[Server]:
    port, log = free_port(), folder / "server.log"
    (folder / "tmp").mkdir()
    argv = [home / "venv" / "bin" / "python", "-m", "sglang.launch_server", "--model-path", home / "models" / "tiny-a"]
    argv += ["--served-model-name", NAME, "--host", "127.0.0.1", "--port", str(port), *CPU_ARGS, *args]
    crashes_at_once = {"SGLANG_PYSPY_DUMP_BEFORE_CRASH": "0", "SGLANG_CUDA_COREDUMP_BEFORE_CRASH": "0"}
    env = {**os.environ, **CPU_ENV, **crashes_at_once, "TMPDIR": str(folder / "tmp")}
    with log.open("wb") as out:
        main_process = subprocess.Popen(argv, env=env, stdout=out, stderr=out, start_new_session=True)
        try:
            server = Server(main_process, port, log)
            eventually(server.is_ready, 150, "the server is ready")
            yield server
        finally:
            kill_server(main_process.pid)
            main_process.wait()


@contextmanager
def simulated_server(folder: Path, *args: str) -> Iterator[Simulator]:
    # It begins with its path, which must not be what a question stops at.
    flags = ("--model-path", "a", "--served-model-name", NAME, "--context-length", "4096", *args)
    simulator = Simulator(folder / "simulator", flags, {}, free_port())
    try:
        yield simulator.until_ready()
    finally:
        simulator.sweep()


@pytest.fixture(scope="module")
def both(sglang_home, tmp_path_factory):
    folder = tmp_path_factory.mktemp("both")
    with real_server(sglang_home, folder, *TOOLS) as real, simulated_server(folder) as simulated:
        yield real, simulated


@pytest.fixture(scope="module")
def both_embed(sglang_home, tmp_path_factory):
    folder = tmp_path_factory.mktemp("embed")
    flag = "--is-embedding"
    with real_server(sglang_home, folder, flag) as real, simulated_server(folder, flag) as simulated:
        yield real, simulated


# Shapes

#: Values of these are words of the protocol.
WORDS = {"object", "type", "role", "finish_reason", "stop_reason", "status", "code", "reason", "name", "phase"}

#: Told of what happens to be in the cache.
CHANCE = {"cached_tokens_details"}

#: Maps from tokens: their keys are the model's.
MAPS = {"top_logprobs"}


def shape(answer: httpx.Response) -> Any:
    kind = answer.headers["content-type"].partition(";")[0]
    if kind == "text/event-stream":
        return answer.status_code, kind, distinct(map(event, answer.text.strip().split("\n\n")))
    if kind == "application/x-ndjson":
        return answer.status_code, kind, distinct(parts("", json.loads(line)) for line in answer.text.splitlines())
    return answer.status_code, kind, parts("", answer.json())


def event(block: str) -> tuple[tuple[str, ...], Any]:
    *names, data = block.split("\n")
    return tuple(names), data if data == "data: [DONE]" else parts("", json.loads(data.removeprefix("data: ")))


def distinct(shapes: Iterable[Any]) -> list[Any]:
    """Each once, in the order of their first."""
    return list(dict.fromkeys(shapes))


def parts(path: str, value: Any) -> frozenset[str]:
    """Every path below, with the kind of what is there."""
    name = path.rpartition(".")[2]
    if name in CHANCE:
        return frozenset()
    if isinstance(value, dict) and value:
        return frozenset().union(*(parts(f"{path}.{'*' if name in MAPS else key}", one) for key, one in value.items()))
    if isinstance(value, list) and value:
        inner = path if name in MAPS else f"{path}[]"
        return frozenset().union(*(parts(inner, one) for one in value))
    return frozenset({f"{path} = {value if name in WORDS else kind_of(value)}"})


def kind_of(value: Any) -> str:
    match value:
        case None | [] | {}:
            return repr(value)
        case bool():
            return "a truth"
        case int() | float():
            return "a number"
    return "a string"


def ask(server: Any, question: Question) -> httpx.Response:
    path, body = question
    return httpx.post(server.url + path, json={"model": NAME, **body}, timeout=60)


@pytest.mark.parametrize("name", QUESTIONS)
def test_the_answer_has_the_shape_of_sglangs(name, both):
    real, simulated = both
    question = QUESTIONS[name]
    if question[0] == "/v1/responses" and not real.has_responses:
        pytest.skip(NO_RESPONSES)
    assert shape(ask(simulated, question)) == shape(ask(real, question))


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def sends_its_head(server: Any, question: Question) -> bool:
    """Within three seconds."""
    path, body = question
    try:
        with httpx.stream("POST", server.url + path, json={"model": NAME, **body}, timeout=3):
            return True
    except httpx.ReadTimeout:
        return False


AT_ONCE = ("a streamed generation", "streamed messages", "a streamed Ollama chat", "a streamed response")


@pytest.mark.parametrize("name", AT_ONCE)
def test_the_head_of_this_stream_comes_before_there_is_anything_to_tell(name, both):
    assert heads_before_the_first_token(name, both) == {True}


@pytest.mark.parametrize("name", ["a streamed chat", "two streamed chats", "a streamed completion"])
def test_the_head_of_this_stream_comes_with_its_first_event(name, both):
    assert heads_before_the_first_token(name, both) == {False}


def heads_before_the_first_token(name: str, both: tuple[Server, Simulator]) -> set[bool]:
    real, simulated = both
    question = QUESTIONS[name]
    if question[0] == "/v1/responses" and not real.has_responses:
        pytest.skip(NO_RESPONSES)
    with stopped(process_of(real.main_process.pid, "scheduler")), stopped(simulated.pid(comm(SCHEDULER))):
        return {sends_its_head(real, question), sends_its_head(simulated, question)}


@pytest.mark.parametrize("name", NUMBERS)
def test_the_answer_of_an_embedding_model_has_the_shape_of_sglangs(name, both_embed):
    real, simulated = both_embed
    assert shape(ask(simulated, NUMBERS[name])) == shape(ask(real, NUMBERS[name]))


def test_an_embedding_model_that_is_asked_for_text_dies(both_embed):
    """Last of the file: it ends both servers."""
    for server in both_embed:
        with pytest.raises(httpx.TransportError):
            ask(server, chat())
    real, simulated = both_embed
    assert real.main_process.wait(60) == -9
    assert simulated.ended() == -9
