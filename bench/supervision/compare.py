"""`python -m bench.supervision`: the rows with all three, as a Markdown table."""

import argparse
import resource
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.figures import between, machine
from bench.sglangmux.programs import Program

from .hosts import Bench, programs
from .rows import ROWS, Row, Seen

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"


def tried(row: Row, program: Program) -> Seen:
    with tempfile.TemporaryDirectory(prefix="supervision-") as folder:
        return row.run(Bench(program, Path(folder) / "bench"))


def cell(seen: Seen) -> str:
    if seen.holds is None:
        return f"not comparable: {seen.text}"
    return f"{'yes' if seen.holds else '**no**'}: {seen.text}"


def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    numbers = [str(row.number) for row in ROWS]
    parser = argparse.ArgumentParser(prog="python -m bench.supervision", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=numbers, default=numbers, metavar="N", help=", ".join(numbers))
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    three = programs()
    lines = [line(("#", "fault", *(program.name for program in three))), line(("---",) * (2 + len(three)))]
    print("\n".join(lines), flush=True)
    for row in ROWS:
        if str(row.number) in options.only:
            with ThreadPoolExecutor(len(three)) as pool:  # most of it is waiting
                seen = list(pool.map(lambda program, row=row: tried(row, program), three))
            lines.append(line((str(row.number), row.fault, *map(cell, seen))))
            print(lines[-1], flush=True)
    if options.write:
        PAGE.write_text(between(PAGE.read_text(), "side by side", f"\n{machine()}:\n\n" + "\n".join(lines) + "\n"))
