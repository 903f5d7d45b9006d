"""The page of figures, and its picture, drawn as SVG."""

from collections.abc import Sequence

from .goals import HOSTS, Row, Setting

HEAD = """\
# Whose turn it is: figures

Written by `python -m bench.scheduling --write` ({seeds} seeds, {span:g} s of virtual time each): muxd's core itself,
beside the rules of others as they are published. What they are about: [whose turn it is](scheduling.md).

- A GPU's engine answers 16 requests at once; a sleep takes a third of a switch, a wake two thirds, a cold start three
  switches; every drain ends after 300 s. What others do not have in their programs they are given here: bounded drains,
  a start after a crash, and clients that go away without harm.
- **FIFO** (sglangmux, llmux) gives way to the first request for another model; **collate** (llama-swap) when nothing is
  in flight; **min-active** (llmux at its head) as FIFO after 5 s; **tenure** (Logos) after 20 s, to one that was away
  for 10 s; **a GPU each** never switches.
- *In time* is an answer that begins within 20 s, or two and a half switches where that is more. Goodput is what is
  answered in time, per second until the last answer; that of the worst model is the least share of a model's requests,
  per second likewise.
- muxd has run for a while: it knows what switches take, and from another load of the same kind what drains take.
- ± is a standard error, by leaving out each seed in turn, of the ratio over the same loads. What is within two of them
  of the goal is not told from chance.

## Goals

"""

MIDDLE = """
Where a goal is not met, the last column says whose the optimum is, or who comes nearer. It is a bound that holds for
everybody where there is one: a GPU for each model, one switch in all, all answers known before. Elsewhere it is the
best of many rules, chosen afterwards, which nobody could do before; that no other rule is better is not
proved.
The same kind of load on real processes of muxd and sglangmux, `--real`, is among the [figures](../benchmarks.md).

## Figures

![Answers in time at 8 s a switch](../images/scheduling.svg)

In time, mean and p99 of the wait in seconds:

"""

COLOURS = ("#9aa5b1", "#6b8fb5", "#b8a46a", "#b58a6b", "#2f7d4f", "#d5d9de")


def page(found: Sequence[Setting], rows: Sequence[Row], span: float, seeds: int) -> str:
    lines = ["| goal | found | | |", "|---|---|---|---|"]
    for row in rows:
        missed = f"out of reach: optimum {row.optimum}" if row.optimum else "**missed**"
        lines.append(f"| {row.goal} | {row.found} | {'met' if row.met else missed} | {'' if row.met else row.why} |")
    goals = "\n".join(lines) + "\n"
    table = [f"| workload | switch | {' | '.join(HOSTS)} |", "|---|---|" + "---|" * len(HOSTS)]
    for each in found:
        cells = (f"{each.share(host):.0%}, {each.mean(host):.1f}, {each.p99(host):.0f}" for host in HOSTS)
        table.append(f"| {each.name} | {each.cost:g} s | {' | '.join(cells)} |")
    return HEAD.format(seeds=seeds, span=span) + goals + MIDDLE + "\n".join(table) + "\n"


def picture(found: Sequence[Setting]) -> str:
    """Draw the share of answers in time, a bar for each host and a block for each workload."""
    bar, gap, height, left, top = 14, 26, 220, 44, 40
    block = bar * len(HOSTS) + gap
    width = left + block * len(found)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {top + height + 50}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{top + height + 50}" fill="white"/>',
    ]
    for place, name in enumerate(HOSTS):
        x = left + 110 * place
        parts.append(f'<rect x="{x}" y="10" width="10" height="10" fill="{COLOURS[place]}"/>')
        parts.append(f'<text x="{x + 14}" y="19">{name}</text>')
    for share in (0, 25, 50, 75, 100):
        y = top + height * (1 - share / 100)
        parts.append(f'<line x1="{left}" x2="{width}" y1="{y:g}" y2="{y:g}" stroke="#e3e6ea"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:g}" text-anchor="end">{share} %</text>')
    for number, each in enumerate(found):
        x = left + number * block + gap / 2
        for place, host in enumerate(HOSTS):
            tall = height * each.share(host)
            parts.append(
                f'<rect x="{x + place * bar:g}" y="{top + height - tall:.1f}" width="{bar - 2}" height="{tall:.1f}" '
                f'fill="{COLOURS[place]}"><title>{each.name}, {host}: {each.share(host):.0%}</title></rect>'
            )
        middle = x + bar * len(HOSTS) / 2
        parts.append(f'<text x="{middle:g}" y="{top + height + 18}" text-anchor="middle">{each.name}</text>')
    return "\n".join([*parts, "</svg>", ""])
