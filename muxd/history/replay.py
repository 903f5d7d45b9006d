"""`muxd replay`: every decision of a journal is made once more, and must be the same."""

from pathlib import Path

from .decision_journal import checksum, deciding, read_journal


def replay(path: Path) -> int:
    """Print whether the core decides as it did; return 0 where it does, 1 where it does not.  Raises NotAJournal."""
    scheduler, _, decisions = read_journal(path)
    count, first, last = 0, None, 0.0
    for count, decision in enumerate(decisions, start=1):
        first, last = decision.event.time if first is None else first, decision.event.time
        with deciding(path, count):
            commands = scheduler.handle(decision.event)
        if checksum(commands) != decision.checksum:
            print(f"{path}: decision {count} is another one: of {decision.event} came now")
            print("\n".join(f"  {command}" for command in commands) or "  nothing")
            return 1
    took = 0.0 if first is None else last - first
    print(f"{path}: {count} decisions in {took:.1f} s, every one of them the same")
    return 0
