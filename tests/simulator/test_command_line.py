import pytest

from muxd.simulator.command_line import parse_flags
from muxd.simulator.faults import FAULTS, parse_faults


def parse(*argv):
    return parse_flags(["--model-path", "m", *map(str, argv)])


def test_flags_of_sglang_that_mean_nothing_here_are_ignored_with_their_values():
    flags = parse("--attention-backend", "triton", "--cuda-graph-bs", "1", "2", "--port", 5, "--trust-remote-code")
    assert flags.port == 5
    assert flags.served_model_name == "m"


def test_paths_of_adapters_enable_them_too():
    assert parse("--lora-paths", "a", "b").enable_lora
    assert parse("--enable-lora").enable_lora
    assert not parse().enable_lora


@pytest.mark.parametrize("argv", [["stray", "--port", "5"], ["--no-such-flag"], ["--port", "x"], ["--tp-size", "0"]])
def test_a_bad_command_line_ends_with_2(argv, capsys):
    with pytest.raises(SystemExit) as end:
        parse(*argv)
    assert end.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_a_model_is_required():
    with pytest.raises(SystemExit):
        parse_flags([])


def test_the_config_file_gives_flags_and_the_command_line_wins(tmp_path):
    file = tmp_path / "server.yaml"
    lines = ["# made by muxd", "admin_api_key: 'k:1'", 'served-model-name: "s"', "port: 7", "enable_memory_saver: true"]
    file.write_text("\n".join([*lines, "enable-weights-cpu-backup: false", ""]))
    flags = parse("--config", file, "--port", 8)
    assert (flags.admin_api_key, flags.served_model_name, flags.port) == ("k:1", "s", 8)
    assert flags.enable_memory_saver
    assert not flags.enable_weights_cpu_backup


@pytest.mark.parametrize(("name", "text"), [("server.conf", "port: 1"), ("missing.yaml", None), ("s.yml", "nonsense")])
def test_a_config_file_that_cannot_be_used_ends_with_2(name, text, tmp_path):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(SystemExit) as end:
        parse("--config", tmp_path / name)
    assert end.value.code == 2


def test_faults_are_read_with_their_values():
    faults = parse_faults(["die-after=2.5", "hang", "hang-on=release", "hang-on=resume", "exit-code=7"])
    assert faults.number("die-after") == 2.5
    assert faults.number("hang") == 0
    assert faults.number("sigstop-self") is None
    assert faults.has("hang-on", "resume")
    assert not faults.has("hang-on", "reload")
    assert faults.exit_code == 7


@pytest.mark.parametrize("text", ["no-such", "die-after", "hang-on=sleep", "oom-text=1", "die-after=-1", "hang=x"])
def test_a_fault_that_makes_no_sense_is_an_error(text):
    with pytest.raises(ValueError, match=text.partition("=")[0]):
        parse_faults([text])
    with pytest.raises(SystemExit):
        parse("--fault", text)


def test_a_fault_with_once_applies_to_the_first_start_only(tmp_path):
    text = f"die-after=1,once={tmp_path / 'marker'}"
    assert parse_faults([text]).has("die-after")
    assert not parse_faults([text]).has("die-after")


def test_a_fault_with_while_applies_to_each_start_that_finds_the_file(tmp_path):
    marker = tmp_path / "marker"
    text = f"die-after=1,while={marker}"
    assert not parse_faults([text]).has("die-after")
    marker.touch()
    assert parse_faults([text]).has("die-after")
    assert parse_faults([text]).has("die-after")
    marker.unlink()
    assert not parse_faults([text]).has("die-after")


def test_every_fault_is_explained_by_help(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    told = capsys.readouterr().out
    assert all(name in told for name in FAULTS)
