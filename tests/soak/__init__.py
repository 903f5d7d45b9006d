"""Long runs with many clients: `python -m pytest tests/soak -s`.  Not part of the ordinary test run."""

import pytest

pytest.register_assert_rewrite("tests.soak.clients", "tests.soak.kinds")
