import json
import signal

import pytest

from .fake_muxd import FakeMuxd

LINES = [{"stream": "stdout", "line": "hello"}, {"stream": "stderr", "line": "\x1b[32mloading\x1b[0m é"}]


def test_muxd_is_asked_when_it_is_up(muxd, muxctl):
    muxd.scripts["GET /v1/models/qwen/logs?lines=100&follow=0&stream=both"] = lambda talk: talk.json({"lines": LINES})
    assert muxctl("logs", "qwen") == (0, "hello\n\x1b[32mloading\x1b[0m é\n", "")
    code, out, _ = muxctl("logs", "qwen", "--json")
    assert (code, [json.loads(line) for line in out.splitlines()]) == (0, LINES)


def test_the_options_are_passed_on(muxd, muxctl):
    muxd.scripts["GET /v1/models/a%2Fb/logs?lines=5&follow=0&stream=stderr"] = lambda talk: talk.json({"lines": []})
    assert muxctl("logs", "a/b", "-n", "5", "--stream", "stderr") == (0, "", "")


def test_a_model_nobody_knows_is_exit_4(muxd, muxctl):
    target = "GET /v1/models/qwn/logs?lines=100&follow=0&stream=both"
    muxd.scripts[target] = lambda talk: talk.error(404, "model_not_found", "no model qwn; did you mean qwen?")
    assert muxctl("logs", "qwn") == (4, "", "muxctl: no model qwn; did you mean qwen?\n")


def test_following_shows_lines_as_they_come_until_an_interrupt(muxd, process):
    def script(talk):
        talk.stream()
        talk.chunk(*LINES)
        talk.wait_for_close()

    muxd.scripts["GET /v1/models/qwen/logs?lines=100&follow=1&stream=both"] = script
    child = process("--socket", str(muxd.path), "logs", "qwen", "-f")
    assert [child.stdout.readline() for _ in LINES] == ["hello\n", "\x1b[32mloading\x1b[0m é\n"]
    child.send_signal(signal.SIGINT)
    assert child.communicate(timeout=20) == ("", "")
    assert child.returncode == 130


def test_following_says_when_muxd_has_ended(muxd, muxctl):
    def script(talk):
        talk.stream()
        talk.chunk(LINES[0])

    muxd.scripts["GET /v1/models/qwen/logs?lines=100&follow=1&stream=both"] = script
    code, out, err = muxctl("logs", "qwen", "-f")
    assert (code, out) == (7, "hello\n")
    assert err.endswith("closed the connection before its answer was complete\n")


class TestWhileMuxdIsDown:
    @pytest.fixture
    def log_dir(self, elsewhere):
        """The log directory of a muxd that is down, named by a configuration that has a problem, too."""
        directory = elsewhere / "logs"
        directory.mkdir()
        (elsewhere / "work/muxd.toml").write_text(
            f'[muxd]\nlog_dir = "{directory}"\n'
            '[models.qwen]\nmodel_path = "/gone"\nserved_names = ["Qwen/Qwen3-14B"]\n[models.fresh]\n'
        )
        (directory / "qwen.stdout.log.1").write_text("1\n2\n")
        (directory / "qwen.stdout.log").write_text("3\n4\n")
        (directory / "qwen.stderr.log").write_text("e1\ne2\n")
        return directory

    def test_the_files_are_read_instead(self, log_dir, muxctl):
        assert muxctl("logs", "qwen") == (0, "1\n2\n3\n4\ne1\ne2\n", "")
        assert muxctl("logs", "qwen", "-n", "3", "--stream", "stdout") == (0, "2\n3\n4\n", "")
        assert muxctl("logs", "qwen", "-n", "1", "--json")[1].splitlines() == [
            '{"stream": "stdout", "line": "4"}',
            '{"stream": "stderr", "line": "e2"}',
        ]

    def test_a_stale_socket_is_no_obstacle(self, log_dir, muxctl, short_dir, monkeypatch):
        dead = FakeMuxd(short_dir / "dead.sock")
        dead.close()
        monkeypatch.setenv("MUXD_SOCKET", str(dead.path))
        assert muxctl("logs", "qwen", "-n1", "--stream", "stderr") == (0, "e2\n", "")

    def test_a_served_name_finds_its_model(self, log_dir, muxctl):
        assert muxctl("logs", "Qwen/Qwen3-14B", "-n1", "--stream", "stderr") == (0, "e2\n", "")

    def test_a_directory_can_be_named(self, log_dir, muxctl, elsewhere):
        (elsewhere / "work/muxd.toml").unlink()
        assert muxctl("logs", "qwen", "-n1", "--stream", "stderr", "--log-dir", str(log_dir)) == (0, "e2\n", "")

    def test_without_a_configuration_the_usual_places_are_searched(self, muxctl, elsewhere):
        usual = elsewhere / "home/.local/state/muxd/logs"
        assert muxctl("logs", "a")[2] == (
            f"muxctl: muxd is not running, and there is no log of a in {usual}, {elsewhere}/system/logs; "
            "--log-dir names another place\n"
        )
        (elsewhere / "system/logs").mkdir(parents=True)
        (elsewhere / "system/logs/a.stderr.log").write_text("there\n")
        assert muxctl("logs", "a") == (0, "there\n", "")

    @pytest.mark.parametrize(("name", "code"), [("fresh", 1), ("qwn", 4), ("../logs/qwen", 4), (".", 4)])
    def test_a_model_without_a_log_is_told_apart_from_no_model(self, log_dir, muxctl, name, code):
        found, out, err = muxctl("logs", name)
        assert (found, out) == (code, "")
        assert f"there is no log of {name} in {log_dir}" in err

    def test_following_shows_what_is_appended_until_an_interrupt(self, log_dir, process):
        child = process("logs", "qwen", "-f", "-n", "1", "--stream", "stdout", "--log-dir", str(log_dir))
        assert child.stdout.readline() == "4\n"
        file = log_dir / "qwen.stdout.log"
        with file.open("a") as log:
            log.write("begun")
        with file.open("a") as log:
            log.write(" and ended\n")
        assert child.stdout.readline() == "begun and ended\n"
        child.send_signal(signal.SIGINT)
        assert child.communicate(timeout=20) == ("", "")
        assert child.returncode == 130


def test_lines_that_are_no_number_are_a_usage_error(muxctl):
    code, _, err = muxctl("logs", "qwen", "-n", "many")
    assert (code, err.splitlines()[-1]) == (
        2,
        "muxctl logs: error: argument -n/--lines: 'many' is not a number of lines",
    )
