"""Logs that the disk refuses: told once for each time that it begins."""

from muxd.children import Dropped
from muxd.log_losses import Losses

FULL, BROKEN = "no space left on device", "input/output error"


def told(caplog):
    lines = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return lines


def test_a_loss_is_told_when_it_begins_and_again_when_it_begins_again(caplog):
    losses = Losses()
    losses.look([("qwen", Dropped()), ("llama", Dropped())])
    assert told(caplog) == []
    losses.look([("qwen", Dropped(5, FULL)), ("llama", Dropped())])
    assert told(caplog) == [f"qwen: its log cannot be written, what it says is lost until it can be: {FULL}"]
    losses.look([("qwen", Dropped(9, FULL)), ("llama", Dropped(1, BROKEN))])
    assert told(caplog) == [f"llama: its log cannot be written, what it says is lost until it can be: {BROKEN}"]
    losses.look([("qwen", Dropped(9, FULL)), ("llama", Dropped(1, BROKEN))])
    losses.look([("qwen", Dropped(9, FULL)), ("llama", Dropped(1, BROKEN))])
    assert told(caplog) == []
    losses.look([("qwen", Dropped(10, FULL))])
    assert len(told(caplog)) == 1


def test_what_is_dropped_adds_up_and_the_last_reason_stays():
    assert Dropped(3, BROKEN).after(Dropped(4, FULL)) == (7, BROKEN)
    assert Dropped().after(Dropped(4, FULL)) == (4, FULL)
