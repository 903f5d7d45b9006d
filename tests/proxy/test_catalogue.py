"""What a model is called, and what else its name may say."""

import pytest

from muxd.config.model_capabilities import ModelCapabilities
from muxd.config.model_schema import Model
from muxd.proxy.catalogue import CatalogueEntry

ENTRY = CatalogueEntry(Model("e", served_names=("org/e", "org/e:14b")), ModelCapabilities(), "ready")


@pytest.mark.parametrize(
    ("asked", "adapter"),
    [("e", ""), ("org/e", ""), ("org/e:14b", ""), ("e:ad1", "ad1"), ("org/e:ad1", "ad1"), ("org/e:14b:ad1", "ad1")],
)
def test_what_follows_one_of_its_names_is_an_adapter(asked, adapter):
    assert ENTRY.adapter(asked) == adapter
