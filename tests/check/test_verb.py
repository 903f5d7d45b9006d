import os

from muxd.check.verb import check
from muxd.importers.drop_in import SglangmuxArgs


def test_a_good_file_is_a_table_and_exit_0(tmp_path, capsys):
    file = tmp_path / "muxd.toml"
    file.write_text(
        "[muxd]\nsocket = '/s'\n[models.a]\nengine = 'simulator'\n[models.long-one]\nengine = 'simulator'\n"
    )
    assert check(file, {"HOME": str(tmp_path)}) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines() == [
        f"{file}: 2 models, proxy 127.0.0.1:30100",
        "  ok    GPUs      0: simulated, 80.0 GiB each",
        "  ok    a         simulated on GPU 0",
        "  ok    long-one  simulated on GPU 0",
        "  ok    port      30100 is free",
        "  ok    socket    /s",
    ]


def test_the_files_that_were_merged_are_told(tmp_path, capsys):
    file = tmp_path / "muxd.toml"
    file.write_text("[muxd]\nsocket = '/s'\n[models.a]\nengine = 'simulator'\n")
    (tmp_path / "muxd.d").mkdir()
    for name in ("b.toml", "a.toml", "b.toml~"):
        (tmp_path / "muxd.d" / name).write_text("[models.b]\nengine = 'simulator'\n")
    assert check(file, {}, host=False) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{file}: 2 models, proxy 127.0.0.1:30100",
        f"  ok    files   {tmp_path}/muxd.d/a.toml: merged into it",
        f"  ok    files   {tmp_path}/muxd.d/b.toml: merged into it",
        "  ok    socket  /s",
    ]


def test_a_path_that_is_not_utf_8_can_be_told(tmp_path, capsys):
    folder = tmp_path / os.fsdecode(b"m\xff")
    folder.mkdir()
    file = folder / "muxd.toml"
    file.write_text("[models.a]\nengine = 'simulator'\n")
    assert check(file, {"HOME": "/h"}) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path}/m\\udcff/muxd.toml: 1 model, proxy")


def test_problems_of_the_files_stand_in_the_table_with_those_of_the_machine_and_exit_2(tmp_path, capsys):
    file = tmp_path / "muxd.toml"
    file.write_text(
        "[muxd]\nothers = 'all'\nsocket = '/s'\n[models.z]\nprot = 1\nengine = 'simulator'\n"
        "[models.a]\nengine = 'simulator'\nmemory = { weights = '81GiB' }\n"
    )
    assert check(file, {}, host=False) == 2
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines() == [
        f"{file}: 2 models, proxy 127.0.0.1:30100",
        f'  WRONG muxd    {file}:2: muxd.others: "all" is not known; use "read" or "none"',
        f"  WRONG z       {file}:5: models.z.prot: unknown key; did you mean port?",
        f"  WRONG a       {file}:9: needs 81.0 GiB, GPU 0 has 80.0 GiB: it can never be loaded; "
        "give it more gpus, or correct memory",
        "  ok    socket  /s",
    ]


def test_scripts_alone_need_no_file(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.sh").write_text("MODEL_NAME=org/a\nPORT=30007\n./serve --port $PORT\n")
    assert check(None, {"HOME": "/h", "PATH": "/bin:/usr/bin"}, SglangmuxArgs((tmp_path / "a.sh",)), host=False) == 0
    assert capsys.readouterr().out.splitlines()[0] == "1 model, proxy 127.0.0.1:30100"


def test_no_file_is_told_like_any_other_problem(tmp_path, capsys):
    assert check(tmp_path / "none.toml", {}) == 2
    assert capsys.readouterr().err == f"{tmp_path}/none.toml: no such file; correct the path\n"


def test_many_models_that_are_as_they_should_be_are_one_line(tmp_path, capsys):
    file = tmp_path / "muxd.toml"
    bad = "[models.z]\nengine = 'simulator'\nmemory = { weights = '90GiB' }\n"
    file.write_text(bad + "".join(f"[models.k{number}]\nengine = 'simulator'\n" for number in range(60)))
    check(file, {"HOME": str(tmp_path)})
    lines = capsys.readouterr().out.splitlines()
    assert "  ok    models  60 are as they should be" in lines
    assert [line.split()[:2] for line in lines if " k" in line or " z " in line] == [["WRONG", "z"]]
