"""Every key that a user may write, one line each: its reader and its range.

Defaults are in `schema`; a test checks that the two modules have the same keys.
"""

from .readers import (
    Reader,
    address,
    boolean,
    choice,
    command,
    directory,
    duration,
    environment,
    gpus,
    header_names,
    host_names,
    integer,
    model_path,
    names,
    number,
    origins,
    params,
    path,
    script,
    size,
    stripped,
    text,
    texts,
)
from .schema import ACCESS_LOGS, LOG_LEVELS, MiB

Table = dict[str, "Reader | Table"]

DAEMON: Table = {
    "socket": path,
    "state_dir": path,
    "log_dir": path,
    "log_level": choice(*LOG_LEVELS),
    "log_format": choice("text", "json"),
    "admin_group": text,
    "others": choice("read", "none"),
    "shutdown_timeout": duration(),
    "simulated_gpu_memory": size(low=MiB),
}

PROXY: Table = {
    "listen": address,
    "managed": boolean,
    "user": text,
    "max_body": size(low=1024),
    "buffer_memory": size(low=1024),
    "upstream_timeout": duration(0.1, endless=True),
    "drain_timeout": duration(endless=True),
    "comment_interval": duration(0.1, endless=True),
    "allow_anonymous": boolean,
    "hosts": host_names,
    "allow_origins": origins,
    "metrics_listen": address,
    "request_id_headers": header_names,
    "access_log": choice(*ACCESS_LOGS),
    "access_log_dir": path,
}

POLICY: Table = {
    "wait_target": duration(endless=True),
    "keep_turns": boolean,
}

MEMORY: Table = {
    "weights": size(),
    "kv": size(),
    "overhead": size(),
}

SIMULATION: Table = {
    "load_time": duration(),
    "sleep_time": duration(),
    "wake_time": duration(),
    "release_lag": duration(),
    "token_rate": number(above=0, high=1e6),
    "batch_slots": integer(1, 100_000),
    "pace": number(above=0, high=10),
    "faults": texts,
}

MODEL: Table = {
    "script": script,
    "engine": choice("sglang", "simulator"),
    "model_path": model_path,
    "served_names": names,
    "gpus": gpus,
    "memory": MEMORY,
    "sleep_level": integer(1, 3),
    "preload": boolean,
    "port": integer(0, 65535),
    "python": command,
    "args": texts,
    "env": environment,
    "cwd": directory,
    "start_timeout": duration(1, endless=True),
    "stop_timeout": duration(0.1),
    "drain_timeout": duration(endless=True),
    "switch_timeout": duration(0.1, endless=True),
    "call_timeout": duration(0.1),
    "gpu_release_timeout": duration(0.1),
    "restart_limit": integer(1, 1000),
    "restart_window": duration(1, endless=True),
    "stable_after": duration(),
    "cool_down": duration(1, endless=True),
    "probe_interval": duration(0.1),
    "probe_timeout": duration(0.1),
    "probe_failures": integer(1, 1000),
    "hang_timeout": duration(1, endless=True),
    "concurrency_limit": integer(0, 1_000_000),
    "queue_limit": integer(0, 1_000_000),
    "upstream_name": text,
    "set_params": params,
    "strip_params": stripped,
    "log_max_bytes": size(low=64 * 1024),
    "log_backups": integer(0, 1000),
    "simulation": SIMULATION,
}

# Flags and variables that muxd itself sets for an engine, each with what the user does instead.
OWNED_FLAGS = {
    "--host": "leave it out: workers listen on loopback only",
    "--port": "use the key port",
    "--model": "use the key model_path",
    "--model-path": "use the key model_path",
    "--served-model-name": "use the key served_names",
    "--config": "leave it out: muxd writes that file; put its settings into args",
    "--admin-api-key": "leave it out: muxd makes one for each start",
    "--api-key": "leave it out: clients show keys to the proxy, see [[keys]], and it has none to show to the worker",
    "--enable-memory-saver": "use the key sleep_level",
    "--enable-weights-cpu-backup": "use sleep_level = 1",
}
OWNED_ENV = {
    "CUDA_VISIBLE_DEVICES": "use the key gpus",
    "MUXD_TOKEN": "leave it out: muxd knows its processes by it",
}
