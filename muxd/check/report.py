"""The lines of the report, and the table that they make."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

OK, WARN, WRONG = "ok", "warn", "WRONG"


@dataclass(frozen=True, slots=True)
class ReportLine:
    """`WRONG`: it cannot work.  `warn`: it will probably not, or should not."""

    mark: str
    subject: str  # the name of a model, or what else it is about
    text: str


def ok(subject: str, text: str) -> ReportLine:
    return ReportLine(OK, subject, text)


def warn(subject: str, text: str, where: str = "") -> ReportLine:
    """`where` is FILE:LINE."""
    return ReportLine(WARN, subject, _placed(text, where))


def wrong(subject: str, text: str, where: str = "") -> ReportLine:
    return ReportLine(WRONG, subject, _placed(text, where))


def _placed(text: str, where: str) -> str:
    return f"{where}: {text}" if where else text


def table(lines: Sequence[ReportLine]) -> Iterable[str]:
    """Aligned, for any terminal: names of files and of programs can be anything."""
    width = max((len(line.subject) for line in lines), default=0)
    for line in lines:
        text = f"  {line.mark:5} {line.subject:{width}}  {line.text}".encode(errors="backslashreplace").decode()
        yield "".join(character if character.isprintable() else "?" for character in text)
