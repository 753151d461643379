"""Reading fio job files: sections, [global], comments, includes, variables, and --set from the command line.

The result is a list of `JobSection`, each with the raw texts as they stand in the file (the output
repeats them, as fio's does) and the parsed values of every honoured option.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nvme_emu.workload.options import OPTIONS, Option, Rule, find_option, suggest
from nvme_emu.workload.values import Units, expand

__all__ = ["JobFile", "JobFileError", "JobSection", "parse_job_file", "parse_job_text"]

_INCLUDE_DEPTH_MAX = 16
_SHOWN_MAX, _MESSAGE_MAX = 60, 300
_BYTE_ORDER_MARK = "\ufeff"


class JobFileError(ValueError):
    """A job file (or --set) that cannot be run; `problems` holds one line for each reason."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Setting:
    """One `option=value` line, with the place that a message names."""

    place: str
    name: str
    text: str | None


@dataclass(slots=True)
class JobSection:
    """A job: its name, where it begins, the texts of its own options, and all parsed values."""

    name: str
    place: str
    texts: dict[str, str] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)

    def get(self, name: str) -> Any:
        """The value of an honoured option, or its default."""
        return self.values[name] if name in self.values else OPTIONS[name].default

    def place_of(self, *names: str) -> str:
        """Where the first given one of these options was set, or where the section begins."""
        return next((self.places[name] for name in names if name in self.places), self.place)


@dataclass(slots=True)
class JobFile:
    """A parsed job file: the texts of [global], the jobs in order, and the notes to show the user."""

    global_texts: dict[str, str]
    jobs: list[JobSection]
    notes: list[str]


class _Reader:
    """Collects settings section by section, and every problem on the way, so that all are shown at once."""

    def __init__(self, overrides: Iterable[str]) -> None:
        self.problems: list[str] = []
        self.notes: dict[str, None] = {}
        self.globals: list[Setting] = []
        self.sections: list[tuple[str, str, list[Setting], list[Setting]]] = []
        self.current: list[Setting] | None = None
        self.overrides = [self._setting("--set", text) for text in overrides]
        self.checked: set[tuple[str, str]] = set()

    def _setting(self, place: str, text: str) -> Setting:
        name, equals, value = _without_comment(text).partition("=")
        setting = Setting(place, name.strip(), value.strip() if equals else None)
        return Setting(f"{place} {_short(text.strip())}", setting.name, setting.text) if place == "--set" else setting

    def read(self, text: str, source: str, folder: Path, depth: int = 0) -> None:
        for number, raw in enumerate(text.removeprefix(_BYTE_ORDER_MARK).splitlines(), 1):
            line, place = raw.strip(), f"{source}:{number}"
            if not line or line[0] in ";#":
                continue
            if line[0] == "[":
                self._open_section(line, place, depth)
            elif line.split(None, 1)[0] == "include":
                self._include(line, place, folder, depth)
            elif self.current is None:
                self.problems.append(f"{place}: '{_short(line)}' stands before the first [section]")
            else:
                self.current.append(self._setting(place, line))

    def _open_section(self, line: str, place: str, depth: int) -> None:
        name = line[1:].partition("]")[0].strip()
        if depth:
            self.problems.append(f"{place}: an included file must not open sections")
        elif "]" not in line or not name:
            self.problems.append(f"{place}: '{_short(line)}' is not a section like [name]")
        elif name == "global":
            # A [global] applies to the jobs below it: each job keeps the list as it stands at its own start.
            self.globals = list(self.globals)
            self.current = self.globals
        else:
            self.current = []
            self.sections.append((name, place, self.globals, self.current))

    def _include(self, line: str, place: str, folder: Path, depth: int) -> None:
        parts = line.split(None, 1)
        if len(parts) != 2:
            self.problems.append(f"{place}: include needs a file name")
            return
        if depth >= _INCLUDE_DEPTH_MAX:
            self.problems.append(f"{place}: includes are nested more than {_INCLUDE_DEPTH_MAX} deep")
            return
        # fio looks in the working directory; beside the job file is where people keep them.
        candidates = (Path(parts[1]), folder / parts[1])
        path = next((candidate for candidate in candidates if os.path.isfile(candidate)), None)
        if path is None:
            self.problems.append(f"{place}: cannot include '{_short(parts[1])}': no such file")
            return
        try:
            self.read(path.read_text(encoding="utf-8"), str(path), path.parent, depth + 1)
        except (OSError, UnicodeDecodeError) as error:
            self.problems.append(f"{place}: cannot include '{parts[1]}': {error}")

    # --- from settings to values ---

    def apply(self, settings: Iterable[Setting], texts: dict[str, str], section: JobSection | None) -> None:
        for setting in settings:
            option = find_option(setting.name)
            if option is None:
                self._problem(setting, f"unknown option '{_short(setting.name)}'{suggest(setting.name)}")
                continue
            text = setting.text if setting.text is not None else option.bare
            if text is None:
                self._problem(setting, f"option '{setting.name}' needs a value")
                continue
            expanded, missing = expand(text)
            texts[option.name] = expanded if setting.text is not None else ""
            self._apply_one(setting, option, expanded, missing, section)

    def _apply_one(
        self,
        setting: Setting,
        option: Option,
        text: str,
        missing: tuple[str, ...],
        section: JobSection | None,
    ) -> None:
        shown = _short(setting.name if setting.text is None else f"{setting.name}={text}")
        if option.rule is Rule.NOTED or (option.rule is Rule.REFUSED and text in option.harmless):
            reason = option.help if option.rule is Rule.NOTED else "this is what happens anyway"
            self.notes[f"{self._where(setting)}{shown}: accepted without effect: {reason}"] = None
            return
        if option.rule is Rule.REFUSED:
            self._problem(setting, f"option '{shown}': {option.help}")
            return
        units = Units(kb_base=section.get("kb_base")) if section is not None else Units()
        try:
            value = option.parse(text, units)
        except (ValueError, OverflowError) as error:
            unset = "".join(f" (${{{name}}} is not set)" for name in missing)
            self._problem(setting, f"{setting.name}: {_short(str(error), _MESSAGE_MAX)}{unset}")
            return
        if section is not None:
            section.values[option.name] = value
            section.places[option.name] = setting.place
            if option.name == "rwmixwrite":
                # fio: when both are given and do not add up, the later one wins.
                section.values["rwmixread"] = 100 - value
            _resolve_pairs(section, option.name)

    def _where(self, setting: Setting) -> str:
        return "--set " if setting.place.startswith("--set") else f"{setting.place}: "

    def _problem(self, setting: Setting, message: str) -> None:
        line = f"{setting.place}: {message}"
        if line not in self.problems:
            self.problems.append(line)


def _short(text: str, length: int = _SHOWN_MAX) -> str:
    """What stands in a message, though somebody's file has no line ends."""
    return text if len(text) <= length else f"{text[:length]}…"


def _without_comment(text: str) -> str:
    """fio ends a value at `;` or `#`; between quotation marks we let them stand."""
    quoted = False
    for position, character in enumerate(text):
        if character == '"':
            quoted = not quoted
        elif character in ";#" and not quoted:
            return text[:position].rstrip()
    return text


def _resolve_pairs(section: JobSection, name: str) -> None:
    """Options of which the later one replaces the other: bs and bsrange."""
    other = {"bs": "bsrange", "bsrange": "bs"}.get(name)
    if other is not None:
        section.values.pop(other, None)


def _kb_base_first(settings: Iterable[Setting]) -> list[Setting]:
    # kb_base changes how every other number of the job is read, wherever in the section it stands.
    return sorted(settings, key=lambda setting: setting.name != "kb_base")


def parse_job_text(
    text: str, *, source: str = "job", overrides: Sequence[str] = (), folder: Path | None = None
) -> JobFile:
    """Parse the text of a job file; `overrides` are `option=value` texts that apply to every job.

    Raises JobFileError, with one line for each problem (file and line number, or --set).
    """
    reader = _Reader(overrides)
    reader.read(text, source, folder or Path())
    global_texts: dict[str, str] = {}
    reader.apply(reader.globals, global_texts, None)
    reader.apply(reader.overrides, global_texts, None)
    jobs = []
    for name, place, globals_above, own in reader.sections:
        section = JobSection(name=name, place=place)
        everything = _kb_base_first([*globals_above, *own, *reader.overrides])
        reader.apply(everything, {}, section)
        reader.apply(
            own, section.texts, JobSection(name=name, place=place, values={"kb_base": section.get("kb_base")})
        )
        jobs.append(section)
    if not jobs and not reader.problems:
        reader.problems.append(f"{source}: the file defines no job: it needs a [section] other than [global]")
    if reader.problems:
        raise JobFileError(reader.problems)
    return JobFile(global_texts=global_texts, jobs=jobs, notes=list(reader.notes))


def parse_job_file(path: str, *, overrides: Sequence[str] = ()) -> JobFile:
    """Parse a job file by name; `-` is standard input. Raises JobFileError."""
    try:
        if path == "-":
            text = sys.stdin.read()
        else:
            text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise JobFileError([f"{path}: cannot read the job file: {error.strerror}"]) from None
    except UnicodeDecodeError as error:
        raise JobFileError([f"{path}: not a job file: byte {error.start} is not UTF-8"]) from None
    return parse_job_text(text, source=path, overrides=overrides, folder=Path(path).parent)
