import os

from muxd.config.check import check


def test_a_good_file_is_one_line_and_exit_0(tmp_path, capsys):
    file = tmp_path / "muxd.toml"
    file.write_text("[muxd]\nsocket = '/s'\n[models.a]\nengine = 'simulator'\n[models.b]\nengine = 'simulator'\n")
    assert check(file, {}) == 0
    out, err = capsys.readouterr()
    assert (out, err) == (f"{file}: ok: 2 models (a, b), proxy on 127.0.0.1:30100, control socket /s\n", "")


def test_the_files_that_were_merged_are_told(tmp_path, capsys):
    file = tmp_path / "muxd.toml"
    file.write_text("[muxd]\nsocket = '/s'\n[models.a]\nengine = 'simulator'\n")
    (tmp_path / "muxd.d").mkdir()
    for name in ("b.toml", "a.toml", "b.toml~"):
        (tmp_path / "muxd.d" / name).write_text("[models.b]\nengine = 'simulator'\n")
    assert check(file, {}) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{file}: ok: 2 models (a, b), proxy on 127.0.0.1:30100, control socket /s",
        f"{tmp_path}/muxd.d/a.toml: merged into it",
        f"{tmp_path}/muxd.d/b.toml: merged into it",
    ]


def test_a_path_that_is_not_utf_8_can_be_told(tmp_path, capsys):
    folder = tmp_path / os.fsdecode(b"m\xff")
    folder.mkdir()
    file = folder / "muxd.toml"
    file.write_text("[models.a]\nengine = 'simulator'\n")
    assert check(file, {"HOME": "/h"}) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path}/m\\udcff/muxd.toml: ok: 1 model (a)")


def test_a_bad_file_is_all_its_problems_on_stderr_and_exit_2(tmp_path, capsys):
    file = tmp_path / "muxd.toml"
    file.write_text("[muxd]\nothers = 'all'\n")
    assert check(file, {}) == 2
    out, err = capsys.readouterr()
    assert (out, err.splitlines()) == (
        "",
        [
            f"{file}: models: no model; add a table [models.NAME]",
            f'{file}:2: muxd.others: "all" is not known; use "read" or "none"',
        ],
    )


def test_no_file_is_told_like_any_other_problem(tmp_path, capsys):
    assert check(tmp_path / "none.toml", {}) == 2
    assert capsys.readouterr().err == f"{tmp_path}/none.toml: no such file; correct the path given with --config\n"
