"""What a return costs with weights that are not in RAM, and what reading them ahead saves of it.

    python bench/prefetch.py [--quick] [--gib N] [--real] [--level 2|3] [runs]

Files of N GiB (2 by default) are written, and before each run dropped from the page cache.  Without --real they are
read as a loader reads them: at once, or after muxd's reader has had the time of a drain.  With --real a real SGLang on
the CPU (see tests/real) has them as its model, and sleeps at level 2, or 3; another model answers a stream while the
request for this one waits.  Its return counts from the last byte of that stream to the first byte of the answer, with
`prefetch = false` and with it.

The disk is read at the speed that it has: where files come from RAM after all, as on a virtual disk that its host keeps
there, little is saved.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from figures import Figure, show
from muxd_process import MuxdProcess, running_muxd, two_real_models, until

from muxd.host.page_cache import CHUNK, bytes_in_ram, read_ahead
from muxd.host.priority import read_when_idle

GiB = 1 << 30

#: Of a Llama: small enough for a CPU, and each layer has some 126 MB of weights.
HIDDEN, INNER, HEADS = 2048, 8192, 32


def drop(files: Sequence[Path]) -> None:
    """Have none of the files in the page cache."""
    for file in files:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    left = sum(bytes_in_ram(file) or 0 for file in files)
    if left > CHUNK:
        raise SystemExit(
            f"{left >> 20} MiB of the files stay in the page cache: a file system in RAM, or somebody has them"
        )


# The reading alone


def load(files: Sequence[Path]) -> float:
    """Read the files as a loader does; return the seconds that it took."""
    began, buffer = time.monotonic(), bytearray(CHUNK)
    for file in files:
        with file.open("rb", buffering=0) as opened:
            while opened.readinto(buffer):
                pass
    return time.monotonic() - began


def read_in_the_drain(files: Sequence[Path]) -> None:
    read_when_idle()
    for file in files:
        read_ahead(file, lambda size: True)


def measure_reading(folder: Path, size: int, runs: int) -> None:
    files = [folder / f"model-{number}.safetensors" for number in range(4)]
    for file in files:
        with file.open("wb") as opened:
            for _ in range(size // len(files) >> 20):
                opened.write(os.urandom(1 << 20))
    cold, ahead = [], []
    for _ in range(runs):
        drop(files)
        cold.append(load(files))
        drop(files)
        reader = threading.Thread(target=read_in_the_drain, args=(files,))
        reader.start()
        reader.join()
        ahead.append(load(files))
    tell(f"reading {size / GiB:g} GiB", cold, ahead)


def tell(title: str, cold: Sequence[float], ahead: Sequence[float]) -> None:
    figures = [Figure("cold", cold, "s"), Figure("read ahead", ahead, "s")]
    show(title, figures)
    print(f"\nread ahead / cold: {figures[1].median / figures[0].median:.2f}")


# Real SGLang


def write_model(folder: Path, like: Path, size: int) -> list[Path]:
    """Write a Llama of random weights with about so many bytes, with the tokenizer of another one."""
    shutil.copytree(like, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((folder / "config.json").read_text())
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], HIDDEN),
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (config["vocab_size"], HIDDEN),
    }
    wide = {"mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN), "mlp.down_proj": (HIDDEN, INNER)}
    layer: dict[str, tuple[int, ...]] = {f"self_attn.{name}_proj": (HIDDEN, HIDDEN) for name in "qkvo"} | wide
    layer |= {"input_layernorm": (HIDDEN,), "post_attention_layernorm": (HIDDEN,)}
    layers = -(-size // sum(2 * count(shape) for shape in layer.values()))
    for number in range(layers):
        shapes |= {f"model.layers.{number}.{name}.weight": shape for name, shape in layer.items()}
    config |= {
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": layers,
        "head_dim": HIDDEN // HEADS,
    }
    config |= {"num_attention_heads": HEADS, "num_key_value_heads": HEADS}
    (folder / "config.json").write_text(json.dumps(config))
    header, end = {}, 0
    for name, shape in shapes.items():
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": (end, end + 2 * count(shape))}
        end += 2 * count(shape)
    # Each weight is some thousandths: the high byte says the sign and how small it is, the low one is random.
    noise = bytearray(os.urandom(1 << 20))
    noise[1::2] = bytes(0xBA if byte & 1 else 0x3A for byte in noise[1::2])
    file, text = folder / "model.safetensors", json.dumps(header).encode()
    with file.open("wb") as opened:
        opened.write(len(text).to_bytes(8, "little") + text)
        for start in range(0, end, len(noise)):
            opened.write(noise[: end - start])
    return [file]


def count(shape: Sequence[int]) -> int:
    return shape[0] * (shape[1] if len(shape) > 1 else 1)


def measure_sglang(folder: Path, size: int, level: int, runs: int) -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from tests.real.install import DEFAULT
    from tests.real.sglang_cpu import CPU_ARGS, CPU_ENV

    home = Path(os.environ.get("MUXD_REAL_SGLANG", DEFAULT)).absolute()
    big = folder / "big"
    files = write_model(big, home / "models/tiny-a", size)
    args = [*CPU_ARGS, "--mem-fraction-static", "0.4", "--max-total-tokens", "4096"]  # the last one of each counts
    models = f"{two_real_models('sglang', home, args, CPU_ENV, big, level)}prefetch = false\n"
    cold, ahead = [], []
    with running_muxd(models) as muxd:
        muxd.ask("b", max_tokens=1)
        returned(muxd, files, level)  # the first return imports what the others have
        for _ in range(runs):
            for seconds, prefetches in ((cold, False), (ahead, True)):
                set_prefetch(muxd, prefetches)
                seconds.append(returned(muxd, files, level))
                print(f"{'read ahead' if prefetches else 'cold'}: {seconds[-1]:.1f} s", file=sys.stderr)
    tell(f"real SGLang on a CPU, {size / GiB:g} GiB of weights, a return from level {level}", cold, ahead)


def set_prefetch(muxd: MuxdProcess, prefetches: bool) -> None:
    config = muxd.folder / "muxd.toml"
    before, _, _ = config.read_text().rpartition("prefetch = ")
    config.write_text(f"{before}prefetch = {str(prefetches).lower()}\n")
    subprocess.run([sys.executable, "-m", "muxctl", "--socket", str(muxd.socket), "reload"], check=True, stdout=2)


def returned(muxd: MuxdProcess, files: Sequence[Path], level: int) -> float:
    """Return the seconds from the last byte of the other model's stream to the first byte of this one's answer."""
    muxd.ask("a", max_tokens=1)
    until(lambda: muxd.states()["b"] == ("asleep" if level < 3 else "unloaded"), 60)
    drop(files)
    begun, ended = threading.Event(), []

    def stream() -> None:
        for _ in muxd.stream("a", max_tokens=2000, ignore_eos=True, stream=True):
            begun.set()
        ended.append(time.monotonic())

    other = threading.Thread(target=stream)
    other.start()
    begun.wait()
    answer = muxd.ask("b", max_tokens=1)
    other.join()
    return answer - ended[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="only to see that it works")
    parser.add_argument("--gib", type=float, default=2.0)
    parser.add_argument("--real", action="store_true", help="SGLang on the CPU, in $MUXD_REAL_SGLANG or .sglang-cpu")
    parser.add_argument("--level", type=int, choices=(2, 3), default=2)
    parser.add_argument(
        "--folder", type=Path, help="on the disk that is to be measured; default: the folder for temporary files"
    )
    parser.add_argument("runs", nargs="?", type=int, default=3)
    options = parser.parse_args()
    runs, size = (1, 64 << 20) if options.quick else (options.runs, int(options.gib * GiB))
    with tempfile.TemporaryDirectory(prefix="muxd-bench-", dir=options.folder) as folder:
        if options.real:
            measure_sglang(Path(folder), size, options.level, runs)
        else:
            measure_reading(Path(folder), size, runs)


if __name__ == "__main__":
    main()
