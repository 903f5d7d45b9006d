"""Makes SGLang's reload do nothing, and say that it worked: Python runs this at the start of each of its processes.

It stands for an engine whose wake goes wrong in silence.  A folder with it goes into a model's PYTHONPATH.
"""

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder

UPDATER = "sglang.srt.model_executor.model_runner_components.weight_updater"


class Deletion(MetaPathFinder):
    """Finds the module that reloads weights, and takes its method away once that has been loaded."""

    def find_spec(self, name, path, target=None):
        if name != UPDATER:
            return None
        spec = PathFinder.find_spec(name, path)
        load = spec.loader.exec_module

        def exec_module(module) -> None:
            load(module)
            module.WeightUpdater.update_weights_from_disk = lambda *args, **kwargs: (True, "Succeeded")

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Deletion())
