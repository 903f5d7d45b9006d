"""Stand-in for triton, which would be a 286 MB download: kernels can be defined, not launched.

SGLang defines triton kernels while it loads and launches none on the torch paths that a CPU takes.
Any module below `triton` can be imported, and any name taken from it: a capitalised name is an
empty class (annotations and base classes), any other a further module, which also passes as a
decorator.  Kernels stay plain functions, so a launch, `kernel[grid](...)`, raises TypeError.
"""

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

__version__ = "3.0.0"  # old enough that SGLang asks for nothing newer


class Anything(ModuleType):
    """A module in which every name exists."""

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        value = empty_class(name) if name[0].isupper() else import_stand_in(f"{self.__name__}.{name}")
        setattr(self, name, value)
        return value

    def __call__(self, *args, **kwargs):
        return decorate(*args, **kwargs)


class AnythingBelow(MetaPathFinder, Loader):
    """Finds every module below triton."""

    def find_spec(self, fullname, path=None, target=None):
        return ModuleSpec(fullname, self, is_package=True) if fullname.startswith("triton.") else None

    def create_module(self, spec):
        return Anything(spec.name)

    def exec_module(self, module):
        pass


def import_stand_in(fullname: str) -> ModuleType:
    __import__(fullname)
    return sys.modules[fullname]


def empty_class(name: str) -> type:
    return type(name, (), {"__init__": lambda self, *args, **kwargs: None})


def decorate(*args, **kwargs):
    """`@decorator` and `@decorator(...)` alike leave the function as it is."""
    return args[0] if len(args) == 1 and callable(args[0]) and not kwargs else lambda function: function


jit = decorate


def autotune(*args, **kwargs):
    return lambda function: function


heuristics = autotune


class Config:
    """One choice of an autotuner."""

    def __init__(self, kwargs=None, **options):
        self.kwargs = kwargs or {}
        self.__dict__.update(options)


def cdiv(a: int, b: int) -> int:
    return -(a // -b)


def next_power_of_2(n: int) -> int:
    return 1 << (n - 1).bit_length() if n > 0 else 1


def __getattr__(name: str):
    if name.startswith("__"):
        raise AttributeError(name)
    return empty_class(name) if name[0].isupper() else import_stand_in(f"triton.{name}")


class constexpr:
    def __init__(self, value=None):
        self.value = value


sys.meta_path.insert(0, AnythingBelow())
import_stand_in("triton.language").constexpr = constexpr
