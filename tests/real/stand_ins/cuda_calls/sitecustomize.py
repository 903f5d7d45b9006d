"""Stand-ins for the calls to CUDA that SGLang 0.5.23 makes where one half passes its KV cache on to the other.

Python imports this module by itself where PYTHONPATH has its folder.  Once torch is imported, memory that is asked to
be pinned is ordinary memory, and events and streams of CUDA are there and over at once: on a CPU everything is done in
order.  What passes the cache on is the real mooncake, by TCP.
"""

import importlib.util
import sys
from importlib.abc import Loader, MetaPathFinder


class NothingToWaitFor:
    """An event, or a stream, of work that is done already."""

    def __init__(self, *args, **options) -> None: ...

    def record(self, *args) -> None: ...

    def synchronize(self) -> None: ...

    def wait_event(self, *args) -> None: ...

    def query(self) -> bool:
        return True


def stand_in(torch) -> None:
    def ordinary(make):
        return lambda *args, pin_memory=False, **options: make(*args, **options)

    torch.empty, torch.zeros, torch.tensor = map(ordinary, (torch.empty, torch.zeros, torch.tensor))
    torch.cuda.Event = NothingToWaitFor
    torch.cuda.current_stream = NothingToWaitFor


class TorchLoader(Loader):
    """Loads torch, then puts the stand-ins into it."""

    def __init__(self, real) -> None:
        self._real = real

    def create_module(self, spec):
        return self._real.create_module(spec)

    def exec_module(self, module) -> None:
        self._real.exec_module(module)
        stand_in(module)


class TorchFinder(MetaPathFinder):
    """Finds torch where it is; once."""

    def find_spec(self, name, path=None, target=None):
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None:
            spec.loader = TorchLoader(spec.loader)
        return spec


sys.meta_path.insert(0, TorchFinder())
