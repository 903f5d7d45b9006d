"""Faults of supervision: servers that die, and servers that are left behind."""

import signal
import time

from .lab import Lab, Observation, listed
from .programs import within


def crash(lab: Lab) -> Observation:
    """Nobody asks for anything after a crash."""
    with lab.host() as host:
        host.kill_server(lab.kit.beta)
        began = time.monotonic()
        if within(4, lambda: host.answers(lab.kit.beta)):
            return Observation(False, f"the server is back {time.monotonic() - began:.1f} s after, nobody has asked")
        active, next_one = host.active_model(), lab.ask(host, lab.kit.beta)
    told = "called active" if active == lab.kit.beta else "not called active"
    return Observation(True, f"4 s later the server is gone, {told} in /health; the next request: {next_one}")


def death_at_start(lab: Lab) -> Observation:
    """Beta crashes, and its next start fails; the one after that would succeed."""
    lab.folder.mkdir(parents=True)
    mark = lab.folder / "no-death"
    mark.touch()
    with lab.host(beta=f"--fault oom-text,once={mark}") as host:
        mark.unlink()
        host.kill_server(lab.kit.beta)
        within(1, mark.exists)  # where nobody has to ask for the start
        answers = [lab.ask(host, lab.kit.beta) for _ in range(3)]
    return Observation(answers[-1].status != 200, listed(answers))


def terminated(lab: Lab) -> Observation:
    return _left_by(lab, signal.SIGTERM)


def interrupted(lab: Lab) -> Observation:
    return _left_by(lab, signal.SIGINT)


def _left_by(lab: Lab, number: signal.Signals) -> Observation:
    """Alpha's script does without `exec`."""
    with lab.host(exec=False) as host:
        host.signal(number)
        nothing_left = within(2, lambda: not host.processes())
        left = [script.name for script in host.scripts if host.answers(script.model)]
        text = f"{len(host.processes())} processes left 2 s after its end, and still serving: {', '.join(left)}"
    return Observation(not nothing_left, "nothing left" if nothing_left else text)
