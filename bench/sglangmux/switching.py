"""Faults of a switch: who disturbs it, what it leaves behind, how long it takes, how often it comes."""

import time
from concurrent.futures import ThreadPoolExecutor

from .client import CHAT, chat, post, send
from .lab import Lab, Observation, listed
from .programs import Host, until
from .wire import RESUME

#: How a muxd is told that nobody is to wait for the end of an answer; the defaults are 30 s and 5 min.
BOUNDED = """
[policy]
wait_target = 0
[defaults]
drain_timeout = "1s"
"""


def disconnect(lab: Lab) -> Observation:
    """Alpha's client leaves while alpha is on its way; then others come."""
    alpha, beta = lab.kit.alpha, lab.kit.beta
    patience = 3 if lab.kit.simulated else 20
    with lab.host("--wake-time 1", flags=f"--model-switch-timeout-secs {patience}") as host:
        leaving = send(host.port, post(host.port, CHAT, chat(alpha)))
        until(lambda: under_way(lab, host), 30, lambda: "the switch is under way")
        leaving.close()
        first = [lab.ask(host, alpha), lab.ask(host, alpha)]
        other, again = lab.ask(host, beta, 30), lab.ask(host, alpha, 30)
        harm = damage(host)
    good = all(answer.status == 200 for answer in (*first, other, again)) and not harm
    return Observation(not good, f"alpha: {listed(first)}; beta: {other}; alpha again: {again}{harm}")


def under_way(lab: Lab, host: Host) -> bool:
    """By what servers say: simulated ones when they are asked, real ones when they have answered."""
    if lab.kit.simulated:
        return RESUME in host.said(lab.kit.alpha)
    return "/pause_generation" in host.said(lab.kit.beta)


def damage(host: Host) -> str:
    """What servers died of."""
    short = [script.name for script in host.scripts if "CUDA out of memory" in host.said(script.model)]
    dead = host.unreachable()
    text = f"; out of GPU memory: {', '.join(short)}" if short else ""
    return text + (f"; dead: {', '.join(dead)}" if dead else "")


def failed_reload(lab: Lab) -> Observation:
    """Alpha's first process cannot reload its weights."""
    with lab.host(f"--fault fail-on=reload,once={lab.folder}/reload", flags="--model-switch-timeout-secs 10") as host:
        failing, other, again = (lab.ask(host, model) for model in (lab.kit.alpha, lab.kit.beta, lab.kit.alpha))
        harm = damage(host)
    good = other.status == again.status == 200 and not harm
    return Observation(not good, f"alpha: {failing}; beta: {other}; alpha again: {again}{harm}")


def long_drain(lab: Lab) -> Observation:
    """Alpha is asked for while beta has an answer of 4 s to finish."""
    with (
        lab.host(beta="--token-rate 20", flags="--model-switch-timeout-secs 2") as host,
        ThreadPoolExecutor() as pool,
    ):
        pool.submit(lab.ask, host, lab.kit.beta, stream=True, max_tokens=80, ignore_eos=True)
        until(lambda: host.wire.calls(lab.kit.beta, CHAT), 10, lambda: "the long answer is under way")
        waiting = lab.ask(host, lab.kit.alpha)
    retry = waiting.header("retry-after")
    hint = f" with Retry-After {retry}" if retry else ""
    return Observation(waiting.end > 3, f"under a switch timeout of 2 s: {waiting}{hint}")


def endless_drain(lab: Lab) -> Observation:
    """Alpha is asked for while beta has an answer of 25 minutes to finish.

    muxd first leaves beta a turn as long as a switch costs, which it takes to be 6 s until it has measured one.
    """
    with lab.host(beta="--token-rate 20", config=BOUNDED) as host, ThreadPoolExecutor() as pool:
        endless = pool.submit(lab.ask, host, lab.kit.beta, stream=True, max_tokens=30_000, ignore_eos=True)
        until(lambda: host.wire.calls(lab.kit.beta, CHAT), 10, lambda: "the endless answer is under way")
        waiting = lab.ask(host, lab.kit.alpha, patience=12)
        host.end()  # for sglangmux this is the only end
        endless.result()
    setting = "drain_timeout = 1 s" if lab.program.is_muxd else "no setting for it"
    return Observation(waiting.status != 200, f"{setting}: {waiting}")


def interleaved(lab: Lab) -> Observation:
    """20 requests in turns, each one before the last one's answer has ended.

    Where answers do not overlap, an idle model gives way at once in muxd as well: with answers of 0.04 s, 0.15 s
    apart, 14 switches against sglangmux's 19.
    """
    with lab.host() as host, ThreadPoolExecutor(20) as pool:
        began, asked = time.monotonic(), []
        for number in range(20):
            time.sleep(max(0.0, began + 0.2 * number - time.monotonic()))
            model = (lab.kit.beta, lab.kit.alpha)[number % 2]
            asked.append(pool.submit(lab.ask, host, model, max_tokens=90, ignore_eos=True))
        answers = [each.result() for each in asked]
        took, switches = time.monotonic() - began, host.wire.switches()
    good = switches <= 3 and all(answer.status == 200 for answer in answers)
    longest = max(answer.end for answer in answers)
    return Observation(not good, f"switches: {switches}, in {took:.1f} s; the longest wait {longest:.1f} s")
