"""Fault files: rules as TOML or JSON, read with errors by line and written so that they read back the same.

    version = 1

    [[rules]]
    id = "third-read"
    match = { opcode = "read", lba = [0, 100] }
    when = { nth = 3 }
    then.status = { code = "READ_ERROR", dnr = true }
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from nvme_emu.core.faults.lines import json_lines, line_of, toml_lines
from nvme_emu.core.faults.rule import Rule, as_rule, named, rule_from, rule_problems, rule_to_plain
from nvme_emu.core.faults.values import FaultError, nearest

__all__ = [
    "FILE_VERSION",
    "FaultFileError",
    "Problem",
    "check_text",
    "dump_json",
    "dump_toml",
    "load_rules",
    "parse_rules",
]

FILE_VERSION: Final = 1
_KEYS: Final = ("version", "rules")


class Problem(NamedTuple):
    """One thing that is wrong in a file: `rule` is the rule's id or number, "" outside all rules."""

    file: str
    line: int
    rule: str
    key: str
    problem: str

    def __str__(self) -> str:
        where = " ".join(part for part in (self.rule and f"rule {self.rule}", self.key) if part)
        return f"{self.file}:{self.line}: {where + ': ' if where else ''}{self.problem}"


class FaultFileError(FaultError):
    """A fault file is wrong; `problems` tells everything that is."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


def check_text(text: str, file: str) -> tuple[list[Rule], list[Problem]]:
    """The rules of a text, and all that is wrong with it; JSON when the name ends so or it starts with '{'."""
    is_json = file.endswith(".json") or text.lstrip()[:1] == "{"
    try:
        document = json.loads(text) if is_json else tomllib.loads(text)
    except json.JSONDecodeError as error:
        return [], [Problem(file, error.lineno, "", "", f"no JSON: {error.msg} (column {error.colno})")]
    except tomllib.TOMLDecodeError as error:
        return [], [Problem(file, _toml_line(str(error), text), "", "", f"no TOML: {error}")]
    except RecursionError:
        return [], [Problem(file, 1, "", "", "nested too deeply")]
    lines = json_lines(text) if is_json else toml_lines(text)
    return _check_document(document, file, lines)


def _toml_line(message: str, text: str) -> int:
    """The line in the parser's message: it has no other way to tell before Python 3.14."""
    _, found, rest = message.partition("at line ")
    return int(rest.split(",")[0]) if found else text.count("\n") + 1


def _check_document(
    document: Any, file: str, lines: dict[tuple[str | int, ...], int]
) -> tuple[list[Rule], list[Problem]]:
    problems: list[Problem] = []

    def add(where: tuple[str | int, ...], problem: str, rule: str = "", key: str = "") -> None:
        problems.append(Problem(file, line_of(lines, where), rule, key, problem))

    if not isinstance(document, Mapping):
        add((), f"{document!r}: a table with version and rules is needed")
        return [], problems
    for key in document:
        if key not in _KEYS:
            add((key,), f"unknown key {key!r}{nearest(key, _KEYS)}")
    version = document.get("version", FILE_VERSION)
    if version != FILE_VERSION or isinstance(version, bool):
        add(("version",), f"version {version!r}: this program reads version {FILE_VERSION}")
    tables = document.get("rules", [])
    if not isinstance(tables, list):
        add(("rules",), f"{tables!r}: a list of rules is needed ([[rules]] in TOML)")
        return [], problems
    rules: list[Rule] = []
    ids: dict[str, int] = {}
    for number, table in enumerate(tables):
        name = table.get("id") if isinstance(table, Mapping) else None
        label = name if isinstance(name, str) and name else str(number + 1)
        found = rule_problems(table)
        for one in found:
            add(("rules", number, *one.where), one.problem, label, ".".join(map(str, one.where)))
        if not found:
            rules.append(rule_from(table))
        if isinstance(name, str) and name:
            if name in ids:
                first = line_of(lines, ("rules", ids[name], "id"))
                add(("rules", number, "id"), f"{name!r} is the id of the rule at line {first}, too", label, "id")
            ids.setdefault(name, number)
    return rules, problems


def parse_rules(text: str, file: str = "<faults>") -> list[Rule]:
    """The rules of a TOML or JSON text, each with an id. Raises FaultFileError with every problem in it."""
    rules, problems = check_text(text, file)
    if problems:
        raise FaultFileError(problems)
    return named(rules)


def load_rules(source: Any) -> list[Rule]:
    """Rules, each with an id, from the path of a file, a rule (or table, or DSL), or several of them.

    Raises FaultError (FaultFileError for a file) and OSError.
    """
    if source is None:
        return []
    if isinstance(source, str | Path):
        try:
            text = Path(source).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise FaultFileError([Problem(str(source), 1, "", "", f"no UTF-8 text: {error}")]) from None
        return parse_rules(text, str(source))
    if isinstance(source, Mapping) or not isinstance(source, Iterable):
        source = [source]
    return named(map(as_rule, source))


def _document(rules: Iterable[Rule]) -> dict[str, Any]:
    return {"version": FILE_VERSION, "rules": [rule_to_plain(rule) for rule in rules]}


def dump_json(rules: Iterable[Rule]) -> str:
    """The rules as JSON."""
    return json.dumps(_document(rules), indent=2) + "\n"


def dump_toml(rules: Iterable[Rule]) -> str:
    """The rules as TOML."""
    blocks = [f"version = {FILE_VERSION}\n"]
    for plain in _document(rules)["rules"]:
        effects = plain.pop("then")
        pairs = [f"{key} = {_toml(value)}" for key, value in plain.items()]
        pairs += [f"then.{kind} = {_toml(value)}" for kind, value in effects.items()]
        blocks.append("\n".join(["[[rules]]", *pairs]) + "\n")
    return "\n".join(blocks)


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        inside = ", ".join(f"{key} = {_toml(item)}" for key, item in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, float):
        text = repr(value)
        return text if any(mark in text for mark in ".e") else f"{text}.0"
    # Booleans, whole numbers, and the ASCII strings that rules are made of look the same as in JSON.
    return json.dumps(value)
