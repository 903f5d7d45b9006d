"""muxctl keys list: the keys of every file, as a table and in JSON."""

import json

from .conftest import HASH, MAIN


def test_keys_of_every_file_are_a_table(muxctl, config, file):
    config.write_text(f'{MAIN}[[keys]]\nname = "own"\nsecret_sha256 = "{HASH}"\npriority = 2\nexpires = 2001-01-01\n')
    muxctl("keys", "add", "alice", "--models", "qwen,llama", "--requests-per-minute", "60", "--expires", "2999-01-31")
    muxctl("keys", "add", "bob", "--no-comments")
    muxctl("keys", "revoke", "bob")
    assert muxctl("keys", "list") == (
        0,
        f"""\
NAME   MODELS      RPM  PRIORITY  COMMENTS  EXPIRES                    STATE    FILE
own    all           -         2  yes       2001-01-01T00:00:00+00:00  expired  {config}
alice  qwen,llama   60         0  yes       2999-01-31T00:00:00+00:00  active   {file}
bob    all           -         0  no        never                      revoked  {file}
""",
        "",
    )


def test_keys_in_json_have_their_lines_and_no_hash(muxctl, config, file):
    muxctl("keys", "add", "alice", "--models", "qwen")
    code, out, _ = muxctl("keys", "list", "--json")
    assert (code, json.loads(out)) == (
        0,
        {
            "keys": [
                {
                    "name": "alice",
                    "models": ["qwen"],
                    "requests_per_minute": None,
                    "priority": 0,
                    "comments": True,
                    "expires": None,
                    "state": "active",
                    "file": str(file),
                    "line": 5,
                }
            ]
        },
    )


def test_without_keys_it_is_said_how_to_make_one(muxctl, config):
    assert muxctl("keys", "list") == (0, "no keys; muxctl keys add NAME makes one\n", "")


def test_what_cannot_be_read_is_told_below_what_can(muxctl, config, file):
    config.write_text(
        MAIN + '[[keys]]\nname = "a\\u001b[m"\nmodels = "qwen"\nexpires = "soon"\nrequests_per_minute = "x"\n'
    )
    file.parent.mkdir()
    (file.parent / "a.toml").write_text("=")
    (file.parent / "b.toml").write_text("keys = 1")
    code, out, err = muxctl("keys", "list")
    assert (code, out.splitlines()[1:]) == (2, [f"a [m  qwen      x         0  yes       soon     active  {config}"])
    assert "not all files can be read:" in err
    assert f"{file.parent}/a.toml:1: not TOML" in err
    assert f"{file.parent}/b.toml: keys: not an array of tables" in err
