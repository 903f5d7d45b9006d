"""Advice on flags that are not for `args`: those of other servers, those that muxd itself gives, and flags as keys.

Other servers are vLLM, llama.cpp and TGI.  The flags of SGLang are those of 0.5.23.
"""

from typing import Any

from .engine_options import has_own_command
from .flags import DATA, PIPELINE, SWITCH, TENSOR
from .units import shown

#: Flags that muxd itself gives an engine, each with what the user does instead.
OWNED_FLAGS = {
    "--host": "leave it out: workers listen on loopback only",
    "--port": "use the key port",
    "--model": "use the key model_path",
    "--model-path": "use the key model_path",
    "--served-model-name": "use the key served_names",
    "--config": "leave it out: muxd writes that file; put its settings into args",
    "--admin-api-key": "leave it out: muxd makes one for each start",
    "--api-key": "leave it out: clients show keys to the proxy, see [[keys]], and it has none to show to the worker",
    "--enable-memory-saver": "use the key sleep_level",
    "--enable-weights-cpu-backup": "use sleep_level = 1",
    "--gated-launch-port": "use the key standby: muxd opens the gate",
}

#: Flags of vLLM, llama.cpp and TGI, each with SGLang's flag for the same purpose; "" where SGLang has none.
ELSEWHERE = {
    # vLLM
    "--max-model-len": "--context-length",
    "--gpu-memory-utilization": "--mem-fraction-static",
    "--max-num-seqs": "--max-running-requests",
    "--max-num-batched-tokens": "--chunked-prefill-size",
    "--enable-auto-tool-choice": "--tool-call-parser",
    "--enable-reasoning": "--reasoning-parser",
    "--enforce-eager": "--disable-cuda-graph",
    "--no-enable-prefix-caching": "--disable-radix-cache",
    "--no-enable-chunked-prefill": "--chunked-prefill-size=-1",
    "--swap-space": "--cpu-offload-gb",
    "--hf-overrides": "--json-model-override-args",
    "--rope-scaling": "--json-model-override-args",
    "--rope-theta": "--json-model-override-args",
    "--override-generation-config": "--preferred-sampling-params",
    "--generation-config": "--sampling-defaults",
    "--tokenizer": "--tokenizer-path",
    "--seed": "--random-seed",
    "--block-size": "--page-size",
    "--task": "--is-embedding",
    "--runner": "--is-embedding",
    "--lora-modules": "--lora-paths",
    "--max-loras": "--max-loras-per-batch",
    "--limit-mm-per-prompt": "--limit-mm-data-per-request",
    "--mm-processor-kwargs": "--mm-process-config",
    "--guided-decoding-backend": "--grammar-backend",
    "--speculative-config": "--speculative-algorithm",
    "--scheduling-policy": "--schedule-policy",
    "--num-scheduler-steps": "--num-continuous-decode-steps",
    "--enable-expert-parallel": "--ep-size",
    "--enable-sleep-mode": "--enable-memory-saver",
    "--uvicorn-log-level": "--log-level-http",
    "--root-path": "--fastapi-root-path",
    "--distributed-executor-backend": "",
    "--disable-log-stats": "",
    "--max-seq-len-to-capture": "",
    "--use-v2-block-manager": "",
    # llama.cpp
    "-m": "--model-path",
    "-hf": "--model-path",
    "--hf-repo": "--model-path",
    "-a": "--served-model-name",
    "--alias": "--served-model-name",
    "-c": "--context-length",
    "--ctx-size": "--context-length",
    "--n-ctx": "--context-length",
    "-np": "--max-running-requests",
    "--parallel": "--max-running-requests",
    "-b": "--chunked-prefill-size",
    "--batch-size": "--chunked-prefill-size",
    "-ub": "--chunked-prefill-size",
    "--ubatch-size": "--chunked-prefill-size",
    "-fa": "--attention-backend",
    "--flash-attn": "--attention-backend",
    "-ctk": "--kv-cache-dtype",
    "-ctv": "--kv-cache-dtype",
    "--cache-type-k": "--kv-cache-dtype",
    "--cache-type-v": "--kv-cache-dtype",
    "-sm": "--tp-size",
    "--split-mode": "--tp-size",
    "-ts": "--tp-size",
    "--tensor-split": "--tp-size",
    "--chat-template-file": "--chat-template",
    "--lora": "--lora-paths",
    "--embedding": "--is-embedding",
    "--embeddings": "--is-embedding",
    "--temp": "--preferred-sampling-params",
    "-ngl": "",
    "--n-gpu-layers": "",
    "--gpu-layers": "",
    "-t": "",
    "--threads": "",
    "--mlock": "",
    "--no-mmap": "",
    "--n-predict": "",
    # TGI
    "--model-id": "--model-path",
    "--hostname": "--host",
    "--num-shard": "--tp-size",
    "--sharded": "--tp-size",
    "--quantize": "--quantization",
    "--cuda-memory-fraction": "--mem-fraction-static",
    "--max-input-length": "--context-length",
    "--max-input-tokens": "--context-length",
    "--max-concurrent-requests": "--max-running-requests",
    "--max-batch-prefill-tokens": "--chunked-prefill-size",
    "--max-batch-total-tokens": "--max-total-tokens",
    "--lora-adapters": "--lora-paths",
    "--speculate": "--speculative-algorithm",
    "--tokenizer-config-path": "--tokenizer-path",
    "--waiting-served-ratio": "",
    "--max-best-of": "",
}

#: Flags of the same servers for what SGLang does without being asked.
UNASKED = frozenset(
    {
        "--enable-prefix-caching",
        "--enable-chunked-prefill",
        "--async-scheduling",
        "--disable-log-requests",
        "--no-enable-log-requests",
        "--cont-batching",
        "-cb",
        "--jinja",
    }
)

#: SGLang's flags that are likely to be taken for keys.
FLAGS = frozenset(
    {
        *(*TENSOR, *PIPELINE, *DATA, "--ep-size", "--enable-dp-attention"),
        *("--context-length", "--mem-fraction-static", "--max-total-tokens", "--max-running-requests"),
        *("--max-queued-requests", "--chunked-prefill-size", "--max-prefill-tokens", "--page-size"),
        *("--schedule-policy", "--schedule-conservativeness", "--json-model-override-args"),
        *("--quantization", "--dtype", "--kv-cache-dtype", "--load-format", "--trust-remote-code", "--revision"),
        *("--tokenizer-path", "--tokenizer-mode", "--chat-template", "--tool-call-parser", "--reasoning-parser"),
        *("--is-embedding", "--attention-backend", "--sampling-backend", "--grammar-backend"),
        *("--disable-cuda-graph", "--disable-radix-cache", "--enable-torch-compile", "--enable-hierarchical-cache"),
        *("--enable-lora", "--lora-paths", "--max-lora-rank", "--max-loras-per-batch"),
        *("--speculative-algorithm", "--speculative-draft-model-path", "--speculative-num-steps"),
        *("--speculative-eagle-topk", "--speculative-num-draft-tokens"),
        *("--cpu-offload-gb", "--random-seed", "--device", "--base-gpu-id", "--preferred-sampling-params"),
        *("--skip-server-warmup", "--sampling-defaults", "--download-dir"),
    }
)


def why_foreign(flag: str, *, in_script: bool = False) -> str:
    """Return what to do about a flag of another server; "" for a flag that is not known to be one.

    In a launch script SGLang is given every flag there, also those that muxd gives it in place of `args`.
    """
    if flag in UNASKED:
        return "SGLang does that unasked: remove it"
    meant = ELSEWHERE.get(flag)
    if meant is None:
        return ""
    if meant in OWNED_FLAGS and not in_script:
        return OWNED_FLAGS[meant]
    return f"it has {meant}" if meant else "it has nothing like it: remove it"


def why_flag(key: str, value: Any, engine: str = "sglang") -> str:
    """Return what to do about a flag of an engine that was written as a key; "" for a key that is none.

    For another engine than SGLang, or SGLang's stand-in, the flag is what the key says, in that engine's own words.
    """
    flag = flag_meant(key)
    if flag is None:
        return ""
    if has_own_command(engine):
        return (
            f"a flag of the server, which goes into command; add {_words(flag, value)} there, as the server spells it"
        )
    if engine not in ("sglang", "simulator"):
        return f"{_FOR_ARGS}; write args = [{_words(flag, value)}]"
    if flag in UNASKED or (flag not in FLAGS and flag not in OWNED_FLAGS and not ELSEWHERE[flag]):
        return f"a flag of another server; {why_foreign(flag).removeprefix('it has nothing like it: ')}"
    flag = ELSEWHERE.get(flag, flag)
    if flag in OWNED_FLAGS:
        return f"no key; {OWNED_FLAGS[flag]}"
    if value is False:
        return f"a flag of the engine ({flag}), which goes into args; leave it out"
    if isinstance(value, dict) or (flag == "--json-model-override-args" and not isinstance(value, str)):
        return f"{_FOR_ARGS}, as {flag} and one word of JSON"
    return f"{_FOR_ARGS}; write args = [{_words(flag, value)}]"


_FOR_ARGS = "a flag of the engine, which goes into args"


def flag_meant(key: str) -> str | None:
    """Return the flag, of SGLang or another server, that a key is called as; None where there is none."""
    flag = f"--{key.strip('-').replace('_', '-').lower()}"
    return flag if flag in FLAGS or flag in OWNED_FLAGS or flag in ELSEWHERE or flag in UNASKED else None


def _words(flag: str, value: Any) -> str:
    """Return the words of a flag and of the value that a user wrote for it, in TOML; "..." where that says none."""
    values = [] if "=" in flag or SWITCH.match(flag) else ["..."] if value is True else value
    words = [flag, *map(str, values if isinstance(values, list) else [values])]
    return ", ".join(map(shown, words))
