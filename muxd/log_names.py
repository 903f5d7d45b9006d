"""What the logs in log_dir are called: NAME.stdout.log and NAME.stderr.log of every child, and muxd.stderr.log.

This module needs only the standard library, because muxctl reads logs itself while muxd is down.
"""

from pathlib import Path

STREAMS = ("stdout", "stderr")


def file_name(worker: str) -> str:
    """Return a worker's name as a part of file names: "qwen@0" for "qwen/0"; no model can be called so."""
    return worker.replace("/", "@")


def worker_name(file: str) -> str:
    """Return the name of a worker that is a part of file names as `file`."""
    return file.replace("@", "/")


def log_files(folder: Path, name: str) -> dict[str, Path]:
    """Return where the output of a child goes, under "stdout" and "stderr"; `name` is its part of file names."""
    return {stream: folder / f"{name}.{stream}.log" for stream in STREAMS}


def own_log_file(folder: Path) -> Path:
    """Return where muxd's own log is kept."""
    return log_files(folder, "muxd")["stderr"]


def logged_names(folder: Path, stream: str, names: str = "*") -> list[str]:
    """Return the names, in order, whose log of this stream is in `folder`; `names` is a pattern of a shell."""
    end = f".{stream}.log"
    return sorted(path.name.removesuffix(end) for path in folder.glob(f"{names}{end}"))
