import os
import pwd
from pathlib import Path
from typing import IO

import pytest

from muxd.config import Memory, load_config, load_proxy_config, salvage_config
from muxd.config.proxy_settings import write_for_proxy
from muxd.config.schema import GiB
from muxd.errors import ConfigError
from tests.unprivileged import closed

MAIN = """\
[muxd]
socket = "/s"
[policy]
wait_target = 1
[defaults]
engine = "simulator"
[models.qwen]
memory = { weights = "1GiB", kv = "2GiB" }
env = { A = "1", B = "1" }
args = ["--x"]
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "muxd.toml").write_text(MAIN)
    (tmp_path / "muxd.d").mkdir()
    return tmp_path


@pytest.fixture
def part(folder):
    def part(name, text):
        (folder / "muxd.d" / name).write_text(text)

    return part


@pytest.fixture
def load(folder):
    return lambda: load_config(folder / "muxd.toml", {"HOME": "/home"})


@pytest.fixture
def problems(folder, load):
    """Return a function that returns the problems, with M for the main file and D for the folder beside it."""

    def problems():
        with pytest.raises(ConfigError) as caught:
            load()
        names = (f"{folder}/muxd.d", "D"), (f"{folder}/muxd.toml", "M"), (str(folder), "F")
        return [_replaced(problem, names) for problem in caught.value.problems]

    return problems


def _replaced(text, names):
    for long, short in names:
        text = text.replace(long, short)
    return text


def test_what_is_in_the_folder_is_merged_key_by_key_in_the_order_of_the_names(part, load):
    part("10-policy.toml", "[policy]\nwait_target = 10\n[models.new]\n")
    part(
        "20-policy.toml",
        "[policy]\nwait_target = 20\n[models.qwen]\nmemory.kv = '3GiB'\nenv = { B = '2' }\nargs = []\n",
    )
    part("9-policy.toml", "[policy]\nwait_target = 9\n")  # names are text: after 20
    config = load()
    assert config.policy.wait_target == 9.0
    qwen, new = config.models
    assert qwen.memory == Memory(weights=1 * GiB, kv=3 * GiB)
    assert (qwen.env, qwen.args) == ({"A": "1", "B": "2"}, ())
    assert (new.name, new.engine) == ("new", "simulator")
    assert config.daemon.socket == Path("/s")


def test_the_files_that_were_read_are_told_in_order(part, load, folder):
    assert load().files == (folder / "muxd.toml",)
    part("b.toml", "")
    part("a.toml", "")
    config = load()
    assert config.path == folder / "muxd.toml"
    assert config.files == (folder / "muxd.toml", folder / "muxd.d/a.toml", folder / "muxd.d/b.toml")


@pytest.mark.parametrize("name", [".a.toml", "a.toml~", "a.toml.bak", "#a.toml#", ".#a.toml", "a.TOML", "README"])
def test_what_is_hidden_or_has_another_ending_is_not_read(part, load, folder, name):
    part(name, "this is not TOML")
    assert load().files == (folder / "muxd.toml",)


def test_a_link_to_dev_null_switches_a_file_off(load, folder):
    (folder / "muxd.d/a.toml").symlink_to(os.devnull)
    assert load().files == (folder / "muxd.toml",)


def test_nothing_is_there_without_the_folder(load, folder):
    (folder / "muxd.d").rmdir()
    assert load().files == (folder / "muxd.toml",)


def test_relative_paths_start_where_the_first_file_is(part, load, folder):
    part("a.toml", "[muxd]\nstate_dir = 'state'\n")
    assert load().daemon.state_dir == folder / "state"


def test_a_relative_path_of_the_file_itself_is_no_matter(part, folder, monkeypatch):
    part("a.toml", "[muxd]\nstate_dir = 'state'\n")
    monkeypatch.chdir(folder)
    config = load_config(Path("muxd.toml"), {"HOME": "/home"})
    assert config.files == (folder / "muxd.toml", folder / "muxd.d/a.toml")
    assert config.daemon.state_dir == folder / "state"


def test_every_problem_names_the_file_that_said_it_last(part, problems, folder):
    (folder / "muxd.toml").write_text(MAIN + "port = 7\n[proxy]\nuser = 'nobody-has-it'\n")
    part("10.toml", "[policy]\nwait_target = 'x'\n\n[models.qwen]\npreload = 1\n")
    part("20.toml", "[policy]\nwait_taget = 2\n[models.qwen]\nport = 'seven'\n[models.two]\nport = 8\n")
    part("30.toml", "[models.three]\nport = 8\n")
    assert problems() == [
        "M:13: proxy.user: no user nobody-has-it; create it with: useradd --system nobody-has-it",
        'D/10.toml:2: policy.wait_target: "x" is not a duration; write seconds or "90s", "5min", "2h"',
        "D/10.toml:5: models.qwen.preload: 1 is neither true nor false; write true or false without quotes",
        "D/20.toml:2: policy.wait_taget: unknown key; did you mean wait_target?",
        'D/20.toml:4: models.qwen.port: "seven" is not a whole number; write one from 0 to 65535',
        "D/30.toml:2: models.three.port: 8 is already the port of model two; use another, "
        "or leave it out and muxd chooses one",
    ]


def test_a_key_within_an_inline_table_is_the_files_that_has_it(part, problems):
    part("10.toml", "[models.qwen.memory]\nkv = '1GiB'\n")
    part("20.toml", "# a line\n[models.qwen]\nmemory = { kv = 'much' }\n")
    part("30.toml", "[models.qwen.memory]\nweights = '1GiB'\n")
    assert problems() == ['D/20.toml:3: models.qwen.memory.kv: "much" is not a size; write bytes or "38GiB", "512MiB"']


def test_what_is_missing_is_missing_where_the_table_first_stands(part, problems, folder):
    part("10.toml", "[models.real]\nengine = 'sglang'\npython = 'sh'\n")
    part("20.toml", "[models.real]\npreload = true\n")
    assert problems()[0] == (
        "D/10.toml:1: models.real.model_path: missing; give a local directory or a Hub id such as Qwen/Qwen3-14B"
    )


def test_the_limit_that_was_written_is_to_blame_not_the_one_that_was_not(part, problems):
    part("10.toml", "[proxy]\nlisten = '127.0.0.1:1'\n")
    part("20.toml", "[proxy]\nbuffer_memory = '1MiB'\n")
    assert problems() == [
        "D/20.toml:2: proxy.buffer_memory: 1MiB is less than max_body, 64MiB; raise it or lower max_body"
    ]


def test_a_table_that_a_later_file_makes_a_value_is_its_fault(part, problems):
    part("10.toml", "models = 3\n")
    assert (
        "D/10.toml:1: models: 3 is not a table; write [models.NAME] for each model, and below it model_path = ..."
        in problems()
    )


def test_all_files_that_are_not_toml_are_told(part, problems, folder):
    part("10.toml", "[policy]\nwait_target =\n")
    part("20.toml", "[policy]\n")
    (folder / "muxd.d/30.toml").write_bytes(b"\n# \xff\n")
    (folder / "muxd.toml").write_text("[policy\n")
    assert problems() == [
        "M:1: not TOML: Expected ']' at the end of a table declaration; write ] at its end",
        "D/10.toml:2: not TOML: Invalid value; correct this line",
        "D/30.toml:2: not UTF-8; save the file as UTF-8",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "\ufeff\ufeff[muxd]",
            "F:1: not TOML: Invalid statement; column 1 has U+FEFF (ZERO WIDTH NO-BREAK SPACE): remove",
        ),
        ("[muxd]\n\ufeff[policy]", "F:2: not TOML: Invalid statement; column 1 has U+FEFF"),
        ("[muxd]\nsocket\xa0= 'x'", "column 7 has U+00A0 (NO-BREAK SPACE): remove it, or write a space"),
        ("[muxd]\nsocket = \u201cx\u201d", 'column 10 has U+201C (LEFT DOUBLE QUOTATION MARK): write "'),
        ("[muxd]\nsocket = \u2018x\u2019", "column 10 has U+2018 (LEFT SINGLE QUOTATION MARK): write '"),
        (
            "[muxd]\nsocket = \u201ex\u201c",
            'column 10 has U+201E (DOUBLE LOW-9 QUOTATION MARK): write "; column 12 has U+201C (',
        ),
        ("[muxd]\nsocket = ['\u201e', \u201ex']", "Invalid value; column 16 has U+201E (DOUBLE LOW-9 QUOTATION"),
        ("[muxd]\nsocket = ['x'\uff0c'y']", "Unclosed array; column 14 has U+FF0C (FULLWIDTH COMMA): write ,"),
        ("[muxd]\nsocket = `x`", "column 10 has U+0060 (GRAVE ACCENT): write '; column 12 has"),
        (
            "muxd:\n  socket: x\n",
            "this looks like YAML: muxd import llama-swap reads llama-swap's; or write TOML, see muxd init --print",
        ),
        (
            '{"muxd": {}}',
            "this looks like JSON: muxd import llmux reads llmux's; or write it as TOML, see muxd init --print",
        ),
        ("[muxd]\nsocket = # \u201c", "Invalid value; correct this line"),
        ("[muxd]\nsocket = 'x'\0", "column 13 has U+0000 (a control character): remove it, or write a space"),
        ("[muxd]\r\nsocket = x\r\n", 'F:2: not TOML: Invalid value; text is written in quotes: "x"'),
        ("[proxy]\nmanaged = True", "F:2: not TOML: Invalid value; write true, in lower case"),
        ("[proxy]\nmanaged = no # x", "F:2: not TOML: Invalid value; write false, in lower case"),
        ("[proxy]\nuser = None", "TOML has no such value; leave the key out"),
        ("[muxd]\nsocket: 'x'", "write socket = ..., with = in the place of :"),
        ('[muxd]\nsocket = "x\n', "F:2: not TOML: Illegal character '\\n'; a quotation mark is missing at its end"),
        ("[muxd]\nsocket = 'x\n", "a quotation mark is missing at its end"),
        ("[muxd]\nsocket = 'x\na = 'b'\n", "F:2: not TOML: Found invalid character '\\n'; a quotation mark is missing"),
        (
            "[models.a]\nargs = ['--x'\nport = 3",
            "F:3: not TOML: Unclosed array; a comma is missing before this, or the ]",
        ),
        ("[models.a b]", "a name with a blank in it is written in quotes"),
        ("[models.a", "write ] at its end"),
    ],
)
def test_what_cannot_be_seen_or_only_looks_like_toml_is_named(tmp_path, text, told):
    """Check that the message names the character: in an editor the line looks right."""
    file = tmp_path / "F"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(file, {})
    assert told in caught.value.message


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
def test_other_encodings_of_unicode_are_named(tmp_path, encoding):
    file = tmp_path / "F"
    file.write_bytes("[muxd]\n".encode(encoding))
    with pytest.raises(ConfigError) as caught:
        load_config(file, {})
    assert "F:1: UTF-16 or UTF-32, not UTF-8; save the file as UTF-8" in caught.value.message


def test_a_file_without_an_end_is_not_read_for_ever():
    with pytest.raises(ConfigError, match="/dev/zero: has more than 16 MiB, as no configuration has"):
        load_config(Path("/dev/zero"), {})


def test_what_is_no_file_is_told_and_never_opened(problems, folder):
    os.mkfifo(folder / "muxd.d/a.toml")
    (folder / "muxd.d/b.toml").mkdir()
    (folder / "muxd.d/c.toml").symlink_to("gone")
    (folder / "muxd.d/d.toml").symlink_to("d.toml")
    assert problems() == [
        "D/a.toml: not a file; move it to another folder",
        "D/b.toml: not a file; move it to another folder",
        "D/c.toml: cannot be read: No such file or directory; correct the link, or remove it",
        "D/d.toml: cannot be read: Too many levels of symbolic links; correct the link, or remove it",
    ]


def test_a_file_in_place_of_the_folder_is_told(problems, folder):
    (folder / "muxd.d").rmdir()
    (folder / "muxd.d").touch()
    assert problems() == ["D: cannot be read: Not a directory; correct the path, or what is there"]


def test_who_may_read_what_we_may_not_is_told(part, problems, folder, monkeypatch):
    part("a.toml", "")
    (folder / "muxd.d/a.toml").chmod(0o600)
    opened = Path.open

    def refuse(path: Path, mode: str) -> IO[bytes]:
        if path.name == "a.toml":
            raise PermissionError(13, "Permission denied")
        return opened(path, mode)

    monkeypatch.setattr(Path, "open", refuse)
    owner = pwd.getpwuid(os.geteuid()).pw_name
    assert problems() == [
        f"D/a.toml: cannot be read: Permission denied: -rw------- {owner}; run this as {owner}, "
        "or let muxd's user read it (chown, chgrp)"
    ]


def test_what_may_not_be_read_is_told(part, problems, folder):
    part("a.toml", "")
    owner = pwd.getpwuid(folder.stat().st_uid).pw_name
    denied, who = "cannot be read: Permission denied:", f"{owner}; run this as {owner}, or let muxd's user"
    for place, mode, told in (
        ("muxd.d/a.toml", 0, f"D/a.toml: {denied} ---------- {who} read it (chown, chgrp)"),
        ("muxd.d", 0, f"D: {denied} d--------- {who} read it (chown, chgrp)"),
        ("muxd.d", 0o444, f"D/a.toml: {denied} D is dr--r--r-- {who} enter it (chown, chgrp)"),
        (".", 0, f"M: {denied} F is d--------- {who} enter it (chown, chgrp)"),
    ):
        with closed(folder / place, mode):
            assert problems() == [told]


@pytest.mark.parametrize(
    "text", ["[a" + ".a" * 5000 + "]", "a = " + "[" * 5000 + "]" * 5000, "a = " + "[" * 30 + "]" * 30]
)
def test_tables_without_end_are_told(part, problems, text):
    part("a.toml", text)
    assert problems() == ["D/a.toml: not usable: nested too deeply; write plain tables"]


def test_a_broken_file_beside_it_does_not_hide_what_the_first_one_says(part, folder):
    part("a.toml", "=")
    part("b.toml", "[models.b]")
    config = salvage_config(folder / "muxd.toml", {})
    assert [model.name for model in config.models] == ["qwen", "b"]


def test_a_second_load_sees_what_has_changed_since(part, load, folder):
    assert load().policy.wait_target == 1.0
    part("a.toml", "[policy]\nwait_target = 2\n")
    assert load().policy.wait_target == 2.0
    (folder / "muxd.d/a.toml").unlink()
    assert load().policy.wait_target == 1.0


def test_a_proxy_of_its_own_reads_them_too(part, folder):
    part("a.toml", "[proxy]\nlisten = '127.0.0.1:1234'\n")
    assert load_proxy_config(folder / "muxd.toml", {}).proxy.port == 1234


def test_muxds_own_proxy_has_all_it_needs_in_the_file_it_was_given(part, load, folder):
    config = load()
    write_for_proxy(config, folder / "proxy.toml")
    part("a.toml", "[proxy]\nlisten = '127.0.0.1:1234'\n")
    part("b.toml", "half edit")
    given = load_proxy_config(folder / "proxy.toml", {})
    assert given.proxy == config.proxy
    assert given.files == (folder / "proxy.toml",)
