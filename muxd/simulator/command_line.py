"""The command line: SGLang's flags as far as they matter here, SGLang's YAML file, and the simulator's own flags.

A flag of SGLang that is not listed is accepted with its values and ignored, so that a model's `args` need not change
between the two engines.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .faults import FAULTS, Faults, LackingFeature, parse_faults

GiB = 1 << 30
_SWITCHES = ("enable_memory_saver", "enable_weights_cpu_backup", "enable_metrics", "is_embedding", "enable_lora")


@dataclass(frozen=True, slots=True)
class Flags:
    """The parsed command line.  Sizes are bytes, over all GPUs of the model; times are seconds."""

    model_path: str  # the served name where no path is given: pretend weights need no place
    served_model_name: str
    host: str
    port: int
    api_key: str | None
    admin_api_key: str | None
    enable_memory_saver: bool
    enable_weights_cpu_backup: bool
    enable_metrics: bool
    is_embedding: bool
    enable_lora: bool  # every adapter that a client can name exists then
    tp_size: int
    dp_size: int
    context_length: int
    gated_launch_port: int | None
    import_time: float
    load_time: float
    sleep_time: float
    wake_time: float
    release_lag: float
    token_rate: float
    batch_slots: int
    ledger: Path | None
    gpus: tuple[str, ...]
    gpu_memory: int
    weights: int
    kv: int
    overhead: int
    pace: float
    faults: Faults

    def seconds(self, of_sglang: float) -> float:
        """Return the seconds that one of SGLang's own waits takes at this simulator's pace."""
        return of_sglang * self.pace


def parse_flags(argv: Sequence[str]) -> Flags:
    """Read a command line; end the process with status 2 and a usage message where it is bad, as SGLang does."""
    parser = _parser()
    try:
        known, unknown = parser.parse_known_args([*_from_config(argv), *argv])
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if unknown and (not unknown[0].startswith("-") or any(flag.startswith("--no-such") for flag in unknown)):
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    values = vars(known)
    del values["config"], values["sleep_on_idle"]  # the simulator never polls
    values["model_path"] = known.model_path or known.served_model_name or "model"
    values["enable_lora"] |= bool(values.pop("lora_paths"))
    values["served_model_name"] = known.served_model_name or known.model_path
    try:
        faults = parse_faults(known.faults)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    lacking = [flag for flag, part in _FEATURE_OF_FLAG.items() if flag in argv and faults.has("lacks", part)]
    if lacking:
        parser.error(f"unrecognized arguments: {' '.join(lacking)}")
    values["enable_memory_saver"] &= not faults.has("lacks", LackingFeature.EFFECT)
    return Flags(**{**values, "faults": faults})


_FEATURE_OF_FLAG = {
    "--enable-memory-saver": LackingFeature.MEMORY_SAVER,
    "--enable-weights-cpu-backup": LackingFeature.CPU_BACKUP,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m muxd.simulator",
        description="A stand-in SGLang server: real processes and HTTP, pretend weights and GPU memory.",
        epilog="faults:\n" + "\n".join(f"  {name:18} {what}" for name, (_, what) in FAULTS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    sglang = parser.add_argument_group("as in SGLang")
    sglang.add_argument("--model-path", "--model", required=True, help="any name or path; it need not exist")
    sglang.add_argument("--served-model-name")
    sglang.add_argument("--host", default="127.0.0.1")
    sglang.add_argument("--port", type=int, default=30000)
    sglang.add_argument("--gated-launch-port", type=int)
    sglang.add_argument("--config", help="flags from a file of `key: value` lines, .yaml or .yml")
    sglang.add_argument("--api-key")
    sglang.add_argument("--admin-api-key")
    sglang.add_argument("--enable-memory-saver", action="store_true")
    sglang.add_argument("--enable-weights-cpu-backup", action="store_true")
    sglang.add_argument("--enable-metrics", action="store_true")
    sglang.add_argument("--sleep-on-idle", action="store_true")
    sglang.add_argument("--is-embedding", action="store_true")
    sglang.add_argument("--enable-lora", action="store_true")
    sglang.add_argument("--lora-paths", nargs="*")
    sglang.add_argument("--tp-size", "--tensor-parallel-size", "--tp", type=_positive, default=1)
    sglang.add_argument("--dp-size", "--data-parallel-size", "--dp", type=_positive, default=1)
    sglang.add_argument("--context-length", type=_positive, default=32768)
    _add_own(parser.add_argument_group("the simulator's own"))
    return parser


def _add_own(own: "argparse._ArgumentGroup") -> None:
    own.add_argument("--import-time", type=float, default=0.0, help="seconds before that, up to a gate")
    own.add_argument("--load-time", type=float, default=1.0, help="seconds from the start to the port")
    own.add_argument("--sleep-time", type=float, default=0.1, help="seconds to release the weights")
    own.add_argument("--wake-time", type=float, default=0.3, help="seconds to bring the weights back, at either level")
    own.add_argument("--release-lag", type=float, default=0.0, help="seconds from a release's answer to free memory")
    own.add_argument("--token-rate", type=_above_zero, default=100.0, help="tokens per second of one request")
    own.add_argument("--batch-slots", type=_positive, default=8, help="requests that run at once; others wait")
    own.add_argument("--ledger", type=Path, help="the host's file of pretend GPU memory; without it memory is endless")
    own.add_argument("--gpus", type=_gpus, default=("0",), help="the GPUs it is spread over, as 0,1")
    own.add_argument("--gpu-memory", type=int, default=80 * GiB, help="bytes of each GPU")
    own.add_argument("--weights", type=int, default=0, help="bytes, over all GPUs")
    own.add_argument("--kv", type=int, default=0, help="bytes, over all GPUs")
    own.add_argument("--overhead", type=int, default=0, help="bytes, over all GPUs, that only the process's end frees")
    own.add_argument(
        "--pace", type=_above_zero, default=1.0, help="factor on SGLang's own waits, such as the 5 s of SIGTERM"
    )
    metavar = "NAME[=VALUE][,once=FILE | ,while=FILE]"
    own.add_argument("--fault", action="append", default=[], dest="faults", metavar=metavar)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


def _above_zero(text: str) -> float:
    number = float(text)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def _gpus(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _from_config(argv: Sequence[str]) -> Iterator[str]:
    """Yield the flags of the `--config` file; they are parsed before the command line's, so that the latter win."""
    if "--config" not in argv:
        return
    index = argv.index("--config") + 1
    if index == len(argv):
        raise ValueError("No config file specified after --config flag!")
    path = Path(argv[index])
    if path.suffix.lower() not in (".yaml", ".yml"):
        raise ValueError(f"Config file must be YAML format, got: {path.suffix}")
    for line in path.read_text().splitlines():
        key, colon, value = line.partition(":")
        key, value = key.strip().replace("_", "-"), value.strip()
        if not key or key.startswith("#"):
            continue
        if not colon:
            raise ValueError(f"{path}: not a `key: value` line: {key}")
        yield from _as_flag(key, value)


def _as_flag(key: str, value: str) -> tuple[str, ...]:
    if value in ("true", "false") and key.replace("-", "_") in _SWITCHES:
        return (f"--{key}",) if value == "true" else ()
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1]
    return (f"--{key}", value)
