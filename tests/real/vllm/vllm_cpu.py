"""Real vLLM on a CPU: the flags and environment it needs there, and its processes as the kernel shows them."""

from tests.real.sglang_cpu import command_line, running

CPU_ARGS = (
    "--enforce-eager",
    *("--max-model-len", "2048"),
    *("--kv-cache-memory-bytes", str(64 << 20)),
)
"""What a model's `args` need here."""

CPU_ENV = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",  # several servers share few cores
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "TORCHDYNAMO_DISABLE": "1",  # compiling the kernel that ranks logprobs would take 17 s at the first wake proof
    "PYTHONWARNINGS": "ignore",
}
"""What a model's `env` needs here."""

ROLES = {
    "VLLM::EngineCore": "engine_core",
    "VLLM::Worker": "worker",
    "multiprocessing.resource_tracker": "resource_tracker",
    "vllm.entrypoints.openai.api_server": "api_server",
}


def processes_of(api_server: int) -> dict[str, int]:
    """{role: pid} of a server: vLLM stays in one session."""
    lines = {pid: command_line(pid) for pid, session in running() if session == api_server}
    found = {}
    for pid, line in lines.items():
        if role := next((role for mark, role in ROLES.items() if mark in line), None):
            found[role] = pid
    return found
