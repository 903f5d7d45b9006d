"""`python -m bench.scheduling`: the table of goals with what was found."""

import argparse
from pathlib import Path

from . import goals, pages

DOCS = Path(__file__).parents[2] / "docs"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.scheduling", description=__doc__.partition(": ")[2])
    parser.add_argument("--quick", action="store_true", help="a few minutes of virtual time: does it run at all?")
    parser.add_argument("--seeds", type=int, default=20, help="so many runs of each workload")
    parser.add_argument("--write", action="store_true", help="write the page and the picture in docs/")
    parser.add_argument("--real", action="store_true", help="muxd and sglangmux on simulated servers; a minute")
    options = parser.parse_args()
    if options.real:
        from . import real

        print(real.compared())
        return
    span, seeds = (200.0, 1) if options.quick else (900.0, options.seeds)
    found = list(goals.settings(span, seeds))
    text = pages.page(found, goals.rows(found, span, seeds), span, seeds)
    print(text)
    if options.write:
        (DOCS / "explanation/scheduling-figures.md").write_text(text)
        (DOCS / "images").mkdir(exist_ok=True)
        (DOCS / "images/scheduling.svg").write_text(pages.picture([each for each in found if each.cost == 8.0]))


main()
