"""What SGLang, and what it stands on, really writes when it fails: the end of it, word for word.

Where `source` is "0.5.23 on a CPU", that real SGLang was run and its log cut to its last lines; HUB is a local
server that answered as the Hub does.  Others are from public issues, or from the source, as they say.
"""

from dataclasses import dataclass

CPU = "0.5.23 on a CPU"
HUB = "0.5.23 on a CPU, asking a local server in the Hub's place"


@dataclass(frozen=True)
class LogSample:
    source: str
    code: str
    refused: bool
    text: str
    words: str  # some of the message that is made of it


def main_process(text: str) -> str:
    """As an exception of the main process ends its log."""
    return (
        "Traceback (most recent call last):\n"
        '  File "<frozen runpy>", line 198, in _run_module_as_main\n'
        '  File "/opt/venv/lib/python3.11/site-packages/sglang/launch_server.py", line 84, in <module>\n'
        "    run_server(server_args)\n" + text + "\n"
    )


def scheduler(text: str) -> str:
    """As an exception of a scheduler ends the log: the main process then kills itself."""
    return (
        "[2026-11-21 15:37:17] Load weight begin. avail mem=21.44 GB\n"
        "[2026-11-21 15:37:18] Scheduler hit an exception: Traceback (most recent call last):\n"
        '  File "/opt/venv/lib/python3.11/site-packages/sglang/srt/managers/scheduler.py", line 6301, in '
        "run_scheduler_process\n"
        "    scheduler = Scheduler(\n" + text + "\n\n"
        "[2026-11-21 15:37:18] Received sigquit from a child process. It usually means the child failed.\n"
        "[2026-11-21 15:37:18] kill_process_tree called: parent_pid=28194, include_parent=True, pid=28194\n"
    )


USAGE = "                    [--enable-dp-attention] [--monokernel-backend {amd}]\nsglang serve: error: "

FLAGS = (
    LogSample(
        CPU, "bad_flag", True, USAGE + "unrecognized arguments: --no-such-flag 5\n", "does not know --no-such-flag;"
    ),
    LogSample(
        CPU,
        "bad_flag",
        True,
        USAGE + "argument --tp-size/--tensor-parallel-size: invalid int value: 'abc'\n",
        "--tp-size/--tensor-parallel-size: invalid int value: 'abc'",
    ),
    LogSample(
        CPU,
        "bad_flag",
        True,
        USAGE + "argument --tp-size/--tensor-parallel-size: expected one argument\n",
        "--tp-size/--tensor-parallel-size: expected one argument",
    ),
    LogSample(
        CPU,
        "bad_flag",
        True,
        USAGE + "argument --attention-backend: invalid choice: 'nosuch' (choose from 'triton', 'torch_native')\n",
        "--attention-backend: invalid choice: 'nosuch'",
    ),
    LogSample(
        "the words of argparse for a flag that an older SGLang has not",
        "engine_too_old",
        True,
        USAGE + "unrecognized arguments: --admin-api-key muxd-00000000000000000000000000000000\n",
        "too old for muxd: it has no --admin-api-key;",
    ),
    LogSample(
        "the words of argparse for a flag that an older SGLang has not",
        "engine_too_old",
        True,
        USAGE + "unrecognized arguments: --enable-weights-cpu-backup\n",
        "use sleep_level = 2 or 3",
    ),
    LogSample(
        "the words of argparse for a flag that an older SGLang has not",
        "engine_too_old",
        True,
        USAGE + "unrecognized arguments: --enable-memory-saver --enable-weights-cpu-backup\n",
        "use sleep_level = 3",
    ),
    LogSample(
        CPU,
        "bad_flag",
        True,
        main_process(
            "RuntimeError: Chat template /no/such.jinja is not a built-in template name or a valid chat template "
            "file path."
        ),
        "no chat template /no/such.jinja",
    ),
)

MODELS = (
    LogSample(
        CPU,
        "model_path_missing",
        True,
        main_process(
            "OSError: Repo id must be in the form 'repo_name' or 'namespace/repo_name': '/does/not/exist'. Use "
            "`repo_type` argument if needed."
        ),
        "no model at /does/not/exist",
    ),
    LogSample(
        CPU + ", with weights that it may not read",
        "model_path_missing",
        True,
        scheduler("FileNotFoundError: No such file or directory: /models/x/model.safetensors"),
        "there is no /models/x/model.safetensors, or muxd's user may not read it",
    ),
    LogSample(
        CPU,
        "model_incomplete",
        True,
        main_process("ValueError: Unrecognized model in /models/x. Should have a `model_type` key in its config.json."),
        "config.json",
    ),
    LogSample(
        CPU,
        "model_incomplete",
        True,
        scheduler("RuntimeError: Cannot find any model weights with `/models/x`"),
        "has no weights",
    ),
    LogSample(
        CPU,
        "model_incomplete",
        True,
        scheduler(
            "safetensors._safetensors_rust.SafetensorError: Error while deserializing header: incomplete metadata, "
            "file not fully covered"
        ),
        "incomplete metadata",
    ),
    LogSample(
        HUB,
        "model_download_failed",
        True,
        main_process(
            "OSError: You are trying to access a gated repo.\n"
            "Make sure to have access to it at https://huggingface.co/org/gated.\n"
            "403 Client Error.\n\n"
            "Cannot access gated repo for url http://127.0.0.1:18999/org/gated/resolve/main/head.pt.\n"
            "Access to model org/gated is restricted. You must have access to it and be authenticated to access it. "
            "Please log in."
        ),
        "it is gated",
    ),
    LogSample(
        "github.com/ToTheBeginning/PuLID issue 97",
        "model_download_failed",
        True,
        "huggingface_hub.errors.GatedRepoError: 401 Client Error. (Request ID: Root=1-66f4b037-1bf3d7d219afbc904ee0569"
        "4;5601d2c9-8fd8-4ed8-b38d-d8a432e1fa59)\n\n"
        "Cannot access gated repo for url https://huggingface.co/black-forest-labs/FLUX.1-dev/resolve/main/ae.safetensors"
        ".\n",
        "does not let this user have org/x",
    ),
    LogSample(
        HUB,
        "model_download_failed",
        True,
        main_process(
            "OSError: org/absent is not a local folder and is not a valid model identifier listed on "
            "'https://huggingface.co/models'\n"
            "If this is a private repository, make sure to pass a token having permission to this repo either by "
            "logging in with `hf auth login` or by passing `token=<your_token>`"
        ),
        "the Hub has no such model",
    ),
    LogSample(
        CPU + " with HF_HUB_OFFLINE=1",
        "model_download_failed",
        False,
        main_process(
            "OSError: We couldn't connect to 'https://huggingface.co' to load the files, and couldn't find them in "
            "the cached files.\n"
            "Check your internet connection or see how to run the library in offline mode at "
            "'https://huggingface.co/docs/transformers/installation#offline-mode'."
        ),
        "the Hub cannot be reached",
    ),
    LogSample(
        CPU,
        "unsupported_model",
        True,
        main_process(
            "ValueError: The repository /models/x contains custom code which must be executed to correctly load the "
            "model. You can inspect the repository content at /models/x .\n"
            " You can inspect the repository content at https://hf.co//models/x.\n"
            "Please pass the argument `trust_remote_code=True` to allow custom code to be run."
        ),
        "--trust-remote-code",
    ),
    LogSample(
        CPU,
        "unsupported_model",
        True,
        main_process(
            "ValueError: The checkpoint you are trying to load has model type `nosuch` but Transformers does not "
            "recognize this architecture. This could be because of an issue with the checkpoint, or because your "
            "version of Transformers is out of date.\n\n"
            "You can update Transformers with the command `pip install --upgrade transformers`."
        ),
        "models of type nosuch",
    ),
    LogSample(
        CPU,
        "unsupported_model",
        True,
        scheduler(
            "ValueError: Cannot find model module. 'NoSuchForCausalLM' is not a registered model in the Transformers "
            "library (only relevant if the model is meant to be in Transformers) and 'AutoModel' is not present in "
            "the model config's 'auto_map' (relevant if the model is custom)."
        ),
        "NoSuchForCausalLM",
    ),
    LogSample(
        CPU,
        "context_too_long",
        True,
        main_process(
            "ValueError: Warning: User-specified context_length (999999) is greater than the derived context_length "
            "(4096). This may lead to incorrect model outputs or CUDA errors. Note that the derived context_length "
            "may differ from max_position_embeddings in the model's config. To allow overriding this maximum, set "
            "the env var SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN=1"
        ),
        "999999 tokens is longer than the 4096",
    ),
)

MEMORY = (
    LogSample(
        "github.com/FireRedTeam/FireRedTTS2 issue 17, in SGLang's frame",
        "out_of_memory",
        False,
        scheduler(
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 26.00 MiB. GPU 0 has a total capacity of "
            "11.66 GiB of which 9.81 MiB is free. Process 3893521 has 618.00 MiB memory in use. Process 1493972 has "
            "1.28 GiB memory in use. Including non-PyTorch memory, this process has 9.74 GiB memory in use. Of the "
            "allocated memory 9.30 GiB is allocated by PyTorch, and 163.19 MiB is reserved by PyTorch but unallocated."
        ),
        "while the engine loaded its weights: 26.00 MiB more did not fit in 9.81 MiB free of 11.66 GiB on GPU 2;",
    ),
    LogSample(
        "github.com/sgl-project/sglang issue 5285",
        "out_of_memory",
        False,
        scheduler(
            "Exception: Capture cuda graph failed: CUDA out of memory. Tried to allocate 448.00 MiB. GPU 7 has a total "
            "capacity of 95.00 GiB of which 101.31 MiB is free."
        ),
        "448.00 MiB more",
    ),
    LogSample(
        "github.com/Synthintel0/MyGirlGPT issue 11: an older torch",
        "out_of_memory",
        False,
        "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 32.00 MiB. GPU 0 has a total capacty of "
        "4.00 GiB of which 41.56 MiB is free. Including non-PyTorch memory, this process has 3.44 GiB memory in use.\n",
        "41.56 MiB free of 4.00 GiB",
    ),
    LogSample(
        "github.com/sgl-project/sglang issue 4547",
        "out_of_memory",
        False,
        "RuntimeError: CUDA error: out of memory\n"
        "CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be "
        "incorrect.\n",
        "the GPU ran out of memory",
    ),
    LogSample(
        "github.com/sgl-project/sglang issue 14092: a wake",
        "out_of_memory",
        False,
        "[torch_memory_saver.cpp] CUresult error: 2 (out of memory)  file=csrc/utils.h func=cu_mem_create line=194\n",
        "the GPU ran out of memory",
    ),
    LogSample(
        "github.com/fzyzcjy/torch_memory_saver issue 99: a wake",
        "out_of_memory",
        False,
        "[torch_memory_saver.cpp] cuMemCreate CUDA_ERROR_OUT_OF_MEMORY (may not be an issue e.g. torch allocator will "
        "free cache and retry)\n"
        "[torch_memory_saver.cpp] cudaError error: 2 (out of memory)  file=csrc/core.cpp func=resume line=172\n",
        "the GPU ran out of memory",
    ),
    LogSample(
        "github.com/sgl-project/sglang issue 4330, and pool_configurator.py of 0.5.23",
        "out_of_memory",
        False,
        scheduler(
            "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static. Current value: "
            "mem_fraction_static=0.84"
        ),
        "raise --mem-fraction-static",
    ),
    LogSample(
        "github.com/JingyunLiang/VRT issue 49",
        "host_out_of_memory",
        False,
        scheduler(
            "RuntimeError: [enforce fail at alloc_cpu.cpp:73] . DefaultCPUAllocator: can't allocate memory: you tried "
            "to allocate 116813856768 bytes. Error code 12 (Cannot allocate memory)"
        ),
        "the host ran out of memory while the engine loaded its weights",
    ),
    LogSample(
        "github.com/sgl-project/sglang issue 5762",
        "host_out_of_memory",
        False,
        "Process Process-6:\nTraceback (most recent call last):\n    faulthandler.enable()\n"
        "OSError: [Errno 12] Cannot allocate memory\n",
        "the host ran out of memory",
    ),
)

HOST = (
    LogSample(
        CPU,
        "port_taken",
        False,
        "[2026-11-21 15:42:50] INFO:     Application startup complete.\n"
        "[2026-11-21 15:42:50] ERROR:    [Errno 98] error while attempting to bind on address ('127.0.0.1', 18000): "
        "address already in use\n"
        "[2026-11-21 15:42:50] INFO:     Waiting for application shutdown.\n",
        "port 18000 was taken",
    ),
    LogSample(
        "github.com/verl-project/verl issue 5889",
        "port_taken",
        False,
        scheduler(
            "torch.distributed.DistNetworkError: The server socket has failed to listen on any local network address. "
            "port: 18071, useIpv6: false, code: -98, name: EADDRINUSE, message: address already in use"
        ),
        "a port that the engine uses inside",
    ),
    LogSample(
        CPU + "'s python without SGLang",
        "engine_missing",
        True,
        "/opt/sglang/bin/python: Error while finding module specification for 'sglang.launch_server' "
        "(ModuleNotFoundError: No module named 'sglang')\n",
        "sglang is not installed",
    ),
    LogSample(
        CPU + " without torch_memory_saver",
        "engine_missing",
        True,
        main_process("ModuleNotFoundError: No module named 'torch_memory_saver'"),
        "pip install torch-memory-saver",
    ),
    LogSample(
        "bash 5",
        "engine_missing",
        True,
        "/etc/muxd/legacy.sh: line 3: python4: command not found\n",
        "calls python4, which is not found",
    ),
    LogSample("dash", "engine_missing", True, "/etc/muxd/legacy.sh: 3: python4: not found\n", "python4"),
    LogSample(
        "bash 5",
        "engine_missing",
        True,
        "/etc/muxd/legacy.sh: line 1: /opt/old/bin/python: No such file or directory\n",
        "calls /opt/old/bin/python, which is not found",
    ),
    LogSample(
        "bash 5",
        "engine_error",
        True,
        "/etc/muxd/legacy.sh: line 1: cd: /no/such/dir: No such file or directory\n",
        "cannot go to /no/such/dir: No such file or directory",
    ),
    LogSample(
        "bash 5",
        "access_denied",
        True,
        "/etc/muxd/legacy.sh: line 3: /opt/sglang/bin/python: Permission denied\n",
        "/opt/sglang/bin/python",
    ),
    LogSample(
        CPU + " as another user",
        "access_denied",
        True,
        main_process("PermissionError: [Errno 13] Permission denied: '/root/.cache'"),
        "/root/.cache",
    ),
    LogSample(
        "github.com/xai-org/grok-1 issue 138",
        "disk_full",
        False,
        main_process("OSError: [Errno 28] No space left on device: './checkpoints/x' -> '/dev/shm/tmpeq5bn6yp'"),
        "./checkpoints/x",
    ),
    LogSample(
        "github.com/idiap/ESLAM issue 20",
        "disk_full",
        False,
        scheduler("RuntimeError: unable to write to file </torch_31911_952036340_6686>: No space left on device (28)"),
        "/dev/shm",
    ),
    LogSample(
        "github.com/lllyasviel/Fooocus issue 1313",
        "cuda_unavailable",
        True,
        main_process(
            "RuntimeError: The NVIDIA driver on your system is too old (found version 11040). Please update your GPU "
            "driver by downloading and installing a new version from the URL: "
            "http://www.nvidia.com/Download/index.aspx Alternatively, go to: https://pytorch.org to install a PyTorch "
            "version that has been compiled with your version of the CUDA driver."
        ),
        "it offers CUDA 11.4",
    ),
    LogSample(
        "github.com/OpenTalker/SadTalker issue 24",
        "cuda_unavailable",
        True,
        main_process(
            "RuntimeError: Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and "
            "installed a driver from http://www.nvidia.com/Download/index.aspx"
        ),
        "Found no NVIDIA driver",
    ),
    LogSample(
        CPU + " without SGLANG_USE_CPU_ENGINE",
        "cuda_unavailable",
        True,
        main_process("RuntimeError: No accelerator (CUDA, XPU, HPU, NPU, MUSA, MPS) or platform plugin is available."),
        "No accelerator",
    ),
    LogSample(
        "github.com/sgl-project/sglang issue 16052",
        "cuda_unavailable",
        True,
        main_process("ImportError: libnvrtc.so.12: cannot open shared object file: No such file or directory"),
        "libnvrtc.so.12",
    ),
    LogSample(
        "github.com/agentica-project/rllm issue 8",
        "cuda_unavailable",
        True,
        main_process("ImportError: common_ops.abi3.so: undefined symbol: _ZN3c104cuda9SetDeviceEa"),
        "undefined symbol",
    ),
)

LOG_SAMPLES = (*FLAGS, *MODELS, *MEMORY, *HOST)
