"""The pages of several engines, read with prometheus_client's parser and put together.

An engine is not trusted: what it sends must not break the page.  A page with anything
wrong in it is left out whole.  Of a sample its name, labels and value are kept; a
timestamp is not, for it is scraped now.

Needs prometheus_client: imported by the first scrape only.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_fd_to_metric_families
from prometheus_client.samples import Sample

#: Bytes of one line, for the parser goes over it again for every label; SGLang's longest has 560.  The worst of this
#: length takes 20 ms.
LONGEST_LINE = 16 << 10

#: After so many bytes others may run: SGLang's take 0.16 ms a KiB.
BREATH = 4 << 10

#: What the older text format allows.  Others would be written with underscores, and then might be one.
NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*", re.ASCII)
LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)

#: Of the text format; others of prometheus_client would be written under other names.
TYPES = frozenset({"counter", "gauge", "histogram", "summary", "unknown"})

_COUNTER = re.compile(r"\s*#\s*TYPE\s+(\S+)\s+counter", re.ASCII)

#: What the parser says to what it cannot read; of random bytes it was ValueError and IndexError.
_COMPLAINTS = (ValueError, LookupError, TypeError, ArithmeticError)


class PageRefused(Exception):
    """Why a page cannot be used."""


@dataclass(frozen=True, slots=True)
class Merged:
    families: tuple[Metric, ...]
    refused: Mapping[str, str]  # the model whose page was left out -> why


def merge(pages: Mapping[str, bytes], breathe: Callable[[], None]) -> Merged:
    """Of each model's page, its families with the label `model`; those of one name become one.

    `breathe` is called every millisecond or so; a PageRefused that it raises ends the page that is read.
    """
    families: dict[str, Metric] = {}
    refused: dict[str, str] = {}
    for model, page in pages.items():
        try:
            read = list(read_page(model, page, breathe))
        except PageRefused as error:
            refused[model] = str(error)
            continue
        for family in read:
            _add(families, family)
    return Merged(tuple(families.values()), refused)


def read_page(model: str, page: bytes, breathe: Callable[[], None]) -> Iterator[Metric]:
    """Raises PageRefused."""
    try:
        for family in text_fd_to_metric_families(_lines(page, breathe)):  # type: ignore[arg-type]
            if not _written_name(family).startswith("muxd_"):  # which are muxd's own
                yield _labelled(family, model)
    except _COMPLAINTS as error:
        raise PageRefused(f"not in Prometheus' text format: {str(error)[:200]!r}") from None


def _lines(page: bytes, breathe: Callable[[], None]) -> Iterator[str]:
    """As the parser takes them."""
    unbroken = 0
    for number, line in enumerate(BytesIO(page), 1):
        unbroken += len(line)
        if unbroken >= BREATH:
            breathe()
            unbroken = 0
        if len(line) > LONGEST_LINE:
            raise PageRefused(f"line {number} is longer than {LONGEST_LINE} bytes")
        yield _own_name(line.decode())


def _own_name(line: str) -> str:
    """The parser renames a counter that does not end in _total; of no type, it keeps its name."""
    counter = _COUNTER.match(line)
    return f"# TYPE {counter[1]} untyped" if counter and not counter[1].endswith("_total") else line


def _labelled(family: Metric, model: str) -> Metric:
    if not NAME.fullmatch(family.name) or family.type not in TYPES:
        raise ValueError(f"{family.type} {family.name}")
    family.samples = [_labelled_sample(sample, model) for sample in family.samples]
    return family


def _labelled_sample(sample: Sample, model: str) -> Sample:
    """An engine's own `model` becomes `exported_model`, as Prometheus does it."""
    labels = dict(sample.labels)
    if not NAME.fullmatch(sample.name) or not all(map(LABEL.fullmatch, labels)):
        raise ValueError(f"{sample.name} {labels}")
    if "model" in labels:
        label = "exported_model"
        while label in labels:
            label = f"exported_{label}"
        labels[label] = labels.pop("model")
    return Sample(sample.name, {**labels, "model": model}, float(sample.value))


def _written_name(family: Metric) -> str:
    return f"{family.name}_total" if family.type == "counter" else family.name


def _add(families: dict[str, Metric], family: Metric) -> None:
    """To the one of its name; where the engines do not agree on the type, the first one's counts."""
    known = families.setdefault(_written_name(family), family)
    if known is not family and known.type == family.type:
        known.samples += family.samples
