"""YAML and JSON files of other programs: read whole, with lines, or refused with file, line and what to do."""

import os
from itertools import pairwise

import pytest

from muxd.errors import ConfigError
from muxd.importers.documents import LARGEST, read_document
from tests.unprivileged import closed


@pytest.fixture
def read(tmp_path):
    def read(content, *, is_yaml=True):
        file = tmp_path / "config"
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_document(file, is_yaml=is_yaml)

    return read


@pytest.fixture
def refusal(read, tmp_path):
    def refusal(content, *, is_yaml=True):
        with pytest.raises(ConfigError) as caught:
            read(content, is_yaml=is_yaml)
        (problem,) = caught.value.problems
        return problem.replace(f"{tmp_path}/", "")

    return refusal


def test_a_yaml_file_has_values_and_lines(read):
    found = read("a: 1\nb:\n  - x: true\n  - 2026-01-01\nc: {d: ~, 7: '8'}\n")
    assert found.table == {"a": 1, "b": [{"x": True}, "2026-01-01"], "c": {"d": None, "7": "8"}}
    assert found.lines["b", "1"] == 4
    assert (found.lines["b", "0", "x"], found.lines["c", "d"]) == (3, 5)


def test_aliases_and_merges_are_followed(read):
    found = read("x: &x {a: 1, b: 2}\ny:\n  <<: *x\n  b: 3\nz: *x\n")
    assert found.table == {"x": {"a": 1, "b": 2}, "y": {"a": 1, "b": 3}, "z": {"a": 1, "b": 2}}
    assert (found.lines["y", "a"], found.lines["y", "b"]) == (1, 4)


def test_a_json_file_has_values_and_lines(read):
    found = read('\ufeff{\n\t"a": 1e3,\n\t"b\\/c": ["x",\n\t{"d": null}], "e": "\\ud83d\\ude00"\n}', is_yaml=False)
    assert found.table == {"a": 1000.0, "b/c": ["x", {"d": None}], "e": "\N{GRINNING FACE}"}
    assert (found.lines["a",], found.lines["b/c", "1", "d"]) == (2, 4)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "config: no key is in it; name the file that has the models"),
        ("# nothing\n", "config: no key is in it"),
        ("- a\n", "config:1: not a mapping; a configuration begins with KEY: VALUE"),
        ("\n\njust text\n", "config:3: not a mapping"),
        ("a:\n\t- b\n", "config:2: not YAML: found character that cannot start any token; indent with blanks"),
        ("a: 1\nb: 2\na: 3\n", "config:3: a is there twice, first in line 1; keep one"),
        ("m: {a: 1, a: 1}\n", "config:1: m.a is there twice, first in line 1; keep one"),
        ("m:\n  a: 1\n  a: 1\n", "config:3: m.a is there twice, first in line 2"),
        ("a: *x\n", "config:1: not YAML: found undefined alias; correct this line, or the one above"),
        ("a: 1\n--- \nb: 2\n", "config:2: not YAML: but found another document"),
        ("b: 1\na: \x07\n", "config:2: not YAML: control characters are not allowed; take the character out"),
        ("a: !Ref x\n", "config:1: the tag !Ref is not known; take it out"),
        ("a: &a [*a]\n", "config:1: nested too deeply; write plain lists and mappings"),
        ("? [a]\n: 1\n", "config:1: a key that is no text; write KEY: VALUE"),
        ("a: {b: 1\n", "config:2: not YAML: "),
        ("a: " + "[" * 5000, "config:1: not YAML: exceeded maximum nesting depth"),
        (b"a: 1\nb: \xe9\n", "config:2: not UTF-8; save the file as UTF-8"),
        (b"a: 1\n" + b"#" * LARGEST, "config: has 4MiB, no configuration is larger than 4MiB; name another file"),
    ],
)
def test_yaml_that_cannot_be_read_is_refused(refusal, text, told):
    assert refusal(text).startswith(told)


def test_a_few_lines_that_stand_for_billions_are_refused(refusal):
    names = "abcdefghij"
    lines = ["a: &a [1,1,1,1,1,1,1,1,1,1]"]
    lines += [f"{new}: &{new} [{','.join([f'*{old}'] * 10)}]" for old, new in pairwise(names)]
    assert refusal("\n".join(lines)).endswith(
        "more than 100000 values, aliases followed; write plain lists and mappings"
    )


def test_names_of_escapes_alone_are_different_names(read):
    found = read('{"\\u00e4": 1,\n"\\u00f6": 2,\n"\\ud83d\\ude00": 3, "\\ud83d\\ude01": 4}', is_yaml=False)
    assert found.table == {"\u00e4": 1, "\u00f6": 2, "\U0001f600": 3, "\U0001f601": 4}
    assert found.lines["\u00f6",] == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"a": 1,\n}', "config:2: not JSON: Expecting property name enclosed in double quotes (column 1); take out"),
        ('{"a": [1,\n]}', "config:2: not JSON: Expecting value (column 1); take out the comma before ]"),
        ('{ // x\n"a":1}', "JSON has no comments; take this one out"),
        ('{"a":1 /* x */}', "JSON has no comments; take this one out"),
        ('{"a":1\n# x\n}', "config:2: not JSON: Expecting ',' delimiter (column 1); JSON has no comments"),
        ("{'a':1}", 'JSON has double quotes alone: write "..."'),
        ('{"a": True}', "write true, false or null"),
        ("", "config:1: not JSON: Expecting value (column 1); correct this line; a file of YAML ends in .yaml"),
        ('{"a":1}{', "config:1: not JSON: Extra data (column 8)"),
        ("[]", "config:1: not a mapping"),
        ('{"a": 1,\n "a": 2}', "config:2: a is there twice, first in line 1; keep one"),
        ('{"m": {"a": 1, "a": 2}}', "config:1: m.a is there twice, first in line 1; keep one"),
        ('{"a": 1, "\\u0061": 2}', "config:1: a is there twice, first in line 1; keep one"),
        ('{"a":' + "9" * 5000 + "}", "config: not usable: a number in it is too long; correct it"),
        ("[" * 100_000, "config: nested too deeply"),
        ('{"a": ["\\ud83d"]}', "config: not usable: half a character"),
    ],
)
def test_json_that_cannot_be_read_is_refused(refusal, text, told):
    assert told in refusal(text, is_yaml=False)


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, told in (
        ("none.json", "none.json: cannot be read: No such file or directory; correct the path, or what is there"),
        ("", ": is a folder; name the file itself"),
        ("pipe", "pipe: is no file; name the file itself"),
    ):
        with pytest.raises(ConfigError) as caught:
            read_document(tmp_path / name, is_yaml=True)
        assert told in caught.value.problems[0]


def test_a_file_that_this_user_may_not_read_is_told_with_its_owner(tmp_path):
    file = tmp_path / "config.yaml"
    file.touch()
    with closed(file), pytest.raises(ConfigError) as caught:
        read_document(file, is_yaml=True)
    assert "cannot be read: Permission denied: " in caught.value.problems[0]


def test_a_file_of_100_mb_is_not_read(tmp_path):
    file = tmp_path / "config.yaml"
    with file.open("wb") as opened:
        opened.truncate(100 << 20)
    with pytest.raises(ConfigError, match=r"has 100MiB, no configuration is larger than 4MiB; name another file"):
        read_document(file, is_yaml=True)
