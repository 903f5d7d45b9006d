"""`muxd router`: sglang-router's command line, as a configuration of one model whose servers run already.

The flags are those of 0.1.8 and of 0.3.2.  Each is a key of muxd's, goes to the router behind the proxy as it is, or is
refused with the reason; docs/how-to/from-sglang-router.md shows the table.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from muxd.config.lines import KeyPath
from muxd.config.problems import Problems
from muxd.config.schema import Config
from muxd.config.sources import Source
from muxd.errors import ConfigError

MODEL = "router"
HOST, PORT = "127.0.0.1", 30000
_OF_MODEL, _OF_ROUTER = ("models", MODEL), ("models", MODEL, "router")


class _BadValue(ValueError):
    """A flag's value cannot be taken; the text says why."""


@dataclass(frozen=True, slots=True)
class FlagMeaning:
    """What becomes of a flag; `shown` says so for the documents."""

    shown: str
    put: Callable[[RouterCommand, Sequence[str]], None] | None = None  # None: it is refused, or passed on
    words: tuple[int, int | None] = (1, 1)  # the least and the most words behind it; None: any number
    refusal: str = ""  # why it is refused; "": it is not


def _key(path: KeyPath, convert: Callable[[str], Any] = str) -> FlagMeaning:
    def put(args: RouterCommand, words: Sequence[str]) -> None:
        args.put(path, convert(words[0]))

    return FlagMeaning(_shown(path), put)


def _several(path: KeyPath, convert: Callable[[Sequence[str]], Any] = list) -> FlagMeaning:
    def put(args: RouterCommand, words: Sequence[str]) -> None:
        args.put(path, convert(words))

    return FlagMeaning(_shown(path), put, (0, None))


def _passed(words: tuple[int, int | None] = (1, 1)) -> FlagMeaning:
    return FlagMeaning("passed on to the router as it is", None, words)


def _refused(why: str, words: tuple[int, int | None] = (1, 1)) -> FlagMeaning:
    return FlagMeaning(f"refused: {why}", None, words, why)


def _ignored(why: str, words: tuple[int, int | None] = (0, 0)) -> FlagMeaning:
    return FlagMeaning(f"of no effect: {why}", lambda args, words: None, words)


def _shown(path: KeyPath) -> str:
    if path[:2] != _OF_MODEL:
        return f"`[{path[0]}] {'.'.join(map(str, path[1:]))}`"
    return f"`{'.'.join(map(str, path[2:]))}` of the model"


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise _BadValue(f"{text} is not a whole number")
    return int(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise _BadValue(f"{text} is not a number") from None


def _seconds(text: str) -> str:
    return f"{_whole(text)}s"


def _labels(words: Sequence[str]) -> dict[str, str]:
    pairs = [word.partition("=") for word in words]
    if wrong := next((name for name, equals, _ in pairs if not equals), None):
        raise _BadValue(f"{wrong} is no label; write name=value")
    return {name: value for name, _, value in pairs}


def _prefill(args: RouterCommand, words: Sequence[str]) -> None:
    url, port = words[0], words[1] if len(words) > 1 else "none"
    args.put((*_OF_MODEL, "prefill"), [*args.get((*_OF_MODEL, "prefill")), url if port == "none" else f"{url} {port}"])


def _decode(args: RouterCommand, words: Sequence[str]) -> None:
    args.put((*_OF_MODEL, "decode"), [*args.get((*_OF_MODEL, "decode")), words[0]])


def _ca_certificate(args: RouterCommand, words: Sequence[str]) -> None:
    """Put one more certificate behind the router's own flag, of which only the last one counts."""
    told = args.get((*_OF_ROUTER, "args"))
    place = told.index(_CA_PATHS) + 1 if _CA_PATHS in told else len(told)
    added = words if _CA_PATHS in told else [_CA_PATHS, *words]
    args.put((*_OF_ROUTER, "args"), [*told[:place], *added, *told[place:]])


def _host(args: RouterCommand, words: Sequence[str]) -> None:
    args.listen[0] = words[0]


def _port(args: RouterCommand, words: Sequence[str]) -> None:
    args.listen[1] = str(_whole(words[0]))


def _metrics_host(args: RouterCommand, words: Sequence[str]) -> None:
    args.metrics[0] = words[0]


def _metrics_port(args: RouterCommand, words: Sequence[str]) -> None:
    args.metrics[1] = str(_whole(words[0]))


def _limit(path: KeyPath) -> FlagMeaning:
    def put(args: RouterCommand, words: Sequence[str]) -> None:
        if words[0] != "-1":  # no limit
            args.put(path, _whole(words[0]))

    return FlagMeaning(_shown(path), put)


_NONE, _ANY = (0, 0), (0, None)
_CA_PATHS = "--ca-cert-paths"
_HALVES = {"--prefill", "--decode", "--prefill-selector", "--decode-selector"}
_SERVERS = {"--worker-urls", "--selector"} | _HALVES
_OF_WORKERS = "it is for the start of workers, which muxd does: write [models.NAME] with model_path and replicas"
_NO_TLS = "muxd's proxy speaks HTTP; put a server with TLS before it"
_NO_KEYS = "clients show keys to muxd's proxy: see [[keys]] and `muxctl keys add`"
_GRPC = "it is for workers of gRPC, and muxd's are of HTTP"
_OWN_HISTORY = "muxd keeps no conversations"

FLAGS: dict[str, FlagMeaning] = {
    "--host": FlagMeaning("the host of `[proxy] listen`; 127.0.0.1 where it is left out, not 0.0.0.0", _host),
    "--port": FlagMeaning("the port of `[proxy] listen`", _port),
    "--allow-anonymous": FlagMeaning(
        "muxd's own: `[proxy] allow_anonymous`, without which nobody beyond this host is let in without a key",
        lambda args, words: args.put(("proxy", "allow_anonymous"), True),
        _NONE,
    ),
    "--worker-urls": _several((*_OF_MODEL, "urls")),
    "--policy": _key((*_OF_ROUTER, "policy")),
    "--cache-threshold": _key((*_OF_ROUTER, "cache_threshold"), _number),
    "--balance-abs-threshold": _key((*_OF_ROUTER, "balance_abs_threshold"), _whole),
    "--balance-rel-threshold": _key((*_OF_ROUTER, "balance_rel_threshold"), _number),
    **dict.fromkeys(("--eviction-interval", "--eviction-interval-secs", "--max-tree-size"), _passed()),
    **dict.fromkeys(("--bucket-adjust-interval-secs", "--max-idle-secs", "--assignment-mode"), _passed()),
    "--dp-aware": _passed(_NONE),
    "--pd-disaggregation": _ignored("--prefill and --decode say it"),
    "--prefill": FlagMeaning("`prefill` of the model", _prefill, (1, 2)),
    "--decode": FlagMeaning("`decode` of the model", _decode),
    **dict.fromkeys(("--prefill-policy", "--decode-policy"), _passed()),
    "--service-discovery": _ignored("--selector says it"),
    "--selector": _several((*_OF_MODEL, "discovery", "selector"), _labels),
    "--prefill-selector": _several((*_OF_MODEL, "discovery", "prefill_selector"), _labels),
    "--decode-selector": _several((*_OF_MODEL, "discovery", "decode_selector"), _labels),
    "--service-discovery-port": _key((*_OF_MODEL, "discovery", "port"), _whole),
    "--service-discovery-namespace": _key((*_OF_MODEL, "discovery", "namespace")),
    "--prometheus-port": FlagMeaning("the port of `[proxy] metrics_listen`, with the router's metrics", _metrics_port),
    "--prometheus-host": FlagMeaning("the host of `[proxy] metrics_listen`", _metrics_host),
    "--prometheus-duration-buckets": _passed(_ANY),
    "--request-id-headers": _several(("proxy", "request_id_headers")),
    "--log-dir": _key(("muxd", "log_dir"), os.path.abspath),
    "--log-level": _key(("muxd", "log_level"), lambda word: {"warn": "warning"}.get(word, word)),
    "--verbose": FlagMeaning("`[muxd] log_level`", lambda args, words: args.put(("muxd", "log_level"), "debug"), _NONE),
    "--cors-allowed-origins": _several(("proxy", "allow_origins")),
    "--max-payload-size": _key(("proxy", "max_body"), _whole),
    "--max-concurrent-requests": _limit((*_OF_MODEL, "concurrency_limit")),
    "--queue-size": _limit((*_OF_MODEL, "queue_limit")),
    "--queue-timeout-secs": _key((*_OF_MODEL, "switch_timeout"), _seconds),
    **dict.fromkeys(
        ("--worker-startup-timeout-secs", "--worker-startup-timeout"), _key((*_OF_MODEL, "start_timeout"), _seconds)
    ),
    **dict.fromkeys(("--worker-startup-check-interval", "--worker-startup-check-interval-secs"), _passed()),
    "--request-timeout-secs": _ignored(
        "an answer may take as long as it takes; see `[proxy] upstream_timeout`", (1, 1)
    ),
    "--shutdown-grace-period-secs": _key(("proxy", "drain_timeout"), _seconds),
    "--disable-retries": _ignored("muxd's proxy asks again, and the router never does"),
    **dict.fromkeys(
        (
            *("--retry-max-retries", "--retry-initial-backoff-ms", "--retry-max-backoff-ms"),
            *("--retry-backoff-multiplier", "--retry-jitter-factor"),
        ),
        _ignored("muxd's proxy asks again, and the router never does", (1, 1)),
    ),
    **dict.fromkeys(("--cb-failure-threshold", "--cb-success-threshold"), _passed()),
    **dict.fromkeys(("--cb-timeout-duration-secs", "--cb-window-duration-secs"), _passed()),
    "--disable-circuit-breaker": _passed(_NONE),
    **dict.fromkeys(("--health-failure-threshold", "--health-success-threshold", "--health-check-endpoint"), _passed()),
    **dict.fromkeys(("--health-check-timeout-secs", "--health-check-interval-secs"), _passed()),
    "--disable-health-check": _refused("a server that hangs would never be found", _NONE),
    **dict.fromkeys(("--client-cert-path", "--client-key-path", "--otlp-traces-endpoint"), _passed()),
    "--ca-cert-paths": _passed(_ANY),
    "--ca-cert-path": FlagMeaning(f"passed on to the router behind `{_CA_PATHS}`, each of them", _ca_certificate),
    "--enable-trace": _passed(_NONE),
    "--rate-limit-tokens-per-second": _refused("rates are those of API keys: see `requests_per_minute` in [[keys]]"),
    **dict.fromkeys(("--api-key", "--jwt-issuer", "--jwt-audience", "--jwt-jwks-uri"), _refused(_NO_KEYS)),
    **dict.fromkeys(("--jwt-role-mapping", "--control-plane-api-keys"), _refused(_NO_KEYS, _ANY)),
    "--control-plane-audit-enabled": _refused(_NO_KEYS, _NONE),
    **dict.fromkeys(("--tls-cert-path", "--tls-key-path"), _refused(_NO_TLS)),
    "--enable-igw": _refused("each model of muxd has a router of its own; write [models.NAME] for each", _NONE),
    "--mini-lb": _refused("muxd drives the whole router", _NONE),
    **dict.fromkeys(("--model-path", "--tokenizer-path", "--chat-template", "--reasoning-parser"), _refused(_GRPC)),
    **dict.fromkeys(("--tool-call-parser", "--tokenizer-cache-l0-max-entries"), _refused(_GRPC)),
    **dict.fromkeys(("--tokenizer-cache-enable-l0", "--tokenizer-cache-enable-l1"), _refused(_GRPC, _NONE)),
    "--tokenizer-cache-l1-max-memory": _refused(_GRPC),
    **dict.fromkeys(("--model", "--tp-size", "--dp-size"), _refused(_OF_WORKERS)),
    "--grpc-mode": _refused(_OF_WORKERS, _NONE),
    **dict.fromkeys(("--version", "--version-verbose"), _refused("`muxd --version` and `muxd check` say them", _NONE)),
    "--backend": _refused(
        'another provider is a model of its own: engine = "remote", with urls, api_key_env and external = true'
    ),
    "--mcp-config-path": _refused("tools are called by the client"),
    "--history-backend": _refused(_OWN_HISTORY),
    **dict.fromkeys(
        (
            *("--oracle-wallet-path", "--oracle-tns-alias", "--oracle-connect-descriptor", "--oracle-username"),
            *("--oracle-password", "--oracle-pool-min", "--oracle-pool-max", "--oracle-pool-timeout-secs"),
            *(
                "--oracle-dsn",
                "--oracle-user",
                "--postgres-db-url",
                "--postgres-pool-max",
                "--redis-url",
                "--redis-pool-max",
                "--redis-retention-days",
            ),
        ),
        _refused(_OWN_HISTORY),
    ),
}


@dataclass(slots=True)
class RouterCommand:
    """A command line of sglang-router, as a source of the configuration."""

    table: dict[str, Any] = field(default_factory=dict)
    listen: list[str] = field(default_factory=lambda: [HOST, str(PORT)])
    metrics: list[str] = field(default_factory=lambda: [HOST, ""])

    stands_alone = True

    @classmethod
    def of(cls, words: Sequence[str]) -> RouterCommand:
        """Read the flags; raise ConfigError with all that is wrong with them."""
        args = cls()
        args.put((*_OF_MODEL, "engine"), "remote")
        args.put((*_OF_MODEL, "any_name"), True)
        args.put((*_OF_MODEL, "preload"), True)
        problems = [f"muxd router: {problem}" for problem in args._read(words)]
        if not problems and not _SERVERS & {word.partition("=")[0] for word in words}:
            problems = ["muxd router: of which servers? --worker-urls URL ..., or --selector LABEL=VALUE for pods"]
        if problems:
            raise ConfigError(problems)
        args.put(("proxy", "listen"), _address(args.listen))
        if args.metrics[1]:
            args.put(("proxy", "metrics_listen"), _address(args.metrics))
        return args

    def _read(self, words: Sequence[str]) -> Iterator[str]:
        """Take over the flags one after the other; yield what is wrong."""
        given: list[tuple[str, list[str]]] = []
        for word in words:
            flag, equals, value = word.partition("=")
            if word.startswith("--"):
                given.append((flag, [value] if equals else []))
            elif given:
                given[-1][1].append(word)
            else:
                yield f"{word} belongs to no flag; write --worker-urls before the servers"
        if ("--pd-disaggregation", []) in given and not _HALVES & {flag for flag, _ in given}:
            yield "--pd-disaggregation: no server prefills or decodes; give --prefill and --decode, or leave it out"
        for flag, values in given:
            meaning = FLAGS.get(flag)
            if meaning is None:
                near = get_close_matches(flag, FLAGS, 1)
                yield f"{flag} is no flag of sglang-router; " + (f"did you mean {near[0]}?" if near else "remove it")
                continue
            least, most = meaning.words
            if not least <= len(values) <= (len(values) if most is None else most):
                yield f"{flag} takes {_count(least, most)}, and has {len(values)}"
            elif meaning.refusal:
                yield f"{flag} is not for muxd: {meaning.refusal}"
            elif meaning.put is None:
                self.put((*_OF_ROUTER, "args"), [*self.get((*_OF_ROUTER, "args")), flag, *values])
            else:
                try:
                    meaning.put(self, values)
                except _BadValue as error:
                    yield f"{flag}: {error}"

    def put(self, path: KeyPath, value: Any) -> None:
        table = self.table
        for name in path[:-1]:
            table = table.setdefault(str(name), {})
        table[str(path[-1])] = value

    def get(self, path: KeyPath) -> list[str]:
        table: Any = self.table
        for name in path:
            table = table.get(str(name), {})
        return list(table or ())

    def join(self, sources: Sequence[Source], problems: Problems) -> list[Source]:
        source = Source(Path("the command line"), self.table, {})
        problems.also(source)
        return [source]

    def amend(self, config: Config) -> Config:
        return config


def _address(parts: Sequence[str]) -> str:
    host, port = parts
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _count(least: int, most: int | None) -> str:
    if most is None:
        return f"{least} words or more"
    return "no value" if most == 0 else "one value" if least == most else f"{least} or {most} values"
