"""The excerpts of muxd.toml in docs/how-to are ones that muxd takes."""

import re
from pathlib import Path

import pytest

from muxd.config.load import read_config

PAGES = Path(__file__).parents[1] / "docs/how-to"
EXCERPTS = {
    f"{page}-{number}": text
    for page in ("any-openai-server", "kubernetes", "vllm")
    for number, text in enumerate(re.findall(r"^```toml\n(.*?)^```", (PAGES / f"{page}.md").read_text(), re.M | re.S))
}


def test_the_pages_have_excerpts():
    assert len(EXCERPTS) >= 10


@pytest.mark.parametrize("name", EXCERPTS)
def test_an_excerpt_has_no_problem_on_the_host_that_it_is_for(tmp_path, name):
    file = tmp_path / "muxd.toml"
    file.write_text(EXCERPTS[name])
    config, problems = read_config(file, {"HOME": str(tmp_path)}, host=False)
    problems.raise_any()
    assert len(config.models) == 1
