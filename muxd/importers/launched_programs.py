"""Programs that launch scripts start: which of them may be SGLang's server, and which surely is not."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from difflib import get_close_matches
from itertools import pairwise

from muxd.config.command_lines import CONTAINERS, MODULES, server_at
from muxd.config.flags import Hole, Word

#: Programs that only name a server, or are none of interest.
_QUIET = (
    "echo printf pkill pgrep killall kill grep egrep ps awk sed cat which type test [ [[ true false : trap "
    "head mkdir rm cp mv curl wget touch chmod ulimit logger date ls set shopt nvidia-smi exit return cd "
    "disown jobs bg alias hash umask tee lsof fuser ss netstat"
)
QUIET = frozenset(_QUIET.split())

#: Further programs that start no server.
_TOOLS = (
    "tar gzip gunzip zip unzip zstd xz rsync scp ln find sort uniq cut tr wc diff cmp chown chgrp stat df du free "
    "uname hostname id whoami uptime sync mktemp basename dirname readlink realpath seq tail less more dd file "
    "mount umount mail sendmail clear tput stty git pip pip3 apt apt-get dnf yum crontab getent md5sum sha256sum "
    "base64 jq yq bc expr env printenv : wait sleep fg exec let read"
)
TOOLS = QUIET | frozenset(_TOOLS.split())

#: Programs for which a script stays.
WAITING = ("wait", "sleep", "tail", "fg")

#: Programs that start what their arguments name.
WRAPPERS = ("sudo", "env", "numactl", "taskset", "timeout", "nice", "uv", "conda", "docker", "podman", "srun", "xargs")

#: Programs, modules and images that serve models otherwise; their names may go on behind "." or ":".
_OTHER_ENGINES = (
    "vllm llama-server llama_cpp llamafile ollama tgi text-generation-launcher text-generation-inference lmdeploy "
    "tritonserver trtllm-serve tensorrt_llm koboldcpp aphrodite mlc_llm mlx_lm tabbyapi exllamav2 exllamav3 "
    "xinference localai mistralrs-server ktransformers infinity_emb fastchat litellm ctransformers"
)
OTHER_ENGINES = frozenset(_OTHER_ENGINES.split())

#: What names a server in a text.
SERVER = re.compile(r"launch_server|muxd\.simulator|\bsglang\s+serve\b")

#: SGLang's modules that start no server of a model.
_NO_SERVER = re.compile(
    r"sglang\.(bench_\w+|check_env|profiler|eval\b.*|test\b.*|compile_\w+)|sglang_router\.launch_router"
)

#: What `uv`, `conda` and the like do with a program besides starting it.
_HANDLING = frozenset(("pip", "install", "activate", "deactivate", "create", "remove", "add", "pull", "stop", "rm"))


def is_detached(words: Sequence[Word]) -> bool:
    """Say whether a container is left running, by what comes before the server's own flags."""
    texts = [word for word in words[: server_at(words)] if isinstance(word, str)]
    is_contained = any(os.path.basename(text) in (*CONTAINERS, "docker-compose") for text in texts[:2])
    return is_contained and any(re.fullmatch("-[iteP]*d[itdP]*|--detach(=true)?", text) for text in texts)


def is_unseen(words: Sequence[Word], program: str) -> bool:
    """Say whether a command may start a server, for all that is known of its words."""
    if isinstance(words[0], Hole) or (program in WRAPPERS and any(isinstance(word, Hole) for word in words)):
        return True
    return "--help" not in words and any(isinstance(word, str) and SERVER.search(word) for word in words)


def foreign_server(words: Sequence[Word], program: str) -> str:
    """Return what a command starts that is not SGLang's server, with advice; "" where nothing shows that."""
    texts = [word for word in words if isinstance(word, str)]
    advice = "have the script start python -m sglang.launch_server"
    named = [program, *(after for word, after in pairwise(texts) if word == "-m" or after.endswith(".py"))]
    named = [os.path.basename(name) for name in named]
    for module in named[1:]:
        if _NO_SERVER.fullmatch(module):
            return f"{module} serves no model; {advice}"
        if module not in MODULES and get_close_matches(module, MODULES[:1], 1, 0.85):
            return f"there is no module {module}; did you mean {MODULES[0]}?"
    if (program in (*WRAPPERS, "uvx", "pipx", *CONTAINERS)) and _HANDLING.isdisjoint(texts[1:3]):
        named += [part for word in texts[1:] for part in re.split("[/:]", word)]
    names = (name for word in named for name in (word, word.partition(".")[0], word.partition(":")[0]))
    engine = next((name for name in names if name in OTHER_ENGINES), "")
    if engine == "vllm":
        advice = 'muxd starts vLLM itself: write a table [models.NAME] with engine = "vllm", model_path and args'
    return f"{engine} is not SGLang, of which launch scripts are run; {advice}" if engine else ""
