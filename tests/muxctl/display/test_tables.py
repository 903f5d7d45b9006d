import pytest

from muxctl.display.tables import about, cut, duration, hanging, plain, table, width_of


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (-3, "0s"),
        (59.9, "59s"),
        (60, "1min"),
        (65, "1min 5s"),
        (3600, "1h"),
        (3605, "1h"),
        (7505, "2h 5min"),
        (86400, "1d"),
        (86460, "1d"),
        (273600, "3d 4h"),
    ],
)
def test_a_duration_has_at_most_two_neighbouring_units(seconds, text):
    assert duration(seconds) == text


def test_an_estimate_is_told_to_the_nearest_second():
    assert [about(seconds) for seconds in (1.4, 1.66, 59.7)] == ["about 1s", "about 2s", "about 1min"]


def test_columns_are_as_wide_as_their_widest_cell_and_lines_end_without_blanks():
    assert table([("A", "BB", "C"), ("aaa", "1", "")], right=(1,)) == ["A    BB  C", "aaa   1"]


def test_what_others_wrote_is_one_line_without_control_characters():
    assert plain("a\nb\x1b[31m é") == "a b [31m é"


def test_what_is_too_long_is_cut_and_shows_it():
    assert (cut("12345", 5), cut("123456", 5)) == ("12345", "1234…")


def test_a_long_text_goes_on_below_its_beginning_where_there_is_room():
    facts = [("a:", "one two three four five six"), ("long:", "")]
    assert hanging(facts) == ["a:     one two three four five six", "long:"]
    assert hanging(facts, 27) == ["a:     one two three four", "       five six", "long:"]
    assert hanging(facts, 20) == hanging(facts)


# Terminals give some letters two columns, and others none.

WIDE = "通义千问"
ACCENT = "e\u0301"  # é as two characters


def test_a_table_is_aligned_by_the_columns_of_a_terminal_not_by_characters():
    lines = table([("NAME", "N", "FILE"), (WIDE, "7", "a"), ("qwen", "12", "b"), (ACCENT, "1", "c")], right=(1,))
    assert lines == ["NAME       N  FILE", f"{WIDE}   7  a", "qwen      12  b", f"{ACCENT}          1  c"]
    assert {width_of(line.rsplit(" ", 1)[0]) for line in lines} == {13}


def test_wide_letters_are_cut_where_the_terminal_ends_and_none_in_the_middle():
    assert [cut(WIDE, width) for width in (8, 7, 6, 5, 1)] == [WIDE, "通义千…", "通义…", "通义…", "…"]
    assert cut(ACCENT * 3, 3) == ACCENT * 3
    assert cut(ACCENT * 3, 2) == ACCENT + "…"


def test_a_text_of_wide_letters_goes_on_below_its_beginning():
    facts = [(f"{WIDE}:", f"{WIDE} {WIDE} {WIDE}"), ("b:", "c")]
    assert hanging(facts, 31) == [f"{WIDE}:  {WIDE} {WIDE}", f"           {WIDE}", "b:         c"]
