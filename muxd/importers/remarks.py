"""What muxd can run of a launch script, and its operator should know: kills by name, a server that is left alone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from muxd.config.command_lines import CONTAINERS

from .lexer import Place
from .plain_reader import TOOLS, PlainReader, Run, is_detached

_SERVERS = r"(?:sglang|launch_server|python)"

#: Ways to end processes that may be anybody's; a line in which words are only shown is none.
_KILLS = re.compile(
    rf"\b(?:pkill|killall)\b[^#;|&]*{_SERVERS}"
    rf"|\bkill\b.*\bpgrep\b.*{_SERVERS}|\bp?grep\b.*{_SERVERS}.*\bkill\b"
    r"|\bnvidia-smi\b.*\bpid\b.*\bkill\b|\bkill\b.*\bnvidia-smi\b.*\bpid\b|\bfuser\b.*\s-\w*k\w*\s.*/dev/nvidia"
)
_SHOWN = re.compile(r"\s*(?:#|echo\b|printf\b)")

#: They come back at once, and what they start lives on.
_LEAVERS = frozenset({"tmux", "screen", "sbatch", "at", "batch", "systemd-run", "daemonize"})

#: A systemd-run or tmux that stays, a screen that does.
_STAYS = re.compile(r"--(wait|scope|pty|pipe)|-[A-Za-z]*[tPD][A-Za-z]*|new-window")

#: They have their words carried out by another machine.
_ELSEWHERE = frozenset({"ssh", "kubectl", "oc", "gcloud", "ansible", "mosh", "pdsh"})

_ENDED = "which muxd ends when the script does"


def remarks(text: str, reader: PlainReader) -> Iterator[str]:
    yield from _kills(text, reader.file)
    started = [run for run in reader.runs if _program(run) not in TOOLS]
    if started and all(_program(run) in _ELSEWHERE for run in started):
        what = f"leaves all to {_program(started[0])}, and muxd cannot follow a server on another machine"
        yield f"{started[0].place} {what}; give a script that starts it here"
        return
    servers = [candidate.words for candidate in reader.candidates]
    for number, run in enumerate(reader.runs):
        left = _left_alone(run, is_server=any(run.words is server for server in servers))
        if left and not _waits_after(reader, number):
            yield f"{run.place} {left}"
            return


def _program(run: Run) -> str:
    return os.path.basename(run.words[0]) if isinstance(run.words[0], str) else ""


def _kills(text: str, shown: str) -> Iterator[str]:
    """Yield a kill by name wherever it stands: a trap or a function is carried out later."""
    whole = re.sub(r"\\\n", "  ", text)  # a continued line is one, and every character stays at its place
    start = 0
    for line in whole.splitlines(keepends=True):
        if not _SHOWN.match(line) and (found := _KILLS.search(line)):
            place = Place(shown, whole.count("\n", 0, start) + text.count("\\\n", 0, start + found.start()) + 1)
            yield (
                f"{place} ends all processes of that kind on this host, the servers of other models among them; "
                "take it out: muxd ends what its script has started"
            )
            return
        start += len(line)


def _left_alone(run: Run, *, is_server: bool) -> str:
    """Say how a command leaves its server alone; "" where it does not."""
    words = [word for word in run.words if isinstance(word, str)]
    names = {os.path.basename(word) for word in words[:2]}
    if names & {*CONTAINERS, "docker-compose"} and is_detached(words) and (is_server or "up" in words):
        return "leaves its container running on its own, where muxd cannot follow it; leave out -d (--detach)"
    if leaver := sorted(names & _LEAVERS):
        stays = any(_STAYS.fullmatch(word) for word in words)
        return "" if stays else f"leaves its server to {leaver[0]}, where muxd cannot follow it; start it plainly"
    if is_server and run.background:
        return f"leaves its server in the background, {_ENDED}; write `wait` as the last line, or leave out the &"
    return ""


def _waits_after(reader: PlainReader, number: int) -> bool:
    """Say whether the script goes on for longer than that command, as far as can be told."""
    return reader.waited > number or any(not run.background for run in reader.runs[number + 1 :])
