"""The engines' pages of metrics, parsed with prometheus_client and merged.

muxd does not trust the engines: nothing that an engine sends may break muxd's own page.
A page with any error in it is left out whole.  Of a sample the name, the labels and the
value are kept; its timestamp is dropped, because Prometheus scrapes it now.

Only the first scrape imports this module, which needs prometheus_client.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO

from msgspec import Struct
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_fd_to_metric_families
from prometheus_client.samples import Sample

#: Bytes of one line.  The parser goes over a line again for each of its labels: the worst line of this length takes
#: 20 ms.  SGLang's longest line has 560 bytes.
LONGEST_LINE = 16 << 10

#: Bytes parsed between two calls of `breathe`; SGLang's pages take 0.16 ms a KiB.
BREATH = 4 << 10

#: Names that the older text format allows.  prometheus_client would write other characters as underscores, by which
#: two names might become one.
NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*", re.ASCII)
LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)

#: Types of the text format; prometheus_client would write families of its other types under other names.
TYPES = frozenset({"counter", "gauge", "histogram", "summary", "unknown"})

_COUNTER = re.compile(r"\s*#\s*TYPE\s+(\S+)\s+counter", re.ASCII)

#: Errors of the parser on a malformed page; random bytes raised ValueError and IndexError.
_PARSER_ERRORS = (ValueError, LookupError, TypeError, ArithmeticError)


class PageRefused(Exception):
    """A page cannot be used; the text says why."""


class Merged(Struct, frozen=True):
    families: tuple[Metric, ...]
    refused: Mapping[str, str]  # the model whose page was left out -> why


def merge(pages: Mapping[str, bytes], breathe: Callable[[], None]) -> Merged:
    """Return the families of all pages, each sample with the label `model`; families of one name become one.

    `breathe` is called every millisecond or so; where it raises PageRefused, the page that is being read is left out.
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
            _add_family(families, family)
    return Merged(tuple(families.values()), refused)


def read_page(model: str, page: bytes, breathe: Callable[[], None]) -> Iterator[Metric]:
    """Yield the families of one model's page, without any that bears muxd's own prefix; raises PageRefused."""
    try:
        for family in text_fd_to_metric_families(_checked_lines(page, breathe)):  # type: ignore[arg-type]
            if not _written_name(family).startswith("muxd_"):
                yield _labelled(family, model)
    except _PARSER_ERRORS as error:
        raise PageRefused(f"not in Prometheus' text format: {str(error)[:200]!r}") from None


def _checked_lines(page: bytes, breathe: Callable[[], None]) -> Iterator[str]:
    """Yield the page's lines as the parser takes them; raises PageRefused for a line that is too long."""
    unbroken = 0
    for number, line in enumerate(BytesIO(page), 1):
        unbroken += len(line)
        if unbroken >= BREATH:
            breathe()
            unbroken = 0
        if len(line) > LONGEST_LINE:
            raise PageRefused(f"line {number} is longer than {LONGEST_LINE} bytes")
        yield _keep_counter_name(line.decode())


def _keep_counter_name(line: str) -> str:
    """Return a line, with the type of a counter whose name does not end in _total changed to untyped.

    The parser would append _total to such a counter's name.
    """
    counter = _COUNTER.match(line)
    return f"# TYPE {counter[1]} untyped" if counter and not counter[1].endswith("_total") else line


def _labelled(family: Metric, model: str) -> Metric:
    if not NAME.fullmatch(family.name) or family.type not in TYPES:
        raise ValueError(f"{family.type} {family.name}")
    family.samples = [_labelled_sample(sample, model) for sample in family.samples]
    return family


def _labelled_sample(sample: Sample, model: str) -> Sample:
    """Return the sample with the label `model`; raises ValueError for names that the text format does not allow.

    A label `model` of the engine's own becomes `exported_model`, as in Prometheus.
    """
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


def _add_family(families: dict[str, Metric], family: Metric) -> None:
    """Add a family's samples to the family of its name.

    Where two engines give a family different types, the family that came first is kept and the other left out.
    """
    known = families.setdefault(_written_name(family), family)
    if known is not family and known.type == family.type:
        known.samples += family.samples
