import os
import pwd
from pathlib import Path

import pytest

from muxd.config import find_config
from muxd.config.default_paths import SYSTEM_CONFIG, home
from muxd.errors import ConfigError


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Make a working directory and a home, both empty, and return where a configuration would be in them."""
    monkeypatch.chdir(tmp_path)
    ours, users = tmp_path / "muxd.toml", tmp_path / "home/.config/muxd/muxd.toml"
    users.parent.mkdir(parents=True)
    return {"HOME": str(tmp_path / "home")}, ours, users


def test_the_working_directory_comes_before_the_home(places):
    environ, ours, users = places
    users.touch()
    assert find_config(None, environ) == users
    ours.touch()
    assert find_config(None, environ) == ours


def test_a_file_that_is_named_is_the_only_one_tried(places, tmp_path):
    environ, ours, _ = places
    ours.touch()
    with pytest.raises(ConfigError) as caught:
        find_config(Path("other.toml"), environ)
    assert caught.value.problems == ["other.toml: no such file; correct the path"]
    (tmp_path / "other.toml").touch()
    assert find_config(Path("other.toml"), environ) == Path("other.toml")


@pytest.mark.skipif(SYSTEM_CONFIG.exists(), reason="this machine has a muxd of its own")
def test_without_any_file_all_places_are_told(places):
    environ, ours, users = places
    with pytest.raises(ConfigError) as caught:
        find_config(None, environ)
    assert caught.value.problems == [
        f"no configuration: tried {ours}, {users}, /etc/muxd/muxd.toml; "
        "write one (`muxd init` does), or name one with --config"
    ]


def test_without_home_in_the_environment_the_user_database_is_asked():
    assert home({}) == Path(pwd.getpwuid(os.getuid()).pw_dir)


def test_a_file_that_may_not_be_looked_at_counts_as_there(places):
    environ, ours, _ = places
    ours.symlink_to(ours)  # stat(2) fails, though not with "no such file"
    assert find_config(None, environ) == ours
