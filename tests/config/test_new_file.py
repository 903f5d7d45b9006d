import os

import pytest

from muxd.config import new_file
from muxd.config.new_file import CannotWrite, place, refuse_if_taken
from muxd.errors import ConfigError


def test_the_file_is_whole_and_everybody_may_read_it(tmp_path):
    old = os.umask(0o077)
    place(tmp_path / "new/folder/muxd.toml", "größer\n", force=False)
    os.umask(old)
    written = tmp_path / "new/folder/muxd.toml"
    assert written.read_text() == "größer\n"
    assert written.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in written.parent.iterdir()] == ["muxd.toml"]


@pytest.mark.parametrize("make", [lambda path: path.touch(), lambda path: path.symlink_to("nowhere")])
def test_what_is_there_stays(tmp_path, make):
    path = tmp_path / "muxd.toml"
    make(path)
    for write in (lambda: refuse_if_taken(path, force=False), lambda: place(path, "x", force=False)):
        with pytest.raises(ConfigError) as caught:
            write()
        assert caught.value.problems == [
            f"{path}: is there already; --force replaces it, --output FILE names another, --print only shows"
        ]
    assert [entry.name for entry in tmp_path.iterdir()] == ["muxd.toml"]
    assert not path.exists() or path.read_text() == ""


def test_force_replaces_it(tmp_path):
    (tmp_path / "muxd.toml").write_text("old")
    refuse_if_taken(tmp_path / "muxd.toml", force=True)
    place(tmp_path / "muxd.toml", "new", force=True)
    assert (tmp_path / "muxd.toml").read_text() == "new"


def test_force_writes_where_a_link_leads(tmp_path):
    (tmp_path / "real.toml").write_text("old")
    (tmp_path / "muxd.toml").symlink_to("real.toml")
    place(tmp_path / "muxd.toml", "new", force=True)
    assert (tmp_path / "muxd.toml").is_symlink()
    assert (tmp_path / "real.toml").read_text() == "new"


@pytest.mark.parametrize("force", [False, True])
def test_a_file_system_without_hard_links_will_do(tmp_path, monkeypatch, force):
    def link(*paths):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(new_file.os, "link", link)
    place(tmp_path / "muxd.toml", "new", force=force)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["new"]
    with pytest.raises(ConfigError, match="is there already"):
        place(tmp_path / "muxd.toml", "newer", force=False)
    assert (tmp_path / "muxd.toml").read_text() == "new"


def test_a_directory_or_a_pipe_is_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name, text in (("", "is a directory; name the file"), ("pipe", "is not a file"), ("link", "is not a file")):
        with pytest.raises(ConfigError, match=text):
            refuse_if_taken(tmp_path / name, force=True)


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CannotWrite) as caught:
        place(tmp_path / "file/muxd.toml", "x", force=False)
    assert caught.value.message.startswith(f"{tmp_path}/file/muxd.toml cannot be written: ")
