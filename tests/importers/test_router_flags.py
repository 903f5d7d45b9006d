"""`muxd router`: every flag of sglang-router is a key, passed on, or refused with its reason."""

import argparse
import re
import tomllib
from importlib.metadata import metadata
from pathlib import Path

import pytest
from sglang_router.router_args import RouterArgs as TheirArgs

from muxd.config.load import load_config
from muxd.errors import ConfigError
from muxd.importers.router_flags import FLAGS, RouterCommand

DOCUMENT = Path(__file__).parents[2] / "docs/how-to/from-sglang-router.md"


def config(tmp_path, *flags):
    environ = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path), "XDG_STATE_HOME": str(tmp_path)}
    return load_config(None, environ, RouterCommand.of(flags))


def model(tmp_path, *flags):
    (found,) = config(tmp_path, *flags).models
    return found


def their_flags():
    parser = argparse.ArgumentParser()
    TheirArgs.add_cli_args(parser)
    return {
        flag: action for action in parser._actions for flag in action.option_strings if flag not in ("-h", "--help")
    }


def test_every_flag_of_the_router_has_a_meaning_and_as_many_words():
    for flag, action in their_flags().items():
        least, most = FLAGS[flag].words
        if action.nargs == 0:
            assert (least, most) == (0, 0), flag
        elif action.nargs in ("*", "+"):
            assert most is None or flag == "--prefill", flag
        else:
            assert (least, most) == (1, 1), flag


def test_every_flag_of_the_routers_readme_has_a_meaning():
    text = metadata("sglang-router").get_payload()
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", text))
    of_others = {
        "--release",
        "--out",
        "--features",
        "--force-reinstall",
        "--proto",
        "--tlsv1",
    }  # cargo, maturin, pip, curl
    assert {"--worker-urls", "--ca-cert-path", "--oracle-dsn"} <= named
    assert named - of_others <= set(FLAGS)


def test_each_certificate_of_several_is_passed_on(tmp_path):
    flags = ["--worker-urls", "https://a:1", "--ca-cert-path", "/a.pem", "--dp-aware", "--ca-cert-path", "/b.pem"]
    args = list(model(tmp_path, *flags).router.args)
    parser = argparse.ArgumentParser()
    TheirArgs.add_cli_args(parser)
    told = parser.parse_args(args)
    assert (sorted(told.ca_cert_paths), told.dp_aware) == (["/a.pem", "/b.pem"], True)


def test_the_document_has_the_table():
    rows = dict(re.findall(r"^\| `(--[\w-]+)` \| (.+) \|$", DOCUMENT.read_text(), re.MULTILINE))
    assert rows == {flag: meaning.shown for flag, meaning in FLAGS.items()}


def test_the_documents_configuration_is_one(tmp_path):
    (text,) = re.findall(r"```toml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    text = re.sub(r'"/models/[^"]+"', '"Qwen/Qwen3-14B"', text)
    (tmp_path / "muxd.toml").write_text(text)
    loaded = load_config(
        tmp_path / "muxd.toml", {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "OPENAI_API_KEY": "k"}
    )
    assert [each.name for each in loaded.models] == list(tomllib.loads(text)["models"])


def test_a_command_line_of_regular_workers(tmp_path):
    flags = ("--worker-urls", "http://a:1", "http://b:2", "--policy=random", "--cache-threshold", "0.5", "--dp-aware")
    found = model(tmp_path, *flags, "--health-check-interval-secs", "7", "--max-concurrent-requests", "-1")
    assert found.engine_options.urls == ("http://a:1", "http://b:2")
    assert (found.router.policy, found.router.cache_threshold) == ("random", 0.5)
    assert found.router.args == ("--dp-aware", "--health-check-interval-secs", "7")
    assert (found.any_name, found.preload, found.concurrency_limit) == (True, True, 0)


def test_prefill_and_decode(tmp_path):
    flags = ("--pd-disaggregation", "--prefill", "http://a:1", "8998", "--prefill", "http://b:1", "none")
    found = model(tmp_path, *flags, "--prefill", "http://c:1", "--decode", "http://d:1", "--decode-policy", "random")
    assert found.engine_options.prefill == ("http://a:1 8998", "http://b:1", "http://c:1")
    assert found.engine_options.decode == ("http://d:1",)
    assert found.router.args == ("--decode-policy", "random")


def test_pods(tmp_path):
    flags = ("--service-discovery", "--selector", "app=qwen", "tier=gpu", "--service-discovery-port", "8000")
    found = model(tmp_path, *flags, "--service-discovery-namespace", "llm").engine_options.discovery
    assert (found.selector, found.port, found.namespace) == ({"app": "qwen", "tier": "gpu"}, 8000, "llm")


def test_what_is_of_the_whole(tmp_path):
    flags = ("--host", "::1", "--port", "31000", "--prometheus-port", "29000", "--log-level", "warn")
    found = config(tmp_path, "--worker-urls", "http://a:1", *flags, "--max-payload-size", "1048576")
    assert (found.proxy.listen, found.proxy.metrics_listen) == (("::1", 31000), ("127.0.0.1", 29000))
    assert (found.daemon.log_level, found.proxy.max_body) == ("warning", 1 << 20)


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ([], "of which servers? --worker-urls URL ..., or --selector LABEL=VALUE for pods"),
        (["--policy=random"], "of which servers? --worker-urls URL ..., or --selector LABEL=VALUE for pods"),
        (["http://a:1"], "http://a:1 belongs to no flag; write --worker-urls before the servers"),
        (["--polcy", "x"], "--polcy is no flag of sglang-router; did you mean --policy?"),
        (["--policy"], "--policy takes one value, and has 0"),
        (["--pd-disaggregation", "yes"], "--pd-disaggregation takes no value, and has 1"),
        (["--pd-disaggregation", "--worker-urls", "http://a:1"], "--pd-disaggregation: no server prefills or "
         "decodes; give --prefill and --decode, or leave it out"),
        (["--prefill"], "--prefill takes 1 or 2 values, and has 0"),
        (["--port", "x"], "--port: x is not a whole number"),
        (["--selector", "app"], "--selector: app is no label; write name=value"),
        (["--enable-igw"], "--enable-igw is not for muxd: each model of muxd has a router of its own; write "
         "[models.NAME] for each"),
        (["--tls-key-path", "k"], "--tls-key-path is not for muxd: muxd's proxy speaks HTTP; put a server with TLS "
         "before it"),
    ],
)  # fmt: skip
def test_what_cannot_be_taken(flags, problem):
    with pytest.raises(ConfigError) as error:
        RouterCommand.of(flags)
    assert error.value.message == f"muxd router: {problem}"


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(ConfigError) as error:
        RouterCommand.of(["--polcy", "x", "--port", "x", "--api-key", "s"])
    assert len(error.value.message.splitlines()) == 3


def test_beyond_this_host_somebody_must_be_let_in(tmp_path):
    with pytest.raises(ConfigError, match="allow_anonymous"):
        config(tmp_path, "--worker-urls", "http://a:1", "--host", "0.0.0.0")
    assert config(
        tmp_path, "--worker-urls", "http://a:1", "--host", "0.0.0.0", "--allow-anonymous"
    ).proxy.allow_anonymous
