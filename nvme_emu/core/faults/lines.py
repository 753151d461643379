"""On which line of a TOML or JSON text each key stands, so that an error can name it.

The standard parsers give values without places. These two only find places: a text that their parser has
accepted. A place is a path of keys and indexes, as ("rules", 0, "match", "lba").
"""

from __future__ import annotations

import json
import re
from typing import Any

__all__ = ["Path", "json_lines", "line_of", "toml_lines"]

Path = tuple[str | int, ...]

_STRING = re.compile(r"\"\"\".*?\"\"\"|'''.*?'''|\"(?:\\.|[^\"\\\n])*\"|'[^'\n]*'", re.DOTALL)
_KEY = re.compile(r"[ \t]*(?:([A-Za-z0-9_-]+)|(\"(?:\\.|[^\"\\\n])*\"|'[^'\n]*'))[ \t]*")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE = re.compile(r"[^,\]}\s#]+(?: [0-9:.Z+-]+)?")


def line_of(lines: dict[Path, int], where: Path) -> int:
    """The line of a path, or of the nearest part of it that has one; 1 for none."""
    for end in range(len(where), 0, -1):
        if where[:end] in lines:
            return lines[where[:end]]
    return 1


class _Toml:
    """Walks a TOML text once, from left to right."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[Path, int] = {}
        self._counts: dict[Path, int] = {}

    def walk(self) -> dict[Path, int]:
        table: Path = ()
        while self._skip():
            if self.text[self.at] == "[":
                table = self._header()
            else:
                self._pair(table)
        return self.lines

    def _skip(self) -> bool:
        """Pass blanks, line ends and comments; False at the end of the text."""
        found = _BLANK.match(self.text, self.at)
        self.at = found.end() if found is not None else self.at
        return self.at < len(self.text)

    def _note(self, path: Path) -> None:
        for end in range(1, len(path) + 1):
            self.lines.setdefault(path[:end], self.text.count("\n", 0, self.at) + 1)

    def _keys(self) -> Path:
        keys: list[str] = []
        while True:
            found = _KEY.match(self.text, self.at)
            if found is None:
                self.at += 1  # not TOML: the parser has said so
                return tuple(keys)
            self.at = found.end()
            quoted = found[2]
            keys.append(found[1] if quoted is None else _unquoted(quoted))
            if self.text[self.at : self.at + 1] != ".":
                return tuple(keys)
            self.at += 1

    def _header(self) -> Path:
        array = self.text.startswith("[[", self.at)
        start, self.at = self.at, self.at + 1 + array
        path: Path = ()
        keys = self._keys()
        for place, key in enumerate(keys):
            path = (*path, key)
            last = place == len(keys) - 1
            if path in self._counts or (last and array):
                self._counts[path] = self._counts.get(path, -1) + (last and array)
                path = (*path, self._counts[path])
        end, self.at = self.at + 1 + array, start
        self._note(path)
        self.at = end
        return path

    def _pair(self, table: Path) -> None:
        self._skip()
        start = self.at
        path = (*table, *self._keys())
        end, self.at = self.at, start
        self._note(path)
        self.at = end + 1  # behind "="
        self._value(path)

    def _value(self, path: Path) -> None:
        if not self._skip():
            return
        char = self.text[self.at]
        if char in "{[":
            self._group(path, char)
            return
        found = _STRING.match(self.text, self.at) or _BARE.match(self.text, self.at)
        self.at = found.end() if found is not None else self.at + 1

    def _group(self, path: Path, char: str) -> None:
        """An inline table, whose pairs have places, or an array, whose items have."""
        self.at += 1
        index = 0
        while self._skip() and self.text[self.at] not in "}]":
            if self.text[self.at] == ",":
                self.at += 1
            elif char == "{":
                self._pair(path)
            else:
                self._note((*path, index))
                self._value((*path, index))
                index += 1
        self.at += 1


def _unquoted(text: str) -> str:
    return text[1:-1] if text[0] == "'" else str(json.loads(text))


def toml_lines(text: str) -> dict[Path, int]:
    """Path of each key of a TOML text -> its line."""
    return _Toml(text).walk()


def json_lines(text: str) -> dict[Path, int]:
    """Path of each key of a JSON text -> its line."""
    lines: dict[Path, int] = {}
    decoder = json.JSONDecoder()
    blank = re.compile(r"[ \t\r\n,:]*")

    def skip(at: int) -> int:
        found = blank.match(text, at)
        return at if found is None else found.end()

    def walk(at: int, path: Path) -> int:
        at = skip(at)
        lines.setdefault(path, text.count("\n", 0, at) + 1)
        opening = text[at]
        if opening not in "{[":
            return decoder.raw_decode(text, at)[1]
        at = skip(at + 1)
        index = 0
        while text[at] not in "}]":
            key: Any = index
            lines_at = at
            if opening == "{":
                key, at = decoder.raw_decode(text, at)
            lines[*path, key] = text.count("\n", 0, lines_at) + 1
            at = skip(walk(at, (*path, key)))
            index += 1
        return at + 1

    if text.strip():
        walk(0, ())
    return lines
