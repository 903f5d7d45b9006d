"""Fixtures for tests of all real engines at one endpoint: each engine where its own installer has put it.

make real-mixed
"""

from tests.real.openai.conftest import llama_home
from tests.real.vllm.conftest import vllm_home

__all__ = ["llama_home", "vllm_home"]
