"""Stand-in for SGLang's compiled kernels, which are published for CUDA only.

SGLang imports names from here while it loads, and on a CPU without AMX calls none of them to serve a
dense model: its layers have plain torch paths.  So every name exists, and raises when it is called.
"""

__version__ = "0.0.0"


class MissingKernel:
    """A kernel that can be imported and passed around, not called."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __call__(self, *args: object, **kwargs: object) -> None:
        raise NotImplementedError(f"sgl_kernel.{self.__name__} is a stand-in: this SGLang is installed for CPU tests")


def __getattr__(name: str) -> MissingKernel:
    if name.startswith("__"):
        raise AttributeError(name)
    return MissingKernel(name)
