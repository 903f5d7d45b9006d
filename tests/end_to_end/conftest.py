from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from .muxd import Muxd

QUICK = "load_time = 0.3, sleep_time = 0.02, wake_time = 0.05, token_rate = 500, pace = 0.02"

MODELS = """\
[defaults]
engine = "simulator"
gpu_release_timeout = "1500ms"
stop_timeout = "3s"
call_timeout = "1500ms"
probe_interval = "300ms"
probe_timeout = "1s"
[models.alpha]
served_names = ["org/alpha"]
sleep_level = {alpha_level}
memory = {{ weights = "28GiB", kv = "20GiB", overhead = "2GiB" }}
simulation = {{ {quick}{alpha} }}
{alpha_keys}
[models.beta]
sleep_level = {beta_level}
memory = {{ weights = "40GiB", kv = "16GiB", overhead = "2GiB" }}
simulation = {{ {quick}{beta} }}
{beta_keys}
"""


def two_models(
    *, alpha: str = "", beta: str = "", levels: tuple[int, int] = (1, 2), alpha_keys: str = "", beta_keys: str = ""
) -> str:
    """Two simulated models that do not fit together; `alpha`, `beta`: more of their simulation."""
    return MODELS.format(
        quick=QUICK,
        alpha=alpha and f", {alpha}",
        beta=beta and f", {beta}",
        alpha_level=levels[0],
        beta_level=levels[1],
        alpha_keys=alpha_keys,
        beta_keys=beta_keys,
    )


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Muxd]]:
    """`start(models)` runs a muxd for the length of the test, which must leave nothing behind."""
    with ExitStack() as stack:

        def run(models: str | None = None, **options: Any) -> Muxd:
            return stack.enter_context(Muxd(tmp_path, models if models is not None else two_models(), **options))

        yield run


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Muxd]:
    """A muxd of two models for tests that leave it as good as they found it."""
    with Muxd(tmp_path_factory.mktemp("shared"), two_models()) as muxd:
        yield muxd
