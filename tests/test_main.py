"""`muxd`'s command line: what is typed a little wrong gets what was meant."""

import sys

import pytest

from muxd.__main__ import main

MODELS = "[models.a]\nengine = 'simulator'\n"


@pytest.fixture
def muxd(monkeypatch, capsys, tmp_path):
    """`muxd(*words)` in an empty directory: its exit status, its stdout and the last line of its stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["muxd", *words])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        return end.value.code, out, err.splitlines()[-1] if err else ""

    return run


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["strat"], "did you mean muxd start?"),
        (["chekc", "--config", "x"], "did you mean muxd check?"),
        (["status"], "that is `muxctl status`"),
        (["reload"], "that is `muxctl reload`"),
        (["statuss"], "did you mean muxctl status?"),
        (["stop"], "`muxctl shutdown` stops muxd"),
        (["muxd.toml"], "write `muxd start muxd.toml`"),
        (["frobnicate"], "there are start, proxy, check, init"),
        (["start", "--confg", "x"], "did you mean --config?"),
        (["check", "--listn-port=3"], "did you mean --listen-port?"),
    ],
)
def test_a_slip_is_told_with_what_was_meant(muxd, words, meant):
    status, _, said = muxd(*words)
    assert status == 2
    assert meant in said


def test_a_toml_file_among_the_scripts_is_the_configuration(muxd, tmp_path):
    (tmp_path / "mine.TOML").write_text(MODELS + "prot = 1\n")
    for command in ("check", "start"):
        status, out, said = muxd(command, "mine.TOML")
        assert (status, "did you mean port?" in out + said) == (2, True)


@pytest.mark.parametrize("words", [["a.toml", "b.toml"], ["--config", "a.toml", "b.toml"]])
def test_one_configuration_at_a_time(muxd, words):
    status, _, said = muxd("check", *words)
    assert (status, "a.toml and b.toml: one configuration" in said) == (2, True)
