"""What vLLM, and what it stands on, really writes when it fails: the end of it, word for word.

Where `source` is "0.32.0 on a CPU", that real vLLM was run and its log cut to the lines that tell.  Others are from its
source, as they say.
"""

from dataclasses import dataclass

CPU = "0.32.0 on a CPU"
SOURCE = "source of 0.32.0"


@dataclass(frozen=True)
class LogSample:
    source: str
    code: str
    refused: bool
    text: str
    words: str  # some of the message that is made of it


LOG_SAMPLES = (
    LogSample(
        SOURCE,
        "engine_too_old",
        True,
        "api_server.py: error: unrecognized arguments: --shutdown-timeout 30 --middleware muxd_guard.RequireAdminKey",
        "it has no --middleware",
    ),
    LogSample(
        CPU,
        "bad_flag",
        True,
        (
            "                    [--jit-monitor-mode {error,warn}]\napi_server.py: error: unrecognized "
            "arguments: --frobnicate"
        ),
        "does not know --frobnicate;",
    ),
    LogSample(
        CPU,
        "bad_flag",
        True,
        (
            "                    [--jit-monitor-mode {error,warn}]\napi_server.py: error: argument --dtype: "
            "invalid choice: 'nonsense' (choose from 'auto', 'bfloat16', 'float', 'float16', 'float32', "
            "'half')"
        ),
        "argument --dtype: invalid choice: 'nonsense'",
    ),
    LogSample(
        CPU,
        "model_path_missing",
        True,
        (
            "huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name' or "
            "'namespace/repo_name': '/nope/model'. Use `repo_type` argument if needed."
        ),
        "there is nothing at /nope/model",
    ),
    LogSample(
        CPU,
        "model_path_missing",
        True,
        "  Value error, Invalid repository ID or local directory specified: '/srv/empty'.",
        "/srv/empty holds no model",
    ),
    LogSample(
        CPU,
        "model_download_failed",
        True,
        (
            "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find an appropriate cached snapshot "
            "folder for the specified revision on the local disk and outgoing traffic has been disabled. To "
            "enable repo look-ups and downloads online, pass 'local_files_only=False' as input."
        ),
        "org/x is not on this machine",
    ),
    LogSample(
        CPU,
        "context_too_long",
        True,
        (
            "  Value error, User-specified max_model_len (99999) is greater than the derived max_model_len "
            "(max_position_embeddings=4096.0 or model_max_length=None in model's config.json). To allow "
            "overriding this maximum, set the env var VLLM_ALLOW_LONG_MAX_MODEL_LEN=1. "
            "VLLM_ALLOW_LONG_MAX_MODEL_LEN must be used with extreme caution. If the model uses relative "
            "position encoding (RoPE), positions exceeding derived_max_model_len lead to nan. If the model "
            "uses absolute position encoding, positions exceeding derived_max_model_len will cause a CUDA "
            "array out-of-bounds error. [type=value_error, input_value=ArgsKwargs((), {'model': "
            "...nderer_num_workers': 1}), input_type=ArgsKwargs]"
        ),
        "a context of 99999 tokens is longer than the 4096",
    ),
    LogSample(
        CPU,
        "out_of_memory",
        False,
        (
            "RuntimeError: Worker failed with error 'Available memory on node 0 (21.33/23.54 GiB) on kv "
            "cache allocation is less than requested memory for kv (838.19 GiB). Decrease "
            "--kv-cache-memory-bytes, VLLM_CPU_KVCACHE_SPACE, or reduce CPU memory used by other "
            "processes.', please check the stack trace above for the root cause\nRuntimeError: Engine core "
            "initialization failed. See root cause above. Failed core proc(s): {}"
        ),
        "there is not the memory",
    ),
    LogSample(
        CPU,
        "out_of_memory",
        True,
        (
            "(EngineCore pid=4752) ERROR 11-29 12:16:19 [core.py:1510] ValueError: To serve at least one "
            "request with the model's max seq len (4096), (0.0 GiB KV cache is needed, which is larger than "
            "the available KV cache memory (0.0 GiB). Based on the available memory, the estimated maximum "
            "model length is 768. Try increasing `gpu_memory_utilization` (which also controls CPU memory "
            "on the CPU backend) or decreasing `max_model_len` when initializing the engine. See "
            "https://docs.vllm.ai/en/latest/configuration/conserving_memory/ for more details."
        ),
        "the KV cache of one text of 4096 tokens",
    ),
    LogSample(
        CPU,
        "model_incomplete",
        True,
        (
            "(Worker pid=8015) ERROR 11-29 12:16:52 [multiproc_executor.py:953] RuntimeError: Cannot find "
            "any model weights with `/srv/noweights`\nRuntimeError: Engine core initialization failed. See "
            "root cause above. Failed core proc(s): {}"
        ),
        "there are no weights in /srv/noweights",
    ),
    LogSample(
        CPU,
        "unsupported_model",
        True,
        (
            "  Value error, The checkpoint you are trying to load has model type `foo` but Transformers "
            "does not recognize this architecture. This could be because of an issue with the checkpoint, "
            "or because your version of Transformers is out of date."
        ),
        "no model of type foo",
    ),
    LogSample(
        CPU,
        "model_incomplete",
        True,
        (
            "(Worker pid=10654) ERROR 11-29 12:17:48 [multiproc_executor.py:953] "
            "safetensors._safetensors_rust.SafetensorError: Error while deserializing header: incomplete "
            "metadata, file not fully covered\nRuntimeError: Engine core initialization failed. See root "
            "cause above. Failed core proc(s): {}"
        ),
        "a file with weights of org/x is damaged",
    ),
    LogSample(CPU, "port_taken", False, "OSError: [Errno 98] Address already in use", "was taken by another process"),
    LogSample(
        SOURCE,  # vllm/v1/worker/utils.py
        "out_of_memory",
        False,
        "ValueError: Free memory on device cuda:0 (1.00/79.10 GiB) on startup is less than desired GPU memory "
        "utilization (0.92, 72.77 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes.",
        "there is not the memory",
    ),
    LogSample(
        SOURCE,  # vllm/v1/core/kv_cache_utils.py
        "out_of_memory",
        False,
        "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when "
        "initializing the engine.",
        "no room for a KV cache",
    ),
    LogSample(
        SOURCE,  # vllm/model_executor/models/registry.py
        "unsupported_model",
        True,
        "  Value error, Model architectures ['FooForCausalLM'] are not supported for now. Supported architectures: ...",
        "does not support 'FooForCausalLM'",
    ),
    LogSample(
        SOURCE,  # vllm/config/model.py
        "engine_missing",
        True,
        "  Value error, Sleep mode is not supported on current platform. [type=value_error]",
        "cannot sleep on this machine",
    ),
    LogSample(CPU, "engine_missing", True, "/usr/bin/python3: No module named vllm", "vllm is not installed in"),
)
