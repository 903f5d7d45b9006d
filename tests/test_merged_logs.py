"""Lines of several logs, in the order in which they came."""

import random
import time
from pathlib import Path

import pytest

from muxd.merged_logs import SETTLED, LogWindow, MergedLogs
from muxd.shim.log import Log

SECOND = 1_000_000_000
ALL = LogWindow()


def told(files: dict[str, Path], window: LogWindow) -> list[tuple[str, str, float | None]]:
    with MergedLogs(files, window) as merged:
        return [(line["stream"], line["line"], line["time"]) for line in merged.rest()]


def lines_of(files: dict[str, Path], window: LogWindow) -> list[str]:
    return [line for _, line, _ in told(files, window)]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Logs of which stdout is rotated every 300 bytes, with a line for each second from 100 to 299, in turns."""
    paths = {stream: tmp_path / f"qwen.{stream}.log" for stream in ("stdout", "stderr")}
    logs = {"stdout": Log(str(paths["stdout"]), 300, 100), "stderr": Log(str(paths["stderr"]), 1 << 20, 1)}
    for number in range(100, 300):
        logs["stdout" if number % 3 else "stderr"].write(b"%d\n" % number, number * SECOND)
    return paths


def test_the_lines_of_all_come_in_their_order_with_their_times(files: dict[str, Path]) -> None:
    assert told(files, ALL) == [("stdout" if n % 3 else "stderr", str(n), float(n)) for n in range(100, 300)]


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (LogWindow(3), range(297, 300)),
        (LogWindow(0), range(0)),
        (LogWindow(None, 250), range(250, 300)),
        (LogWindow(None, 249.5, 252), range(250, 252)),
        (LogWindow(2, 150, 200), range(198, 200)),
        (LogWindow(2, 199, 200), range(199, 200)),
        (LogWindow(5, None, 200), range(195, 200)),
        (LogWindow(None, None, 103), range(100, 103)),
        (LogWindow(None, 300), range(0)),
        (LogWindow(None, None, 100), range(0)),
        (LogWindow(1000, 0, 1e9), range(100, 300)),
        (LogWindow(2, -1e300, 1e300), range(298, 300)),
        (LogWindow(2, 1e300), range(0)),
        (LogWindow(2, 250, 200), range(0)),
    ],
)
def test_a_window_has_the_lines_of_its_time_and_no_other(
    files: dict[str, Path], window: LogWindow, expected: range
) -> None:
    assert lines_of(files, window) == [str(number) for number in expected]


def test_windows_are_right_wherever_lines_and_rotations_fall(tmp_path: Path) -> None:
    """Random lines over rotations, some of them in pieces; each window checked against all lines."""
    chance = random.Random(4)
    for world in range(20):
        paths = {name: tmp_path / f"{world}-{name}.log" for name in "abc"}
        logs = {name: Log(str(path), chance.choice((1500, 5000)), 100) for name, path in paths.items()}
        written: list[tuple[float, str]] = []
        now = 1000
        for number in range(300):
            now += chance.choice((1, 1, 5))
            text = f"{number} {'x' * chance.randrange(40)}"
            log = logs[chance.choice("abc")]
            written.append((float(now), text))
            cut = chance.randrange(len(text))
            log.write(text[:cut].encode(), now * SECOND)
            if cut:  # else its first byte comes with the second piece
                now += chance.choice((0, 1))
            log.write(text[cut:].encode() + b"\n", now * SECOND)
        for _ in range(10):
            since, until = sorted(chance.uniform(990, now + 10) for _ in range(2))
            wanted = [text for came, text in written if since <= came < until]
            lines = chance.choice((None, 3, 50))
            expected = wanted if lines is None else wanted[-lines:]
            assert lines_of(paths, LogWindow(lines, since, until)) == expected


def test_a_line_that_began_before_the_time_is_left_out_whole(tmp_path: Path) -> None:
    log = Log(str(tmp_path / "log"), 1000, 1)
    for came, piece in ((10, b"loading "), (20, b"ended\n"), (20, b"next\n")):
        log.write(piece, came * SECOND)
    assert lines_of({"": tmp_path / "log"}, LogWindow(None, 15)) == ["next"]
    assert told({"": tmp_path / "log"}, LogWindow(None, 5)) == [("", "loading ended", 10.0), ("", "next", 20.0)]


def test_a_line_without_an_end_has_its_time_and_place(tmp_path: Path) -> None:
    paths = {name: tmp_path / name for name in "ab"}
    Log(str(paths["a"]), 1000, 1).write(b"prompt> ", 10 * SECOND)
    Log(str(paths["b"]), 1000, 1).write(b"later\n", 20 * SECOND)
    assert told(paths, ALL) == [("a", "prompt> ", 10.0), ("b", "later", 20.0)]


def test_lines_of_an_earlier_muxd_have_no_time_and_come_before_those_that_have(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"old\n")
    Log(str(path), 1000, 1).write(b"new\n", 20 * SECOND)
    assert told({"": path}, ALL) == [("", "old", None), ("", "new", 20.0)]
    assert lines_of({"": path}, LogWindow(None, 21)) == []


def test_an_index_of_another_file_gives_no_times(tmp_path: Path) -> None:
    path = tmp_path / "log"
    Log(str(path), 1000, 1).write(b"moved away by logrotate\n", 20 * SECOND)
    path.rename(tmp_path / "elsewhere")
    path.write_bytes(b"by hand\n")
    assert told({"": path}, ALL) == [("", "by hand", None)]
    Log(str(path), 1000, 1).write(b"new\n", 30 * SECOND)
    assert told({"": path}, ALL) == [("", "by hand", None), ("", "new", 30.0)]


@pytest.mark.parametrize("damage", [b"", b"x", b"muxdtime", b"\xff" * 100])
def test_a_damaged_index_costs_times_and_no_lines(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "log"
    log = Log(str(path), 1000, 1)
    log.write(b"one\n", 20 * SECOND)
    (tmp_path / ".log.times").write_bytes(damage)
    assert told({"": path}, ALL) == [("", "one", None)]
    Log(str(path), 1000, 1).write(b"two\n", 30 * SECOND)
    assert told({"": path}, ALL) == [("", "one", None), ("", "two", 30.0)]


def test_an_index_that_a_full_disk_has_cut_goes_on(tmp_path: Path) -> None:
    path, index = tmp_path / "log", tmp_path / ".log.times"
    Log(str(path), 1000, 1).write(b"one\n", 20 * SECOND)
    index.write_bytes(index.read_bytes() + b"cut")
    Log(str(path), 1000, 1).write(b"two\n", 30 * SECOND)
    assert told({"": path}, ALL) == [("", "one", 20.0), ("", "two", 30.0)]


def test_a_folder_in_the_place_of_the_index_costs_times_and_no_lines(tmp_path: Path) -> None:
    (tmp_path / ".log.times").mkdir()
    Log(str(tmp_path / "log"), 1000, 1).write(b"one\n", 20 * SECOND)
    assert told({"": tmp_path / "log"}, ALL) == [("", "one", None)]


def test_the_index_never_grows_beyond_the_logs_limit(tmp_path: Path) -> None:
    log = Log(str(tmp_path / "log"), 1000, 3)
    for number in range(2000):
        log.write(b"\n", (1000 + number) * SECOND)
    assert {path.name for path in tmp_path.iterdir()} == {
        name for part in ("log", "log.1", "log.2", "log.3") for name in (part, f".{part}.times")
    }
    assert max(path.stat().st_size for path in tmp_path.iterdir()) <= 1000
    times = [time for _, _, time in told({"": tmp_path / "log"}, ALL)]
    assert times == [float(1000 + number) for number in range(2000 - len(times), 2000)]


def test_a_log_that_is_cut_short_in_place_has_times_again(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = Log(str(path), 1000, 1)
    log.write(b"a long line before\n", 20 * SECOND)
    path.write_bytes(b"")  # as copytruncate does
    log.write(b"after\n", 30 * SECOND)
    assert told({"": path}, ALL) == [("", "after", 30.0)]


class TestFollowing:
    def test_what_has_just_come_waits_for_what_came_before_elsewhere(self, tmp_path: Path) -> None:
        paths = {name: tmp_path / name for name in "ab"}
        logs = {name: Log(str(path), 1000, 1) for name, path in paths.items()}
        logs["a"].write(b"old\n", 20 * SECOND)
        with MergedLogs(paths, LogWindow(10)) as merged:
            assert [line["line"] for line in merged.read()] == ["old"]
            now = time.time_ns()
            logs["a"].write(b"second\n", now + 60 * SECOND)  # by a clock that was put back since
            assert merged.read() == []
            logs["b"].write(b"first\n", now - 2 * SETTLED)
            assert [line["line"] for line in merged.read()] == ["first"]
            assert [line["line"] for line in merged.rest()] == ["second"]

    def test_it_begins_with_the_last_lines_of_all(self, files: dict[str, Path]) -> None:
        with MergedLogs(files, LogWindow(4)) as merged:
            assert [line["line"] for line in merged.read()] == ["296", "297", "298", "299"]
            assert merged.read() == []

    def test_of_a_time_all_comes_in_pieces(self, tmp_path: Path) -> None:
        log = Log(str(tmp_path / "log"), 1 << 20, 3)
        for number in range(30_000):
            log.write(b"%d\n" % number, (1000 + number) * SECOND)
        found: list[str] = []
        with MergedLogs({"": tmp_path / "log"}, LogWindow(None, 2000)) as merged:
            while lines := merged.read():
                assert len(lines) <= 4000
                found += [line["line"] for line in lines]
            assert merged.rest() == []
        assert found == [str(number) for number in range(1000, 30_000)]
