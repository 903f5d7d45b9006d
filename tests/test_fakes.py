"""The pretend processes, sockets and GPUs can be asked all that the real ones can, in the same words."""

import inspect

import pytest

from muxd.children import Child, Children
from muxd.gpus import Gpus
from muxd.workers.port_ownership import PortOwnership

from .fakes import FakeChild, FakeChildren, FakeGpus, FakePorts

#: What only the daemon's own start needs.
BEFORE_WORKERS = {"sweep", "reap_orphans"}


@pytest.mark.parametrize(
    ("fake", "real"), [(FakeChild, Child), (FakeChildren, Children), (FakePorts, PortOwnership), (FakeGpus, Gpus)]
)
def test_a_fake_has_every_method_of_the_real_one(fake, real):
    for name, member in vars(real).items():
        if not name.startswith("_") and name not in BEFORE_WORKERS and not isinstance(member, type):
            if callable(member):
                assert list(inspect.signature(getattr(fake, name)).parameters) == list(
                    inspect.signature(member).parameters
                ), name
                assert inspect.iscoroutinefunction(getattr(fake, name)) is inspect.iscoroutinefunction(member), name
            else:
                assert hasattr(fake, name) or f"self.{name}" in inspect.getsource(fake), name
