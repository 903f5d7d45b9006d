"""The lines of the report, and the table of them."""

from collections.abc import Iterable, Sequence

from msgspec import Struct

OK, WARN, WRONG = "ok", "warn", "WRONG"


class ReportLine(Struct, frozen=True):
    """One line of the report.  `WRONG`: it cannot work; `warn`: it will probably not work, or should not be so."""

    mark: str
    subject: str  # the name of a model, or another subject as "GPUs"
    text: str


def ok(subject: str, text: str) -> ReportLine:
    """Return a line on something that is as it should be."""
    return ReportLine(OK, subject, text)


def warn(subject: str, text: str, where: str = "") -> ReportLine:
    """Return a line on what will probably not work; `where` is FILE:LINE."""
    return ReportLine(WARN, subject, _placed(text, where))


def wrong(subject: str, text: str, where: str = "") -> ReportLine:
    """Return a line on what cannot work; `where` is FILE:LINE."""
    return ReportLine(WRONG, subject, _placed(text, where))


def _placed(text: str, where: str) -> str:
    return f"{where}: {text}" if where else text


def table(lines: Sequence[ReportLine]) -> Iterable[str]:
    """Yield the lines aligned, with the characters escaped or replaced that a terminal may not show.

    Names of files and of programs can hold any characters.
    """
    width = max((len(line.subject) for line in lines), default=0)
    for line in lines:
        text = f"  {line.mark:5} {line.subject:{width}}  {line.text}".encode(errors="backslashreplace").decode()
        yield "".join(character if character.isprintable() else "?" for character in text)
