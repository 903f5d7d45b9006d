from muxd.history.usage_book import KEPT_DAYS, UsageBook, UsageRow, day_of
from muxd.protocol import KeyUsage

NOON = 1_764_417_600.0  # 2025-11-29 12:00 UTC
DAY = 86400.0


def test_each_day_key_and_model_is_counted_by_itself():
    book = UsageBook()
    book.add(NOON - DAY, KeyUsage("alice", "a", requests=1, completion_tokens=10))
    book.add(NOON, KeyUsage("alice", "a", requests=2, refused=1, prompt_tokens=5, event_tokens=7))
    book.add(NOON, KeyUsage("", "b", requests=1))
    rows = book.read(NOON, 7, None, None)
    assert [(row["day"], row["key"], row["model"], row["requests"]) for row in rows] == [
        ("2025-11-28", "alice", "a", 1),
        ("2025-11-29", "", "b", 1),
        ("2025-11-29", "alice", "a", 2),
    ]
    assert (rows[2]["refused"], rows[2]["prompt_tokens"], rows[2]["event_tokens"]) == (1, 5, 7)
    assert [row["day"] for row in book.read(NOON, 1, "alice", "a")] == ["2025-11-29"]
    assert book.total == {("alice", "a"): [3, 1, 5, 0, 10, 7], ("", "b"): [1, 0, 0, 0, 0, 0]}


def test_what_changed_is_handed_over_once_with_its_whole_counts():
    book = UsageBook()
    book.restore([UsageRow("2025-11-29", "k", "a", (5, 0, 0, 0, 0, 0)), UsageRow("2025-11-29", "x", "a", (1,))])
    assert book.take_rows() == []
    book.add(NOON, KeyUsage("k", "a", requests=1))
    assert book.take_rows() == [UsageRow("2025-11-29", "k", "a", (6, 0, 0, 0, 0, 0))]
    assert book.take_rows() == []
    assert book.total == {("k", "a"): [1, 0, 0, 0, 0, 0]}, "of this muxd alone"


def test_days_that_are_over_for_long_are_forgotten():
    book = UsageBook()
    for days in (KEPT_DAYS + 1, KEPT_DAYS, 0):
        book.add(NOON - days * DAY, KeyUsage("k", "a", requests=1))
    book.prune(NOON)
    assert [row.day for row in book] == [day_of(NOON, KEPT_DAYS), "2025-11-29"]
