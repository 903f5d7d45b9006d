"""Stand-in for torch_memory_saver, which needs CUDA: it frees nothing and forgets what the real one forgets.

- What was allocated in a region is overwritten when its tag is paused: with 0xFF bytes, which are NaN in
  every float format.  A wake that forgets to reload answers garbage, as it does on a GPU.
- With `enable_cpu_backup` it is put back on resume.
- To pause a paused tag, or resume one that is not, ends the process, as the real one does.

A region's allocations are found by comparing the garbage collector's tensors before and after it.
"""

import gc
import os
import sys
import weakref
from contextlib import contextmanager

import torch


def die(why: str) -> None:
    print(f"torch_memory_saver: {why}", file=sys.stderr, flush=True)
    os._exit(1)


def tensors() -> list[torch.Tensor]:
    return [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]


def storage_of(tensor: torch.Tensor) -> torch.UntypedStorage:
    return tensor.detach().untyped_storage()


class Region:
    """The memory behind the tensors allocated in the regions of one tag."""

    def __init__(self) -> None:
        self.paused = False
        self.storages: dict[int, torch.UntypedStorage] = {}  # by address: several tensors may share one
        self.backed_up: set[int] = set()
        self.copies: dict[int, torch.UntypedStorage] = {}

    def add(self, tensor: torch.Tensor, backup: bool) -> None:
        storage = storage_of(tensor)
        self.storages[storage.data_ptr()] = storage
        if backup:
            self.backed_up.add(storage.data_ptr())

    def pause(self) -> None:
        for address, storage in self.storages.items():
            if address in self.backed_up:
                self.copies[address] = storage.clone()
            storage.fill_(0xFF)

    def resume(self) -> None:
        for address, copy in self.copies.items():
            self.storages[address].copy_(copy)
        self.copies.clear()


class TorchMemorySaver:
    """The real one's interface, as far as SGLang uses it."""

    enabled = True
    hook_mode = "stand-in"

    def __init__(self) -> None:
        self.regions: dict[str, Region] = {}

    @contextmanager
    def region(self, tag: str = "default", enable_cpu_backup: bool = False):
        before = {id(tensor): weakref.ref(tensor) for tensor in tensors()}
        yield
        region = self.regions.setdefault(tag, Region())
        for tensor in tensors():
            known = before.get(id(tensor))
            if known is None or known() is not tensor:
                region.add(tensor, enable_cpu_backup)

    @contextmanager
    def cuda_graph(self, *args, **kwargs):
        yield

    @contextmanager
    def disable(self):
        yield

    def pause(self, tag: str) -> None:
        region = self.regions.setdefault(tag, Region())
        if region.paused:
            die(f"cannot pause {tag}: it is paused")
        region.paused = True
        region.pause()

    def resume(self, tag: str) -> None:
        region = self.regions.setdefault(tag, Region())
        if not region.paused:
            die(f"cannot resume {tag}: it is not paused")
        region.paused = False
        region.resume()


torch_memory_saver = TorchMemorySaver()


@contextmanager
def configure_subprocess():
    """The real one preloads its library into the processes started here."""
    yield
