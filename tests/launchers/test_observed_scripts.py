"""Models of launch scripts, completed with what their servers were seen to be."""

from dataclasses import replace
from pathlib import Path

import pytest

from muxd.config import Config, Daemon, Model
from muxd.config.model_schema import DeclaredServer, Script
from muxd.config.schema import Key
from muxd.engines.observed_server import ObservedServer
from muxd.launchers.observed_scripts import MOST, ObservedScripts, completed, seen_before

SEEN = ObservedServer(port=31000, model="org/a", served="a", gpus=("1",), sleep_level=2)


def one(said: DeclaredServer, seen: ObservedServer = SEEN, *others: Model) -> Model:
    model = Model("legacy", script=Script(("bash", "a.sh"), digest="digest", said=said), served_names=("legacy",))
    config = Config(Daemon(Path("s"), Path("t"), Path("u")), models=(model, *others))
    once = completed(config, {"digest": seen})
    assert completed(once, {"digest": seen}) == once, "twice is once"
    assert completed(once, {}) == completed(config, {}), "what was said is not forgotten"
    return once.models[0]


def test_before_anybody_has_seen_it_it_is_what_was_said_and_claims_every_gpu():
    said = DeclaredServer(("x",), "flag", "a.sh:1", 31000, "a.sh:1", every=("0", "1", "2"))
    model = Model("legacy", script=Script(("bash", "a.sh"), digest="digest", said=said))
    (found,) = completed(Config(Daemon(Path("s"), Path("t"), Path("u")), models=(model,)), {}).models
    assert (found.served_names, found.port, found.gpus, found.sleep_level) == (("x",), 31000, ("0", "1", "2"), 3)
    assert not found.script.is_seen


def test_what_was_not_said_is_what_was_seen():
    found = one(DeclaredServer(every=("0", "1", "2")), replace_seen(is_embedding=True))
    assert (found.served_names, found.port, found.gpus, found.sleep_level) == (("org/a", "a"), 0, ("1",), 2)
    assert found.args == ("--is-embedding",)
    assert (found.script.is_seen, found.script.contradictions) == (True, ())


def replace_seen(**facts: object) -> ObservedServer:
    return ObservedServer(**{**{f: getattr(SEEN, f) for f in SEEN.__struct_fields__}, **facts})  # type: ignore[arg-type]


SAID = [
    (DeclaredServer(port=31000), {"port": 31000}, ""),
    (DeclaredServer(port=1, port_from="a.sh:2"), {"port": 0}, "its server listens on port 31000, and a.sh:2 says 1"),
    (DeclaredServer(("x",), "table"), {"served_names": ("x",)}, ""),
    (DeclaredServer(("x",), "contract"), {"served_names": ("x", "a")}, ""),
    (DeclaredServer(("org/a",), "flag"), {"served_names": ("org/a", "a")}, ""),
    (
        DeclaredServer(("org/b",), "flag", "a.sh:3"),
        {"served_names": ("org/a", "a")},
        "its server has model org/a, and a.sh:3 says org/b",
    ),
    (DeclaredServer(gpus=("0", "1")), {"gpus": ("0", "1")}, ""),
    (DeclaredServer(gpus=("0",)), {"gpus": ("1",)}, "its server uses GPU 1, and its table says 0"),
    (DeclaredServer(sleep_level=3, level_by_table=True), {"sleep_level": 3}, ""),
    (
        DeclaredServer(sleep_level=1, level_by_table=True),
        {"sleep_level": 2},
        "its server was started without --enable-memory-saver --enable-weights-cpu-backup, which sleep_level = 1 needs",
    ),
    (DeclaredServer(sleep_level=3), {"sleep_level": 2}, ""),
]


@pytest.mark.parametrize(("said", "facts", "contradiction"), SAID)
def test_the_table_holds_for_clients_and_the_process_for_what_is(said, facts, contradiction):
    found = one(said)
    assert {key: getattr(found, key) for key in facts} == facts
    assert found.script.contradictions == ((contradiction,) if contradiction else ())


def test_gpus_that_could_not_be_seen_stay_every_one():
    assert one(DeclaredServer(every=("0", "1")), replace_seen(gpus=())).gpus == ("0", "1")
    assert one(DeclaredServer(gpus=("1",), every=("0", "1")), replace_seen(gpus=())).gpus == ("1",)


def test_a_script_whose_gpus_cannot_be_told_is_never_awake_beside_another_wherever_that_was_seen():
    said = DeclaredServer(every=("0",))
    byuuid, bynumber, third = (
        Model(name, script=Script(("bash", f"{name}.sh"), digest=name, said=said)) for name in ("uuid", "number", "3rd")
    )
    declared = Model("declared", script=Script(("bash", "d.sh"), digest="d", said=replace(said, gpus=("4",))))
    table = Model("table", engine="simulator", gpus=("3",))
    config = Config(Daemon(Path("s"), Path("t"), Path("u")), models=(byuuid, bynumber, third, declared, table))
    seen = {"uuid": replace_seen(gpus=()), "number": replace_seen(gpus=("1",)), "d": replace_seen(gpus=("5",))}
    found = completed(config, seen)
    assert [m.gpus for m in found.models] == [
        ("0", "1", "3", "4", "5"),
        ("1",),
        ("0", "1", "3", "4", "5"),
        ("5",),
        ("3",),
    ]
    assert [m.script.knows_gpus for m in found.models if m.script] == [False, True, False, True]
    assert completed(found, seen) == found


def test_a_server_that_asks_for_a_key_is_told_only_where_clients_keys_end_at_the_proxy():
    model = Model("legacy", script=Script(("bash", "a.sh"), digest="digest"))
    config = Config(Daemon(Path("s"), Path("t"), Path("u")), models=(model,))
    locked = {"digest": replace_seen(asks_key=True)}
    for keys, told in (((Key("a", "ab" * 32),), 1), ((), 0)):
        (found,) = completed(replace(config, keys=keys), locked).models
        assert [text for text in found.script.contradictions if "asks for an --api-key of its own" in text] == (
            list(found.script.contradictions)
        )
        assert len(found.script.contradictions) == told
    assert completed(replace(config, keys=keys), {"digest": SEEN}).models[0].script.contradictions == ()


def test_a_name_that_another_model_has_is_not_taken_from_it():
    other = Model("other", engine="simulator", served_names=("org/a",), gpus=("5",))
    assert one(DeclaredServer(), SEEN, other).served_names == ("a",)
    assert one(DeclaredServer(), replace_seen(served="other"), other).served_names == ("legacy",)


async def test_what_is_learnt_is_kept_and_the_oldest_goes_first(tmp_path):
    scripts, told = ObservedScripts(tmp_path), []

    async def news():
        told.append(len(scripts.known))

    scripts.on_news = news
    for number in range(MOST + 2):
        await scripts.learn(f"{number}", SEEN)
    await scripts.learn(f"{number}", SEEN)
    assert len(told) == MOST + 2, "the same is no news"
    assert list(ObservedScripts(tmp_path).known) == [f"{number}" for number in range(2, MOST + 2)]
    assert seen_before(tmp_path) == scripts.known
    assert (tmp_path / "scripts.json").stat().st_mode & 0o777 == 0o600


async def test_indices_of_gpus_are_numbers_in_the_file_as_every_muxd_reads_them(tmp_path):
    seen = replace_seen(gpus=("0", "MIG-a"))
    await ObservedScripts(tmp_path).learn("a", seen)
    assert b'"gpus":[0,"MIG-a"]' in (tmp_path / "scripts.json").read_bytes()
    assert seen_before(tmp_path) == {"a": seen}


@pytest.mark.parametrize("content", [b"", b"[]", b'{"a": {"port": "x"}}', b"\xff", b'{"a": {}}'])
def test_what_is_damaged_is_put_aside(tmp_path, content):
    (tmp_path / "scripts.json").write_bytes(content)
    assert seen_before(tmp_path) == {}
    assert ObservedScripts(tmp_path).known == {}
    assert (tmp_path / "scripts.unreadable").read_bytes() == content


async def test_what_cannot_be_written_is_known_all_the_same(tmp_path, caplog):
    scripts = ObservedScripts(tmp_path / "gone")
    await scripts.learn("a", SEEN)
    assert scripts.known == {"a": SEEN}
    assert "cannot write scripts.json" in caplog.text


def test_a_claim_is_narrowed_only_by_what_was_seen():
    assert one(replace(DeclaredServer(), gpus=("2", "1")), replace_seen(gpus=("1", "2"))).gpus == ("2", "1")
