"""One word, one meaning: docs/glossary.md held against the names in the code."""

import ast
import re
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
FILES = sorted(path for package in ("muxd", "muxctl") for path in (ROOT / package).rglob("*.py"))

#: Endings of class names that are no noun of muxd's: SGLang's own name, participles and adjectives in errors.
NO_NOUN = {"SGLang", "Denied", "Found", "Large", "Missing", "Refused", "Seen", "Taken", "Unavailable", "Unusable"}
NO_NOUN |= {"Use"}


class Definition(NamedTuple):
    file: str
    line: int
    name: str
    is_class: bool
    docstring: str | None


@cache
def definitions() -> list[Definition]:
    """Return every class and function.  No tree is kept: the collections of all later tests would go through them."""
    return [
        Definition(
            str(path.relative_to(ROOT)),
            node.lineno,
            node.name,
            isinstance(node, ast.ClassDef),
            ast.get_docstring(node),
        )
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    ]


@cache
def classes() -> dict[str, list[str]]:
    """Return the files that define each class, by its name."""
    found = defaultdict(list)
    for each in definitions():
        if each.is_class:
            found[each.name].append(each.file)
    return found


@cache
def glossary() -> dict[str, list[str]]:
    """Return the class names that each term of the glossary is found in."""
    rows = re.findall(r"^\| ([\w ]+) \| [^|]+ \| ([^|]*)\|$", (ROOT / "docs/glossary.md").read_text(), re.MULTILINE)
    return {term.strip(): re.findall(r"`(\w+)`", names) for term, names in rows if term.strip() != "term"}


def last_word(name: str) -> str:
    """Return the noun that a class name ends with."""
    return re.findall(r"SGLang|[A-Z][a-z0-9]*|[A-Z]+(?![a-z])", name)[-1]


def is_explained(word: str) -> bool:
    terms = {term.lower().replace(" ", "_") for term in glossary()}
    return bool({word.lower(), word.lower().removesuffix("s")} & terms)


def test_no_class_name_means_two_things():
    assert {name: files for name, files in classes().items() if len(files) > 1} == {}


def test_a_module_name_that_several_packages_share_is_a_term_of_the_glossary():
    names = Counter(path.stem for path in FILES if not path.stem.startswith("__"))
    assert [name for name, count in names.items() if count > 1 and not is_explained(name)] == []


def test_a_noun_that_several_classes_share_is_a_term_of_the_glossary():
    nouns = Counter(last_word(name) for name in classes() if not name.startswith("_"))
    shared = {noun for noun, count in nouns.items() if count > 1} - NO_NOUN
    assert sorted(noun for noun in shared if not is_explained(noun)) == []


def test_what_the_glossary_names_is_in_the_code():
    assert [(term, name) for term, names in glossary().items() for name in names if name not in classes()] == []


def test_the_glossary_is_in_order():
    terms = [term.lower() for term in glossary()]
    assert terms == sorted(terms)


#: How a docstring begins where it tells what a thing is, and not what to do.
NO_VERB = re.compile(
    r"(An?|All|As|At|Bytes|Each|Every|For|From|How|If|In|Its?|Nobody|Nothing|Of|On|One|Only|Seconds|Some|That|The|Their"
    r"|There|They|Those|Until|What|When|Where|Whether|Which|Who|Whoever|Whom|Whose|With)\b|[^A-Z]"
)


def test_a_docstring_of_a_function_begins_with_a_verb():
    told = {f"{each.file}:{each.line}": each.docstring or "" for each in definitions() if not each.is_class}
    assert {where: text for where, text in told.items() if text and NO_VERB.match(text)} == {}
