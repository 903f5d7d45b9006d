"""vLLM plugin for tests: makes vLLM's CPU platform sleep for real, as far as a CPU can.

vLLM loads it by its entry point `vllm.general_plugins`.  Nothing is freed, but what a sleep takes away is poisoned: the
KV cache, and at level 2 the weights.  A wake from level 1 brings the weights back from a copy; after a wake from level
2 they are poisoned until `reload_weights` is called, as on a GPU.  The scheduler's side of a sleep is vLLM's own.

With MUXD_TEST_BROKEN_RELOAD=1 in the environment `reload_weights` does nothing: what then answers answers nonsense.
"""

import os
from contextlib import nullcontext

import torch


def register() -> None:
    """Let `--enable-sleep-mode` start on a CPU, and give its worker the three calls of a GPU's worker."""
    from vllm.platforms.cpu import CpuPlatform
    from vllm.v1.worker.cpu_worker import CPUWorker
    from vllm.v1.worker.gpu_worker import Worker

    CpuPlatform.is_sleep_mode_available = lambda self=None: True
    Worker._maybe_get_memory_pool_context = lambda self, tag=None, *args, **kwargs: nullcontext()
    CPUWorker.sleep = sleep
    CPUWorker.wake_up = wake_up
    CPUWorker.discard = discard
    if os.environ.get("MUXD_TEST_BROKEN_RELOAD") == "1":
        CPUWorker.reload_weights = lambda self, *args, **kwargs: None


@torch.no_grad()
def sleep(self, level: int = 1) -> None:
    """Poison the KV cache and the weights; level 1 keeps a copy of the weights, level 2 one of the buffers alone."""
    model = self.model_runner.model
    tensors = dict(model.named_parameters())
    kept = tensors if level == 1 else {}
    self.muxd_kept = {name: tensor.clone() for name, tensor in {**kept, **dict(model.named_buffers())}.items()}
    for tensor in (*tensors.values(), *model.buffers()):
        poison(tensor)
    discard(self, ("kv_cache",))


@torch.no_grad()
def wake_up(self, tags: list[str] | None = None) -> None:
    """Bring back what was kept, and a KV cache of zeros."""
    if tags is None or "weights" in tags:
        model = self.model_runner.model
        for name, tensor in {**dict(model.named_parameters()), **dict(model.named_buffers())}.items():
            if name in self.muxd_kept:
                tensor.copy_(self.muxd_kept[name])
        self.muxd_kept = {}
    if tags is None or "kv_cache" in tags:
        for cache in caches(self):
            cache.zero_()


def discard(self, tags: tuple[str, ...]) -> None:
    """Poison what these tags name; vLLM discards the KV cache alone."""
    if "kv_cache" in tags:
        for cache in caches(self):
            poison(cache)


def caches(worker) -> list[torch.Tensor]:
    found = worker.model_runner.kv_caches
    return [tensor for cache in found for tensor in (cache if isinstance(cache, (list, tuple)) else [cache])]


def poison(tensor: torch.Tensor) -> None:
    """Fill the tensor with what no model survives: not a number, or the byte 0x5a."""
    tensor.fill_(float("nan") if tensor.is_floating_point() else 0x5A)
