"""Which tests speak of what: found in their source, without running them.

A test proves an item (a command, a feature, a log page, a CNS, a register) when its function, a decorator of it, or a
function or constant of the same module that it uses, names the item's member: `Lid.SANITIZE_STATUS`.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

__all__ = ["Evidence"]

ENUMS = frozenset({"AdminOpcode", "NvmOpcode", "Lid", "Fid", "Cns", "Reg"})
FOLDERS = ("tests/conformance", "tests/unit/controller", "tests/unit/tcp")
SHOWN_MAX = 3


class _Uses(ast.NodeVisitor):
    """What a piece of source names: members of the enumerations, words (fields), and names of the module."""

    def __init__(self) -> None:
        self.members: set[str] = set()
        self.words: set[str] = set()
        self.names: set[str] = set()

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.value, ast.Name) and node.value.id in ENUMS:
            self.members.add(f"{node.value.id}.{node.attr}")
        self.words.add(node.attr)
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        self.names.add(node.id)

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg:
            self.words.add(node.arg)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and node.value.isidentifier():
            self.words.add(node.value)


def _uses(node: ast.AST) -> _Uses:
    found = _Uses()
    found.visit(node)
    return found


class Evidence:
    """The tests below `root` that prove something, by member ("Lid.SANITIZE_STATUS") and register field ("CC.ams")."""

    def __init__(self, root: Path) -> None:
        self._by_member: dict[str, list[str]] = defaultdict(list)
        self._by_field: dict[str, list[str]] = defaultdict(list)
        for folder in FOLDERS:
            for path in sorted((root / folder).glob("test_*.py")):
                self._read(path, path.relative_to(root).as_posix())

    def _read(self, path: Path, name: str) -> None:
        parts: dict[str, _Uses] = {}
        tests: list[str] = []
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef):
                parts[node.name] = _uses(node)
                if node.name.startswith("test_"):
                    tests.append(node.name)
            elif isinstance(node, ast.Assign):
                for target in node.targets:
                    for leaf in ast.walk(target):
                        if isinstance(leaf, ast.Name):
                            parts[leaf.id] = _uses(node.value)
        for test in tests:
            members, words, names = self._closure(test, parts)
            for member in sorted(members):
                self._by_member[member].append(f"{name}::{test}")
            registers = {member.removeprefix("Reg.") for member in members if member.startswith("Reg.")} | names
            registers |= {word.upper() for word in words}
            for register in registers & {"CAP", "CC", "CSTS", "AQA", "CRTO", "VS", "NSSR"}:
                for word in words:
                    self._by_field[f"{register}.{word}"].append(f"{name}::{test}")

    @staticmethod
    def _closure(test: str, parts: dict[str, _Uses]) -> tuple[set[str], set[str], set[str]]:
        members: set[str] = set()
        words: set[str] = set()
        names: set[str] = set()
        waiting = [test]
        seen: set[str] = set()
        while waiting:
            name = waiting.pop()
            if name in seen or name not in parts:
                continue
            seen.add(name)
            uses = parts[name]
            members |= uses.members
            words |= uses.words
            names |= uses.names
            waiting += sorted(uses.names)
        return members, words, names

    def of_member(self, member: str) -> list[str]:
        """Node ids, those that run over every transport first."""
        return self._by_member.get(member, [])[:SHOWN_MAX]

    def of_field(self, register: str, field: str) -> list[str]:
        """Node ids of tests that speak of a register's field."""
        return self._by_field.get(f"{register}.{field}", [])[:SHOWN_MAX]
