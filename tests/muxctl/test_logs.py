import errno
import json
import os
import signal
from datetime import datetime

import pytest

from muxd.shim.log import Log

from .fake_muxd import FakeMuxd


def write(path, *pieces):
    """Write a log as its shim would, each piece at its second since 1970."""
    log = Log(str(path), 1 << 20, 1)
    for came, data in pieces:
        log.write(data, came * 1_000_000_000)


LINES = [{"stream": "stdout", "line": "hello"}, {"stream": "stderr", "line": "\x1b[32mloading\x1b[0m é"}]


def test_muxd_is_asked_when_it_is_up(muxd, muxctl):
    muxd.scripts["GET /v1/models/qwen/logs?lines=100&follow=0&stream=both"] = lambda talk: talk.json({"lines": LINES})
    assert muxctl("logs", "qwen") == (0, "hello\n\x1b[32mloading\x1b[0m é\n", "")
    code, out, _ = muxctl("logs", "qwen", "--json")
    assert (code, [json.loads(line) for line in out.splitlines()]) == (0, LINES)


def test_the_options_are_passed_on(muxd, muxctl):
    muxd.scripts["GET /v1/models/a%2Fb/logs?lines=5&follow=0&stream=stderr"] = lambda talk: talk.json({"lines": []})
    assert muxctl("logs", "a/b", "-n", "5", "--stream", "stderr") == (
        0,
        "",
        "muxctl: a/b has written nothing so far to stderr\n",
    )


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


STEERING = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\u202e\u2066\u2028\x7f\x00 a\tprompt é 模型 👩\u200d🔬"
SHOWN = r"\x1b]0;owned\x07\x1b[2J\x9b31m\r\u202e\u2066\u2028\x7f\x00" " a\tprompt é 模型 👩\u200d🔬"


def test_on_a_terminal_what_steers_it_is_written_out(muxd, terminal):
    lines = [{"stream": "stdout", "line": STEERING}]
    muxd.scripts["GET /v1/models/qwen/logs?lines=100&follow=0&stream=both"] = lambda talk: talk.json({"lines": lines})
    shown = terminal("--socket", str(muxd.path), "logs", "qwen", env={"PYTHONUTF8": "1"})
    assert shown.ended() == 0
    assert shown.text.expandtabs() == f"{SHOWN}\r\n".expandtabs()
    raw = terminal("--socket", str(muxd.path), "logs", "qwen", "--raw", env={"PYTHONUTF8": "1"})
    assert raw.ended() == 0
    assert raw.text.expandtabs() == f"{STEERING}\r\n".expandtabs()


def test_what_is_followed_on_a_terminal_is_written_out_too(muxd, terminal):
    def script(talk):
        talk.stream()
        talk.chunk({"stream": "stdout", "line": "\x1b[2Jfirst"}, {"missed": 3})

    muxd.scripts["GET /v1/models/qwen/logs?lines=100&follow=1&stream=both"] = script
    shown = terminal("--socket", str(muxd.path), "logs", "qwen", "-f")
    assert shown.ended() == 7
    assert shown.text.startswith("\\x1b[2Jfirst\r\n... 3 lines were missed\r\n")


def test_files_on_a_terminal_are_written_out_too(elsewhere, terminal):
    (elsewhere / "qwen.stdout.log").write_text("\x1b[2Jfirst\n")
    shown = terminal("logs", "qwen", "--log-dir", str(elsewhere))
    assert shown.ended() == 0
    assert shown.text == "\\x1b[2Jfirst\r\n"


def test_of_several_workers_each_line_has_its_workers_name(muxd, muxctl):
    lines = [{"stream": "qwen/0 stderr", "line": "loading"}, {"stream": "qwen/router stdout", "line": "listening"}]
    muxd.scripts["GET /v1/models/qwen/logs?lines=100&follow=0&stream=both"] = lambda talk: talk.json({"lines": lines})
    assert muxctl("logs", "qwen") == (0, "qwen/0: loading\nqwen/router: listening\n", "")


def test_a_log_with_nothing_in_it_says_so(muxd, muxctl):
    target = "GET /v1/models/qwen/logs?lines=100&follow=0&stream=both"
    muxd.scripts[target] = lambda talk: talk.json({"lines": []})
    assert muxctl("logs", "qwen") == (0, "", "muxctl: qwen has written nothing so far\n")


def test_what_the_disk_refused_is_told_below_what_there_is(muxd, muxctl):
    lost = {"bytes": 105, "reason": "no space left on device"}
    target = "GET /v1/models/qwen/logs?lines=100&follow=0&stream=both"
    said = "muxctl: 105 bytes of the log of qwen were lost: no space left on device\n"
    muxd.scripts[target] = lambda talk: talk.json({"lines": [], "lost": lost})
    assert muxctl("logs", "qwen") == (0, "", said)
    muxd.scripts[target] = lambda talk: talk.json({"lines": LINES[:1], "lost": lost})
    assert muxctl("logs", "qwen") == (0, "hello\n", said)


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
        (directory / "qwen.stderr.log").write_text("e1\ne2\n")  # nobody has kept when they came, but by when
        for came_by, name in enumerate(("qwen.stdout.log.1", "qwen.stdout.log", "qwen.stderr.log"), 100):
            os.utime(directory / name, (came_by, came_by))
        return directory

    def test_the_files_are_read_instead(self, log_dir, muxctl):
        assert muxctl("logs", "qwen") == (0, "1\n2\n3\n4\ne1\ne2\n", "")
        assert muxctl("logs", "qwen", "-n", "3", "--stream", "stdout") == (0, "2\n3\n4\n", "")
        assert muxctl("logs", "qwen", "-n", "1", "--json")[1].splitlines() == [
            '{"stream": "stderr", "line": "e2", "time": null}'
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

    def test_those_of_muxds_own_processes_are_found(self, log_dir, muxctl):
        for file, typed in (("muxd-proxy", "proxy"), ("muxd", "muxd"), ("muxd-ui", "ui")):
            (log_dir / f"{file}.stderr.log").write_text(f"this is {typed}\n")
            assert muxctl("logs", typed) == (0, f"this is {typed}\n", "")
        assert muxctl("logs", "router")[0] == 4
        (log_dir / "qwen@router.stderr.log").write_text("routing\n")
        assert muxctl("logs", "router") == (0, "qwen/router: routing\n", "")

    def test_without_a_name_those_of_all_are_merged_in_time(self, log_dir, muxctl):
        write(log_dir / "muxd-proxy.stdout.log", (2, b"request\n"), (5, b"another\n"))
        write(log_dir / "qwen@0.stderr.log", (1, b"loading\n"), (3, b"loa"), (6, b"ded\n"))
        for old in log_dir.glob("qwen.*"):
            old.unlink()
        assert muxctl("logs", "-n", "3") == (0, "proxy: request\nqwen/0: loaded\nproxy: another\n", "")
        code, out, _ = muxctl("logs", "-t", "--since", "1970-01-01T00:00:03+00:00")
        lines = [line.split(" ", 1) for line in out.splitlines()]
        assert (code, [text for _, text in lines]) == (0, ["qwen/0: loaded", "proxy: another"])
        assert [datetime.fromisoformat(came).timestamp() for came, _ in lines] == [3.0, 5.0]
        assert muxctl("logs", "--until", "1970-01-01T00:00:02Z") == (0, "qwen/0: loading\n", "")
        said = f"muxctl: nobody has written anything in that time into the files in {log_dir}\n"
        assert muxctl("logs", "--since", "10min") == (0, "", said)

    def test_a_line_without_a_time_has_a_place_for_it(self, log_dir, muxctl):
        assert muxctl("logs", "qwen", "-n1", "-t") == (0, "----------------------------- e2\n", "")

    def test_those_of_several_processes_of_the_proxy_are_shown_with_their_names(self, log_dir, muxctl):
        for came, number in enumerate((2, 10, 1), 1):
            write(log_dir / f"muxd-proxy-{number}.stdout.log", (came, b"request %d\n" % number))
        write(log_dir / "muxd-proxy-2.stderr.log", (2, b"listening\n"))
        shown = ["2: request 2", "10: request 10", "2: listening", "1: request 1"]
        assert muxctl("logs", "proxy") == (0, "".join(f"muxd-proxy-{line}\n" for line in shown), "")
        assert muxctl("logs", "proxy", "--stream", "stderr") == (0, "muxd-proxy-2: listening\n", "")

    def test_empty_files_say_so(self, log_dir, muxctl):
        (log_dir / "qwen.stderr.log").write_text("")
        said = f"muxctl: qwen has written nothing so far to stderr into the files in {log_dir}\n"
        assert muxctl("logs", "qwen", "--stream", "stderr") == (0, "", said)

    @pytest.mark.parametrize("refuses", ["muxd.logfiles.FileIO", "pathlib.Path.exists"])  # the file, its folder
    def test_files_that_may_not_be_read_are_told_in_words(self, log_dir, muxctl, monkeypatch, refuses):
        def refuse(path, *args, **options):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

        monkeypatch.setattr(refuses, refuse)
        code, out, err = muxctl("logs", "qwen")
        assert (code, out) == (5, "")
        assert err.startswith("muxctl: muxd is not running, and your user may not read its logs (/")
        assert err.endswith(".log: permission denied): use sudo, or be the user that muxd runs as\n")

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


def test_without_a_name_it_is_the_log_of_all_each_line_behind_its_models_name(muxd, muxctl):
    lines = [{"stream": "qwen stdout", "line": "ready"}, {"stream": "llama/0 stderr", "line": "loading"}]
    muxd.scripts["GET /v1/logs?lines=100&follow=0&stream=both"] = lambda talk: talk.json({"lines": lines})
    assert muxctl("logs")[:2] == (0, "qwen: ready\nllama/0: loading\n")


def test_without_muxd_and_without_logs_that_is_said(muxctl):
    code, _, err = muxctl("logs")
    assert (code, "muxd is not running, and there are no logs in" in err) == (1, True)


def test_a_time_is_passed_on_and_its_lines_come_as_a_stream(muxd, muxctl):
    def script(talk):
        talk.stream()
        talk.chunk({"stream": "qwen stdout", "line": "ready", "time": 100.25})
        talk.end()

    muxd.scripts["GET /v1/logs?since=100.0&until=200.0&follow=0&stream=both"] = script
    times = ("--since", "1970-01-01T00:01:40Z", "--until", "1970-01-01T00:03:20Z")
    code, out, err = muxctl("logs", "-t", *times)
    when, text = out.split(" ", 1)
    assert (code, text, err) == (0, "qwen: ready\n", "")
    assert datetime.fromisoformat(when).timestamp() == 100.25


def test_times_that_say_nothing_are_usage_errors(muxctl):
    said = "muxctl: --until is no later than --since: nothing is between them\n"
    assert muxctl("logs", "--since", "5min", "--until", "10min") == (2, "", said)
    assert muxctl("logs", "--since", "")[0] == 2


def test_what_is_followed_has_no_end(muxctl):
    assert muxctl("logs", "-f", "--until", "10min") == (2, "", "muxctl: -f goes on for ever: leave --until out\n")
