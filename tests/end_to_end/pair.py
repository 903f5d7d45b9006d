"""What is asked of two replicas of one model, `pair`, and their router."""

from typing import Any

from .muxd import Muxd


def workers(muxd: Muxd) -> dict[str, dict[str, Any]]:
    return {worker["name"]: worker for worker in muxd.status("pair")["workers"]}


def states(muxd: Muxd) -> list[str]:
    return [worker["state"] for worker in workers(muxd).values()]


def all_ready(muxd: Muxd) -> bool:
    return states(muxd) == ["ready"] * 3


def answered_by(muxd: Muxd, name: str) -> int:
    """How many chats the log of a replica has."""
    return (muxd.folder / f"logs/{name.replace('/', '@')}.stdout.log").read_text().count("/v1/chat/completions")
