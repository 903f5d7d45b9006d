"""How SGLang's start ends where something is wrong: the last lines of its log, and its exit status.

The texts are SGLang's, torch's and the Hub client's own, cut to their last lines; tests/engines/test_diagnosis.py
names the source of each.  {model} stands for the model's path.
"""

import os
import signal
import sys
from dataclasses import dataclass
from typing import Never

_TRACEBACK = """\
Traceback (most recent call last):
  File "<frozen runpy>", line 198, in _run_module_as_main
  File "<frozen runpy>", line 88, in _run_code
  File "sglang/launch_server.py", line 84, in <module>
    run_server(server_args)
"""
_SCHEDULER = """\
[2026-11-21 15:37:17] Load weight begin. avail mem=21.44 GB
[2026-11-21 15:37:18] Scheduler hit an exception: Traceback (most recent call last):
  File "sglang/srt/managers/scheduler.py", line 6301, in run_scheduler_process
    scheduler = Scheduler(
"""
_CHILD_FAILED = "\n\n[2026-11-21 15:37:18] Received sigquit from a child process. It usually means the child failed."
KILLED = -signal.SIGKILL  # SGLang's main process kills itself when its scheduler has failed


@dataclass(frozen=True, slots=True)
class SimulatedCrash:
    """The end of a start: what is written to stderr, and how the process ends after that."""

    text: str
    status: int  # the exit status; negative: the number of the signal that ends the process

    def happen(self, model_path: str) -> Never:
        """Write the text and end this process."""
        print(self.text.replace("{model}", model_path), file=sys.stderr, flush=True)
        if self.status < 0:
            os.kill(os.getpid(), -self.status)
        sys.exit(self.status)


def _of_main_process(text: str) -> SimulatedCrash:
    return SimulatedCrash(_TRACEBACK + text, 1)


def _of_scheduler(text: str) -> SimulatedCrash:
    return SimulatedCrash(_SCHEDULER + text + _CHILD_FAILED, KILLED)


ENDINGS = {
    "missing-path": _of_main_process(
        "OSError: Repo id must be in the form 'repo_name' or 'namespace/repo_name': '{model}'. "
        "Use `repo_type` argument if needed."
    ),
    "no-config": _of_main_process(
        "ValueError: Unrecognized model in {model}. Should have a `model_type` key in its config.json."
    ),
    "no-weights": _of_scheduler("RuntimeError: Cannot find any model weights with `{model}`"),
    "cut-weights": _of_scheduler(
        "safetensors._safetensors_rust.SafetensorError: Error while deserializing header: incomplete metadata, "
        "file not fully covered"
    ),
    "gated": _of_main_process(
        "OSError: You are trying to access a gated repo.\n"
        "Make sure to have access to it at https://huggingface.co/{model}.\n"
        "401 Client Error."
    ),
    "unknown-model": _of_main_process(
        "OSError: {model} is not a local folder and is not a valid model identifier listed on "
        "'https://huggingface.co/models'"
    ),
    "offline": _of_main_process(
        "OSError: We couldn't connect to 'https://huggingface.co' to load the files, and couldn't find them in the "
        "cached files.\n"
        "Check your internet connection or see how to run the library in offline mode at "
        "'https://huggingface.co/docs/transformers/installation#offline-mode'."
    ),
    "remote-code": _of_main_process(
        "ValueError: The repository {model} contains custom code which must be executed to correctly load the model. "
        "You can inspect the repository content at {model} .\n"
        "Please pass the argument `trust_remote_code=True` to allow custom code to be run."
    ),
    "architecture": _of_scheduler(
        "ValueError: Cannot find model module. 'NoSuchForCausalLM' is not a registered model in the Transformers "
        "library (only relevant if the model is meant to be in Transformers) and 'AutoModel' is not present in the "
        "model config's 'auto_map' (relevant if the model is custom)."
    ),
    "context": _of_main_process(
        "ValueError: Warning: User-specified context_length (999999) is greater than the derived context_length "
        "(4096). This may lead to incorrect model outputs or CUDA errors."
    ),
    "kv-room": _of_scheduler(
        "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static. "
        "Current value: mem_fraction_static=0.8"
    ),
    "host-memory": _of_scheduler(
        "RuntimeError: [enforce fail at alloc_cpu.cpp:73] . DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 116813856768 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "disk": _of_main_process("OSError: [Errno 28] No space left on device: '/root/.cache/huggingface'"),
    "no-sglang": SimulatedCrash(
        "/usr/bin/python3: Error while finding module specification for 'sglang.launch_server' "
        "(ModuleNotFoundError: No module named 'sglang')",
        1,
    ),
    "no-memory-saver": _of_main_process("ModuleNotFoundError: No module named 'torch_memory_saver'"),
    "old-driver": _of_main_process(
        "RuntimeError: The NVIDIA driver on your system is too old (found version 11040). Please update your GPU "
        "driver by downloading and installing a new version from the URL: "
        "http://www.nvidia.com/Download/index.aspx Alternatively, go to: https://pytorch.org to install a PyTorch "
        "version that has been compiled with your version of the CUDA driver."
    ),
    "no-gpu": _of_main_process(
        "RuntimeError: Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed "
        "a driver from http://www.nvidia.com/Download/index.aspx"
    ),
    "permission": _of_main_process("PermissionError: [Errno 13] Permission denied: '{model}/config.json'"),
    "unknown-error": _of_main_process("AssertionError: page_size must be a multiple of 64"),
    "killed": SimulatedCrash("", KILLED),
}
