"""[[keys]]: what is read, and what is said of what cannot be."""

from datetime import UTC, datetime
from hashlib import sha256

import pytest

from muxd.config import load_config, load_proxy_config
from muxd.config.proxy_settings import write_for_proxy
from muxd.config.schema import Key
from muxd.errors import ConfigError

MODELS = """\
[defaults]
engine = "simulator"
[models.qwen]
served_names = ["Qwen/Qwen3-14B", "gpt-4o"]
[models.llama]
"""
HASH = "ab" * 32
OTHER = "cd" * 32


def key(name="alice", secret=f'secret_sha256 = "{HASH}"', *more):
    return "\n".join(["[[keys]]", f'name = "{name}"', secret, *more, ""])


@pytest.fixture
def load(tmp_path):
    def load(text, **environ):
        file = tmp_path / "muxd.toml"
        file.write_text(MODELS + text)
        return load_config(file, {"HOME": "/home", **environ})

    return load


@pytest.fixture
def part(tmp_path):
    def part(name, text):
        (tmp_path / "muxd.d").mkdir(exist_ok=True)
        (tmp_path / "muxd.d" / name).write_text(text)

    return part


@pytest.fixture
def problems(load, tmp_path):
    """Return a function for the problems of a text from line 6 on, with F for the file and D for its folder muxd.d."""

    def problems(text, **environ):
        with pytest.raises(ConfigError) as caught:
            load(text, **environ)
        found = [each.replace(f"{tmp_path}/muxd.toml", "F") for each in caught.value.problems]
        return [each.replace(f"{tmp_path}/muxd.d", "D") for each in found]

    return problems


def moment(*when):
    return datetime(*when, tzinfo=UTC).timestamp()


def test_a_name_and_a_secret_are_enough(load):
    assert load(key()).keys == (Key("alice", HASH),)


def test_every_key_is_read(load):
    text = key(
        "a.b-c_1",
        f'secret_sha256 = "{HASH.upper()}"',
        'models = ["gpt-4o", "llama", "qwen"]',
        "requests_per_minute = 60",
        "priority = -10",
        "expires = 2027-01-31",
        'request_class = "batch"',
        'keep_alive = "1h"',
        "view = true",
        "admin = true",
        "revoked = true",
        "comments = false",
    )
    rights = {
        "request_class": "batch",
        "keep_alive": 3600.0,
        "view": True,
        "admin": True,
        "revoked": True,
        "comments": False,
    }
    assert load(text).keys == (Key("a.b-c_1", HASH, ("qwen", "llama"), 60, -10, moment(2027, 1, 31), **rights),)


def test_there_are_none_where_none_is_written(load):
    assert load("").keys == ()


@pytest.mark.parametrize(
    ("written", "when"),
    [
        ("2027-01-31", moment(2027, 1, 31)),
        ("2027-01-31T18:30:00Z", moment(2027, 1, 31, 18, 30)),
        ("2027-01-31T18:30:00+02:00", moment(2027, 1, 31, 16, 30)),
        ("2027-01-31 18:30:00", moment(2027, 1, 31, 18, 30)),
        ('"2027-01-31"', moment(2027, 1, 31)),
        ('"2027-01-31T18:30:00+02:00"', moment(2027, 1, 31, 16, 30)),
        ('" 2027-01-31T18:30 "', moment(2027, 1, 31, 18, 30)),
    ],
)
def test_a_date_is_its_first_moment_in_utc_unless_it_says_more(load, written, when):
    assert load(key("a", f'secret_env = "V"\nexpires = {written}'), V="x").keys[0].expires == when


@pytest.mark.parametrize(
    "written", ["0001-01-01T00:00:00+10:00", "9999-12-31T23:00:00-10:00", "07:00:00", "1", '"30d"']
)
def test_what_is_no_date_is_told(problems, written):
    (problem,) = problems(key("a", f'secret_env = "V"\nexpires = {written}'), V="x")
    assert problem.startswith("F:9: keys.a.expires: ")
    assert problem.endswith(" is not a date; write 2027-01-31, or 2027-01-31T18:00:00Z")


def test_a_secret_of_the_environment_is_kept_as_its_hash(load):
    config = load(key("a", 'secret_env = "ALICES_KEY"'), ALICES_KEY="s3cret\n")
    assert config.keys == (Key("a", sha256(b"s3cret").hexdigest()),)
    assert config.keys[0].secret_env == "ALICES_KEY"
    assert "s3cret" not in repr(config)
    assert config.keys[0].secret_sha256 not in repr(config)


@pytest.mark.parametrize("environ", [{}, {"ALICES_KEY": ""}, {"ALICES_KEY": " \n"}])
def test_an_environment_without_the_secret_is_told_by_the_variables_name(problems, environ):
    assert problems(key("a", 'secret_env = "ALICES_KEY"'), **environ) == [
        "F:8: keys.a.secret_env: ALICES_KEY is not set, or empty, where muxd runs; set it, or use secret_sha256"
    ]


def test_everything_that_is_wrong_is_told_at_once_with_its_line(problems):
    text = f"""\
[[keys]]
name = "Alice"
secret_sha256 = "{HASH}"
[[keys]]
secret_env = "V"
[[keys]]
name = "bob"
[[keys]]
name = "carol"
secret_sha256 = "{OTHER}"
secret_env = "V"
[[keys]]
name = "dave"
secret_sha265 = "{OTHER}"
models = ["lama", "qwen"]
[[keys]]
name = "eve"
secret_env = "W"
models = []
requests_per_minute = 0
priority = 11
revoked = "no"
[[keys]]
name = "bob"
secret_env = "X"
"""
    assert problems(text, V="v", W="w", X="x") == [
        "F:7: keys.name: \"Alice\" is not a key's name; use at most 128 of a-z, 0-9, '.', '_' and '-', "
        "and begin with a letter or digit",
        "F:9: keys.name: missing; give each key one of its own: muxctl and the log call it so",
        "F:11: keys.bob.secret_sha256: missing; `muxctl keys add` makes a key with its own, or name a secret_env",
        "F:16: keys.carol.secret_env: secret_sha256 is there too; keep one of them",
        "F:19: keys.dave.secret_sha265: unknown key; did you mean secret_sha256?",
        'F:20: keys.dave.models: no model "lama"; did you mean llama?',
        "F:24: keys.eve.models: an empty list allows no model; name some, or leave it out: the key is for all then",
        "F:25: keys.eve.requests_per_minute: 0 is out of range; use 1 to 1000000",
        "F:26: keys.eve.priority: 11 is out of range; use -10 to 10",
        'F:27: keys.eve.revoked: "no" is neither true nor false; write true or false without quotes',
        'F:29: keys.bob.name: "bob" is already the name of the key at F:11; use another',
    ]


def test_two_keys_of_one_secret_are_told_whichever_way_it_is_written(problems):
    hashed = sha256(b"v").hexdigest()
    text = key("a", 'secret_env = "V"') + key("b", f'secret_sha256 = "{hashed}"')
    assert problems(text, V="v") == [
        "F:11: keys.b.secret_sha256: the key at F:6 has the same secret; give each its own"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "secret_sha256 = 'muxd-s3cret'",
        "secret_sha256 = ['muxd-s3cret']",
        "secret_env = 'muxd-s3cret'",
        "secret = 'muxd-s3cret'",
        "key = 'muxd-s3cret'",
    ],
)
def test_a_secret_in_the_wrong_place_is_not_said_again(problems, text):
    (problem,) = problems(key("a", text))
    assert problem.startswith("F:8: keys.a.")
    assert "s3cret" not in problem


@pytest.mark.parametrize(
    "text", ["[keys.a]\nsecret_sha256 = 's3cret'\n", "[keys]\n", "keys = 's3cret'", "keys = ['s']"]
)
def test_what_is_no_array_of_tables_is_told_without_what_it_holds(problems, tmp_path, text, part):
    part("a.toml", text)
    assert problems("") == [
        'D/a.toml:1: keys: not an array of tables; write [[keys]], and below it name = "..." and its secret_sha256 '
        "or secret_env"
    ]


def test_an_inline_array_is_as_good(problems, part):
    part("a.toml", f'\nkeys = [{{ name = "a", secret_sha256 = "{HASH}", prio = 1 }}]\n')
    assert problems("") == ["D/a.toml:2: keys.a.prio: unknown key; did you mean priority?"]


def test_keys_of_several_files_add_up(load, part):
    part("10.toml", key("bob", 'secret_env = "B"'))
    part("20.toml", key("carol", 'secret_env = "C"'))
    assert [each.name for each in load(key(), B="b", C="c").keys] == ["alice", "bob", "carol"]


def test_a_problem_names_the_file_that_its_key_is_in(problems, part):
    part("10.toml", key("bob", 'secret_env = "B"'))
    part("20.toml", "\n" + key("carol", 'secret_env = "C"') + key("alice", f'secret_sha256 = "{HASH}"'))
    assert problems(key()) == [
        "D/10.toml:3: keys.bob.secret_env: B is not set, or empty, where muxd runs; set it, or use secret_sha256",
        "D/20.toml:4: keys.carol.secret_env: C is not set, or empty, where muxd runs; set it, or use secret_sha256",
        'D/20.toml:6: keys.alice.name: "alice" is already the name of the key at F:6; use another',
        "D/20.toml:7: keys.alice.secret_sha256: the key at F:6 has the same secret; give each its own",
    ]


def test_the_same_problem_in_two_files_is_told_twice(problems, part):
    part("10.toml", "[[keys]]\nsecret_env = 'A'\n")
    part("20.toml", "[[keys]]\nsecret_env = 'B'\n")
    assert [each.partition(" ")[0] for each in problems("", A="a", B="b")] == ["D/10.toml:1:", "D/20.toml:1:"]


def test_while_a_model_cannot_be_read_nothing_is_said_of_names_that_may_be_its(problems):
    text = '[models.new]\nserved_names = "mine"\n' + key("a", 'secret_env = "V"', 'models = ["mine"]')
    (problem,) = problems(text, V="v")
    assert problem.startswith("F:7: models.new.served_names: ")


# The proxy's own settings


def test_the_proxy_is_told_all_keys_and_no_secret(load, tmp_path):
    text = key("a", 'secret_env = "V"', 'models = ["gpt-4o"]', "requests_per_minute = 6", "priority = 3")
    text += key("b", f'secret_sha256 = "{HASH}"', "expires = 2027-01-31T18:30:00.123456Z", "revoked = true")
    config = load(text + "[proxy]\nlisten = '0.0.0.0:1'\n", V="s3cret")
    write_for_proxy(config, tmp_path / "proxy.toml")
    assert load_proxy_config(tmp_path / "proxy.toml", {}).keys == config.keys
    assert "s3cret" not in (tmp_path / "proxy.toml").read_text()


def test_a_proxy_that_anybody_may_use_is_told_so(load, tmp_path):
    config = load("[proxy]\nlisten = '0.0.0.0:1'\nallow_anonymous = true\n")
    write_for_proxy(config, tmp_path / "proxy.toml")
    told = load_proxy_config(tmp_path / "proxy.toml", {})
    assert (told.proxy.host, told.proxy.allow_anonymous, told.keys) == ("0.0.0.0", True, ())


# Without a key: loopback only


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "[::1]", "localhost", "LocalHost", "[::ffff:127.0.0.1]"])
def test_on_loopback_nobody_needs_a_key(load, host):
    assert load(f'[proxy]\nlisten = "{host}:30100"\n').keys == ()


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "[::]", "192.168.0.7", "[fe80::1]", "gpu1", "localhost.example", "[::ffff:1.2.3.4]"]
)
def test_beyond_loopback_a_configuration_without_a_key_is_refused(problems, host):
    assert problems(f'[proxy]\nlisten = "{host}:30100"\n') == [
        f"F:7: proxy.listen: {host.strip('[]')} lets other machines in, and there is no API key: make one with "
        "`muxctl keys add NAME`, or write allow_anonymous = true if anybody may use the models"
    ]


OPEN = '[proxy]\nlisten = "0.0.0.0:30100"\n'


def test_a_key_or_a_word_lets_other_machines_in(load):
    assert load(OPEN + key()).keys
    assert load(OPEN + "allow_anonymous = true\n").proxy.allow_anonymous


def test_taking_the_last_key_back_does_not_open_the_door(load):
    gone = key("a", f'secret_sha256 = "{HASH}"', "revoked = true") + key(
        "b", 'secret_env = "V"', "expires = 2001-01-01"
    )
    assert [each.name for each in load(OPEN + gone, V="v").keys] == ["a", "b"]


def test_a_key_that_cannot_be_read_is_not_also_said_to_be_missing(problems):
    (problem,) = problems(OPEN + key("a", 'secret_env = "V"'))
    assert problem.startswith("F:10: keys.a.secret_env")
