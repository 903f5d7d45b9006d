"""What the tables [muxd], [proxy], [ui] and [policy] may not have; what the proxy reads of them."""

import os
from pathlib import Path

import pytest

from muxd.config import load_config, load_proxy_config
from muxd.config.load import config_from_supervisor
from muxd.config.proxy_settings import settings_for_proxy
from muxd.errors import ConfigError

from .conftest import ONE_MODEL


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[muxd]\nwait_target = '8s'", "F:2: muxd.wait_target: no key of this table; it belongs under [policy]"),
        ("listen = '127.0.0.1:1'", "F:1: listen: no key of this table; it belongs under [proxy]"),
        (
            "[policy]\nsleep_level = 2",
            "F:2: policy.sleep_level: no key of this table; it belongs under [models.NAME]",
        ),
        ("[models.a]\naccess_log = 'off'", "models.a.access_log: no key of this table; it belongs under [proxy]"),
    ],
)
def test_a_key_of_another_table_is_told_its_own(tmp_path, text, told):
    (tmp_path / "F").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "F", {})
    assert told in caught.value.message


A = "[models.a]\nmodel_path = 'x/y'\n"
LONG = "/" + "x" * 107

# What is added to a good file -> the one problem it makes, from the key path on.
WRONG = [
    ('[muxd]\nlog_format = "xml"', 'muxd.log_format: "xml" is not known; use "text" or "json"'),
    ("[muxd]\nsocket = 3", "muxd.socket: 3 is not usable; write one line of text in quotes"),
    (
        f'[muxd]\nsocket = "{LONG}"',
        f"muxd.socket: {LONG} has 108 bytes, a socket's path at most 107; use a shorter one",
    ),
    (
        '[muxd]\nadmin_group = "nobody-has-it"',
        "muxd.admin_group: no group nobody-has-it; create it with: groupadd --system nobody-has-it",
    ),
    ('[muxd]\nshutdown_timeout = "inf"', 'muxd.shutdown_timeout: "inf" is not allowed here; give a finite duration'),
    ("[muxd]\nsimulated_gpu_memory = 1", "muxd.simulated_gpu_memory: 1 is too small; use at least 1MiB"),
    ('[proxy]\nmanaged = "yes"', 'proxy.managed: "yes" is neither true nor false; write true or false without quotes'),
    (
        '[proxy]\nlisten = "0.0.0.0:70000"',
        'proxy.listen: "0.0.0.0:70000" is not an address; write "127.0.0.1:30100", "0.0.0.0:30100" or "[::1]:30100"',
    ),
    ('[ui]\nlisten = "127.0.0.1:30100"', "ui.listen: 30100 is already the port of listen, under [proxy]; use another"),
    (
        '[ui]\nlisten = "0.0.0.0:30102"',
        "ui.listen: 0.0.0.0 lets other machines in, and no key may look: "
        "`muxctl keys add NAME --admin` makes one, or listen on 127.0.0.1",
    ),
    (
        '[proxy]\nmetrics_listen = "127.0.0.1:30100"',
        "proxy.metrics_listen: 30100 is already the port of listen; "
        "use another, or leave it out: /metrics is there, too",
    ),
    (
        '[proxy]\nlisten = "localhost:1"\nmetrics_listen = "0.0.0.0:1"',
        "proxy.metrics_listen: 1 is already the port of listen; use another, or leave it out: /metrics is there, too",
    ),
    (
        '[proxy]\naccess_log = "off"\naccess_log_dir = "logs"',
        'proxy.access_log_dir: nothing is written there while access_log is "off"; leave one of them out',
    ),
    (
        '[proxy]\naccess_log_dir = "muxd.toml/logs"',
        "proxy.access_log_dir: F is not a directory; name one that is, or can be made",
    ),
    (
        "[muxd]\nlog_dir = '$LOGS/muxd'",
        'muxd.log_dir: $LOGS would be taken literally: only a leading "~/" is expanded; write the path in full',
    ),
    *(
        (
            f"[models.a]\nmodel_path = '{given}'",
            f'models.a.model_path: "{given}" is neither a Hub id nor a path: {why}',
        )
        for given, why in {
            "hf.co/microsoft/phi-4": "an address; write microsoft/phi-4",
            "huggingface.co/microsoft/phi-4/tree/main": "an address; write microsoft/phi-4",
            "hf.co/gpt2": "an address; write gpt2",
            "hf.co/": "an address; write the id alone, such as Qwen/Qwen3-14B",
            "hf://microsoft/phi-4": "a URL; write microsoft/phi-4",
            "https://modelscope.cn/models/Qwen/Qwen3-8B": "a URL; write Qwen/Qwen3-8B",
            "http://example.org/a/b": "a URL; write the id alone, such as Qwen/Qwen3-14B",
            "microsoft/phi-4:latest": "an id has no tag; write microsoft/phi-4",
        }.items()
    ),
    ("[muxd]\nlog_dir = 'muxd.toml'", "muxd.log_dir: F is not a directory; name one that is, or can be made"),
    (
        "[muxd]\nlog_dir = '/'\nstate_dir = 'muxd.toml/s'",
        "muxd.state_dir: F is not a directory; name one that is, or can be made",
    ),
    ("[muxd]\ncache_dir = 'muxd.toml/c'", "muxd.cache_dir: F is not a directory; name one that is, or can be made"),
    ("[policy]\ndefault_model = 'qwem'", "policy.default_model: there is no model qwem; did you mean qwen?"),
]


@pytest.mark.parametrize(("text", "problem"), WRONG, ids=[text.splitlines()[-1] for text, _ in WRONG])
def test_one_mistake_makes_one_problem_with_its_line(problems, tmp_path, text, problem):
    *_, wrong_line = text.splitlines()
    whole = text + "\n" + ONE_MODEL
    found = [line.replace(f"{tmp_path}/home", "HOME").replace(f"{tmp_path}/muxd.toml", "F") for line in problems(whole)]
    assert found == [f"F:{whole.splitlines().index(wrong_line) + 1}: {problem}"]


def test_the_groups_of_this_machine_are_known(load):
    import grp

    name = grp.getgrgid(os.getgid()).gr_name
    assert load(f'[muxd]\nadmin_group = "{name}"\n{ONE_MODEL}').daemon.admin_group == name


@pytest.mark.parametrize("table", ["muxd", "proxy", "policy", "defaults", "models"])
def test_a_section_that_is_no_table_is_a_problem(problems, table):
    assert any(f"F:1: {table}: 3 is not a table; write [{table}" in line for line in problems(f"{table} = 3\n"))


@pytest.mark.parametrize("metrics", ["127.0.0.1:30101", "127.0.0.2:30100", "[::1]:30100"])
def test_metrics_may_have_the_proxys_port_at_another_address(load, metrics):
    host, _, port = metrics.rpartition(":")
    assert load(f'[proxy]\nmetrics_listen = "{metrics}"\n{ONE_MODEL}').proxy.metrics_listen == (
        host.strip("[]"),
        int(port),
    )


def test_ports_that_are_chosen_at_each_start_are_not_one(load):
    text = f'[proxy]\nlisten = "127.0.0.1:0"\nmetrics_listen = "127.0.0.1:0"\n{ONE_MODEL}port = 0\n'
    assert load(text).models[0].port == 0


def test_a_proxy_asks_no_disk_for_the_folder_of_its_log(tmp_path):
    """Check that reading asks no disk: the proxy asks when it opens the log, and must not wait while it serves."""
    path = tmp_path / "muxd.toml"
    path.write_text('[proxy]\naccess_log_dir = "/proc/nope"\n')
    config = load_proxy_config(path, {"HOME": str(tmp_path)})
    assert config.proxy.access_log_dir == Path("/proc/nope")
    assert config_from_supervisor(settings_for_proxy(config), {}).proxy == config.proxy


def test_the_proxy_does_not_mind_what_is_wrong_with_the_models(tmp_path):
    path = tmp_path / "muxd.toml"
    path.write_text('[proxy]\nlisten = "127.0.0.1:1234"\n[models.a]\nmodel_path = "/no/such/model"\nprot = 3\n')
    assert load_proxy_config(path, {"HOME": str(tmp_path)}).proxy.port == 1234


def test_the_proxy_minds_what_is_wrong_with_its_own_table(tmp_path):
    path = tmp_path / "muxd.toml"
    path.write_text('[proxy]\nlisten = 7\n[models.a]\nmodel_path = "/no/such/model"\n')
    with pytest.raises(ConfigError) as error:
        load_proxy_config(path, {"HOME": str(tmp_path)})
    assert [p.split(": ")[1] for p in error.value.problems] == ["proxy.listen"]


@pytest.mark.parametrize(
    ("text", "path", "what"),
    [
        ('[proxy]\nuser = "no-such-user"', "proxy.user", "no user no-such-user"),
        ('[models.muxd-proxy]\nengine = "simulator"', "models.muxd-proxy", "the proxy is called so"),
        (
            '[models.a]\nengine = "simulator"\nsimulation = { faults = ["explode"] }',
            "models.a.simulation.faults",
            "there is no fault 'explode'",
        ),
    ],
)
def test_what_would_only_fail_at_the_start_is_found_by_check(tmp_path, text, path, what):
    file = tmp_path / "muxd.toml"
    file.write_text(text + '\n[models.ok]\nengine = "simulator"\n')
    with pytest.raises(ConfigError) as error:
        load_config(file, {"HOME": str(tmp_path)})
    (problem,) = error.value.problems
    assert f" {path}: " in problem
    assert what in problem


def test_hosts_and_origins_are_kept_as_they_are_compared(load):
    hosts = '["GPU1.example", "*.lan", "[FD00::1]", "10.0.0.7", "gpu2."]'
    origins = '["HTTPS://Chat.example:443", "http://localhost:3000", "http://a.test:80", "app://obsidian.md", "null"]'
    proxy = load(f"[proxy]\nhosts = {hosts}\nallow_origins = {origins}\n" + ONE_MODEL).proxy
    assert proxy.hosts == ("gpu1.example", "*.lan", "fd00::1", "10.0.0.7", "gpu2")
    assert proxy.allow_origins == (
        "https://chat.example", "http://localhost:3000", "http://a.test", "app://obsidian.md", "null",
    )  # fmt: skip
    assert load("[proxy]\nallow_origins = []\n" + ONE_MODEL).proxy.allow_origins == ()
    assert load(ONE_MODEL).proxy.allow_origins is None


@pytest.mark.parametrize("host", ["http://gpu1", "gpu1:30100", "gpu1/x", "", "a b", "**", "x.*", "[::1]:80"])
def test_what_is_no_hosts_name_is_told(problems, host):
    assert "proxy.hosts" in problems(f'[proxy]\nhosts = ["{host}"]\n' + ONE_MODEL)[0]


@pytest.mark.parametrize("origin", ["localhost:3000", "https://a.example/", "https://a.example/x", "https://*", "//a"])
def test_what_is_no_origin_is_told(problems, origin):
    (problem,) = problems(f'[proxy]\nallow_origins = ["{origin}"]\n' + ONE_MODEL)
    assert 'is not an origin; write scheme, host and port alone: "http://localhost:3000", or "*"' in problem


def test_several_processes_need_room_for_the_names_of_their_sockets(problems, load, tmp_path):
    several, deep = "[proxy]\nprocesses = 2\n", f'[muxd]\nstate_dir = "/tmp/{"d" * 100}"\nsocket = "/tmp/s"\n'
    too_long = "F:5: proxy.processes: several processes have sockets in state_dir, whose path is 12 bytes too long"
    found = problems(deep + several + ONE_MODEL)
    assert any(told.startswith(too_long) for told in found), found
    another = "[models.nameless]\n"
    assert not any("processes" in told for told in problems(deep + another + ONE_MODEL))
