"""Logs that the disk refuses: told once for each time that it begins, and when it is over."""

from pathlib import Path

from muxd.children import Dropped
from muxd.log_losses import Losses

LOGS = Path("/var/log/muxd")
LOST = "its log in /var/log/muxd cannot be written, what it says is lost until it can be:"
FULL, BROKEN = "no space left on device", "input/output error"


def told(caplog):
    lines = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return lines


def test_a_loss_is_told_when_it_begins_when_it_ends_and_when_it_begins_again(caplog):
    caplog.set_level("INFO")
    losses = Losses(LOGS, lambda kind, **facts: None)
    losses.look([("qwen", Dropped()), ("llama", Dropped())], 0.0)
    assert told(caplog) == []
    losses.look([("qwen", Dropped(5, FULL, True)), ("llama", Dropped())], 0.0)
    assert told(caplog) == [f"qwen: {LOST} {FULL}; see to that disk"]
    losses.look([("qwen", Dropped(9, FULL, True)), ("llama", Dropped(1, BROKEN, True))], 0.0)
    assert told(caplog) == [f"llama: {LOST} {BROKEN}; see to that disk"]
    losses.look([("qwen", Dropped(9, FULL, False)), ("llama", Dropped(1, BROKEN, True))], 0.0)
    assert told(caplog) == ["qwen: its log is written again; 9 bytes were lost so far"]
    losses.look([("qwen", Dropped(9, FULL, False)), ("llama", Dropped(1, BROKEN, True))], 0.0)
    assert told(caplog) == []
    losses.look([("qwen", Dropped(10, FULL, True))], 0.0)
    assert len(told(caplog)) == 1


def test_a_loss_that_began_and_ended_between_two_looks_is_told(caplog):
    losses = Losses(LOGS, lambda kind, **facts: None)
    losses.look([("qwen", Dropped(4, BROKEN))], 0.0)
    losses.look([("qwen", Dropped(9, FULL))], 0.0)
    assert told(caplog) == [
        f"qwen: 4 bytes of its log were lost: {BROKEN}",
        f"qwen: 5 bytes of its log were lost: {FULL}",
    ]


def test_what_is_dropped_adds_up_and_the_last_reason_stays():
    assert Dropped(3, BROKEN).after(Dropped(4, FULL, True)) == (7, BROKEN, False)
    assert Dropped(going_on=True).after(Dropped(4, FULL)) == (4, FULL, True)


def test_a_loss_is_an_event_and_is_known_by_its_time():
    events = []
    losses = Losses(LOGS, lambda kind, model, bytes, reason: events.append((kind, model, bytes, reason)))
    assert losses.ago(["qwen"], 5) is None
    losses.look([("qwen", Dropped())], 5)
    losses.look([("qwen", Dropped(5, FULL, True))], 10)
    losses.look([("qwen", Dropped(9, FULL, True))], 20)
    losses.look([("qwen", Dropped(9, FULL, False))], 30)
    losses.look([("qwen", Dropped(9, FULL, False))], 40)
    losses.look([("qwen", Dropped(12, FULL, False))], 50)
    assert losses.ago(["other", "qwen"], 53) == 3
    assert events == [
        ("log_lost", "qwen", 5, FULL),
        ("log_written_again", "qwen", 9, FULL),
        ("log_lost", "qwen", 12, FULL),
    ]
