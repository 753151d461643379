"""The language of rules: what is refused and how it is said, and that files read back what was written."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvme_emu.core.faults import (
    EFFECTS,
    FaultError,
    FaultFileError,
    Match,
    Rule,
    When,
    check_text,
    dump_json,
    dump_toml,
    load_rules,
    parse_rules,
    rule_from,
    rule_to_plain,
)
from nvme_emu.core.faults.lines import json_lines, toml_lines
from nvme_emu.core.faults.match import FIELDS_OF, OCCURRENCES
from nvme_emu.spec.identify import IDENTIFY_CONTROLLER
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode
from nvme_emu.spec.queues import SQE
from nvme_emu.spec.registers import CAP, Reg
from nvme_emu.spec.status import Status
from nvme_emu.testing import fault

# -- every rule that can be made --------------------------------------------------------------------------

U16, U32 = st.integers(0, 0xFFFF), st.integers(0, 0xFFFF_FFFF)
U64 = st.integers(0, (1 << 64) - 1)
NS = st.integers(0, 1 << 62)
SPAN = st.tuples(U64, U64).map(lambda pair: (min(pair), max(pair)))


def many(one: st.SearchStrategy[int]) -> st.SearchStrategy[list[int]]:
    return st.lists(one, min_size=1, max_size=3)


def patterns() -> st.SearchStrategy[dict[str, bytes]]:
    return st.integers(1, 64).flatmap(
        lambda n: st.fixed_dictionaries({"pattern": st.binary(min_size=n, max_size=n)},
                                        optional={"mask": st.binary(min_size=n, max_size=n)})
    )  # fmt: skip


MATCHES: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "command": st.tuples(
        st.one_of(
            st.just({}),
            st.sampled_from(list(NvmOpcode)).map(lambda op: {"opcode": [op.name.lower()], "admin": False}),
            st.sampled_from(list(AdminOpcode)).map(lambda op: {"opcode": op.name, "admin": True}),
            st.fixed_dictionaries(
                {"opcode": st.lists(st.integers(0, 255), min_size=1)}, optional={"admin": st.booleans()}
            ),
        ),
        st.fixed_dictionaries(
            {"lba": SPAN},
            optional={
                "queue": many(U16), "nsid": many(U32), "size": SPAN,
                "direction": st.sampled_from(["read", "write", "none"]),
            },
        ),
        st.one_of(st.just({}), patterns()),
    ).map(lambda parts: {**parts[0], **parts[1], **parts[2]}),
    "register": st.fixed_dictionaries(
        {
            "register": st.sampled_from([reg.name for reg in Reg if reg is not Reg.DOORBELLS]),
            "access": st.just("write"),
        },
        optional={"value": U64, "bits": U64},
    ),
    "doorbell": st.fixed_dictionaries({}, optional={"queue": many(U16), "doorbell": st.sampled_from(["sq", "cq"])}),
    "interrupt": st.fixed_dictionaries({}, optional={"vector": many(st.integers(0, 2047))}),
}  # fmt: skip

CODES = st.one_of(st.sampled_from(list(Status)).map(int), st.integers(0, 0x7FF))
EFFECT_VALUES: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "status": st.fixed_dictionaries(
        {"code": CODES},
        optional={"dnr": st.booleans(), "crd": st.integers(0, 3), "more": st.booleans(), "executed": st.booleans()},
    ),
    "media_error": st.fixed_dictionaries({}, optional={"code": CODES, "grown": st.booleans()}),
    "corrupt": st.one_of(
        st.fixed_dictionaries({"how": st.just("bit_flip")}, optional={"bits": st.integers(1, 9), "at_bit": U32}),
        st.fixed_dictionaries({"how": st.just("torn")}, optional={"nbytes": U32}),
        st.just({"how": "stale"}),
        st.fixed_dictionaries({"how": st.just("misdirected")}, optional={"distance": st.integers(1, 1 << 40)}),
    ),
    "drop": st.fixed_dictionaries({}, optional={"executed": st.booleans(), "abortable": st.booleans()}),
    "delay": st.fixed_dictionaries({"ns": st.integers(1, 1 << 62)}, optional={"jitter_ns": NS}),
    "duplicate": st.fixed_dictionaries({}, optional={"after_ns": NS}),
    "reorder": st.fixed_dictionaries({"behind": st.integers(1, 65535)}, optional={"hold_ns": st.integers(1, 1 << 62)}),
    "cqe": st.fixed_dictionaries(
        {"phase": st.just(True)}, optional={"cid": U16, "sqid": U16, "sqhd": U16, "dw0": U32}
    ),
    "torn_cqe": st.fixed_dictionaries({}, optional={"stale_bytes": st.integers(1, 14), "after_ns": NS}),
    "interrupt": st.one_of(
        st.just({"how": "spurious", "vector": 3}), st.just({}), st.just({"how": "late", "ns": 5})
    ),
    "payload": st.fixed_dictionaries(
        {"patches": st.lists(st.tuples(st.integers(0, 1 << 20), st.binary(min_size=1)), min_size=1)}
    ),
    "tcp": st.one_of(
        st.just({"how": "header_digest"}), st.fixed_dictionaries({"how": st.just("pdu_cut")}, optional={"nbytes": U32})
    ),
    "doorbell": st.one_of(st.just({}), st.just({"how": "late", "ns": 7})),
    "register": st.one_of(
        st.just({"ignore": True}),
        st.fixed_dictionaries({"mask": st.integers(1, (1 << 64) - 1)}, optional={"value": U64}),
    ),
    "stall": st.fixed_dictionaries({}, optional={"ns": NS}),
    "cfs": st.just({}),
    "reset": st.fixed_dictionaries({}, optional={"nssro": st.booleans()}),
    "remove": st.fixed_dictionaries({}, optional={"return_ns": NS, "kept_ppm": st.integers(0, 1_000_000)}),
    "power_loss": st.fixed_dictionaries({}, optional={"off_ns": NS, "kept_ppm": st.integers(0, 1_000_000)}),
    "temperature": st.fixed_dictionaries({"kelvin": U16}),
    "zone": st.fixed_dictionaries({"zone": U16, "state": st.sampled_from(["read-only", "offline"])}),
    "pause": st.fixed_dictionaries({"ns": st.integers(1, 1 << 62)}),
}  # fmt: skip

WHENS = st.tuples(
    st.one_of(
        st.just({}),
        many(st.integers(1, 1 << 62)).map(lambda n: {"nth": n}),
        st.integers(1, 1 << 62).map(lambda n: {"every": n}),
        st.integers(0, 1_000_000).map(lambda n: {"ppm": n}),
        st.floats(0, 1).map(lambda p: {"probability": p}),
    ),
    st.fixed_dictionaries({}, optional={"skip": NS, "times": st.integers(1, 99), "from_ns": st.integers(0, 99),
                                        "until_ns": st.integers(100, 1 << 62)}),
).map(lambda parts: {**parts[0], **parts[1]})  # fmt: skip


@st.composite
def rules(draw: st.DrawFn, number: int = 0) -> Rule:
    on = draw(st.sampled_from(OCCURRENCES))
    match = Match(on=on, **draw(MATCHES.get(on, st.just({}))))
    able = [kind for kind, effect in EFFECTS.items() if on in effect.on]
    kinds = draw(st.lists(st.sampled_from(able), min_size=1, max_size=4, unique=True))
    effects = []
    for kind in kinds:
        values = draw(EFFECT_VALUES[kind])
        if kind == "interrupt" and on not in ("command", "interrupt"):
            values = {"how": "spurious", "vector": 3}
        effects.append(EFFECTS[kind](**values))
    return Rule(
        id=f"r{number}", match=match, when=When(**draw(WHENS)), effects=tuple(effects), armed=draw(st.booleans())
    )


def rule_lists() -> st.SearchStrategy[list[Rule]]:
    return st.integers(0, 4).flatmap(lambda n: st.tuples(*(rules(number) for number in range(n))).map(list))


@settings(max_examples=150, deadline=None)
@given(rule_lists())
def test_rules_are_the_same_after_toml_and_json(written: list[Rule]) -> None:
    assert parse_rules(dump_toml(written)) == written
    assert parse_rules(dump_json(written)) == written
    assert [rule_from(rule_to_plain(rule)) for rule in written] == written


@settings(max_examples=60, deadline=None)
@given(rule_lists())
def test_every_key_of_a_file_has_its_line(written: list[Rule]) -> None:
    def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        return [at, *(path for key, item in items for path in paths(item, (*at, key)))]

    for text, lines, parse in (
        (dump_toml(written), toml_lines, tomllib.loads),
        (dump_json(written), json_lines, json.loads),
    ):
        found = lines(text)
        rows = text.splitlines()
        for path in paths(parse(text)):  # type: ignore[operator]
            if path and (written or path[0] == "version"):
                assert path in found, path
                if isinstance(path[-1], str) and path[-1] != "rules":
                    assert path[-1] in rows[found[path] - 1]


def test_every_kind_of_effect_and_occurrence_is_generated_here() -> None:
    assert EFFECT_VALUES.keys() == EFFECTS.keys()
    assert set(MATCHES) == {on for on, fields in FIELDS_OF.items() if fields}


# -- what is refused --------------------------------------------------------------------------------------

READ_FAILS = {"match": {"opcode": "read"}, "then": {"status": {"code": 6}}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"matc": {}}, "matc: unknown key 'matc', did you mean 'match'?"),
        ({"match": {"opcode": "raed"}}, "match.opcode: 'raed' is no command, did you mean 'read'?"),
        ({"match": {"opcode": "fabrics"}}, "match.opcode: 'fabrics' is an admin and an I/O command: set admin"),
        ({"match": {"opcode": "read", "admin": True}}, "match.opcode: 'read' is no command"),
        ({"match": {"opcode": 256}}, "match.opcode: 256: it must be from 0 to 255"),
        ({"match": {"opcode": "0x80"}}, "needs admin"),
        ({"match": {"lba": [5, 3]}}, "match.lba: [5, 3]: the first is above the last"),
        ({"match": {"lba": [5]}}, "match.lba: [5]: [first, last], both included, is needed"),
        ({"match": {"pattern": "0g"}}, "match.pattern: '0g': pairs of hexadecimal digits"),
        ({"match": {"pattern": "00" * 65}}, "match.pattern: 65 bytes: 1 to 64 are needed"),
        ({"match": {"mask": "00"}}, "match.mask: a mask needs a pattern"),
        ({"match": {"pattern": "00", "mask": "0000"}}, "match.mask: the mask has 2 bytes, the pattern 1"),
        ({"match": {"register": "CAPS"}}, "match.register: 'CAPS' is no property, did you mean 'CAP'?"),
        ({"match": {"on": "register"}}, "match: on = 'register' needs the register's name"),
        ({"match": {"on": "time", "lba": 3}}, "match.lba: 'lba' says nothing about on = 'time'"),
        ({"match": {"register": "CC", "value": 1}}, "they need access = 'write'"),
        ({"match": {"direction": "up"}}, "match.direction: 'up': it is one of none, write, read"),
        ({"match": []}, "match: []: a table of keys and values is needed"),
        ({"when": {"nth": 0}}, "when.nth: 0: it must be from 1"),
        ({"when": {"nth": []}}, "when.nth: []: a number, or a list of some, is needed"),
        ({"when": {"nth": 1, "ppm": 5}}, "when: nth and ppm are given: one of them at most"),
        ({"when": {"ppm": 1_000_001}}, "when.ppm: 1000001: it must be from 0 to 1000000"),
        ({"when": {"probability": 1.5}}, "when.probability: 1.5: a probability from 0 to 1 is needed"),
        ({"when": {"from_ns": "5 m"}}, "when.from_ns: '5 m': nanoseconds, or a number with ns, us, ms, s or min"),
        ({"when": {"from_ns": 5, "until_ns": 5}}, "when.until_ns: 5: the window from 5 on is empty"),
        ({"when": {"period_ns": 5}}, "when.period_ns: only a rule on = 'time' has a period"),
        ({"when": {"times": True}}, "when.times: True: a whole number is needed"),
        ({"then": {}}, "then: a rule without an effect does nothing"),
        ({"then": {"stats": {}}}, "then.stats: unknown effect 'stats', did you mean 'status'?"),
        ({"then": {"status": {}}}, "then.status.code: a status needs its code"),
        ({"then": {"status": {"code": "READ_EROR"}}}, "'READ_EROR' is no status, did you mean 'READ_ERROR'?"),
        ({"then": {"status": {"code": 0x800}}}, "then.status.code: 2048: it must be from 0 to 2047"),
        ({"then": {"delay": {}}}, "then.delay.ns: 0: a delay takes time"),
        ({"then": {"media_error": {}}}, "match.lba: the bad blocks are the match's lba: it is needed"),
        ({"then": {"corrupt": {"nbytes": 3}}}, "then.corrupt.nbytes: only how = 'torn' uses it, not 'bit_flip'"),
        ({"then": {"cqe": {}}}, "then.cqe: no field of the completion is named"),
        ({"then": {"cqe": {"cid": 1, "cid_xor": 1}}}, "then.cqe.cid_xor: cid and cid_xor are given"),
        ({"then": {"interrupt": {"how": "late"}}}, "then.interrupt.ns: 0: how = 'late', and only that, takes time"),
        ({"then": {"interrupt": {"vector": 1}}}, "then.interrupt.vector: how = 'spurious', and only that"),
        ({"then": {"stall": {}}}, "then.stall: on = 'command' has no stall; it needs on = disable, enable, shutdown"),
        ({"then": {"payload": {"patches": [{"offset": 1}]}}}, "then.payload.patches.0: {'offset': 1}: a patch has"),
        ({"then": {"register": {"ignore": True}}}, "on = 'command' has no register; it needs on = register"),
        ({"id": "two words"}, "id: 'two words': 1 to 64 letters, digits and _ . : - are needed"),
        ({"armed": 1}, "armed: 1: true or false is needed"),
    ],
)
def test_wrong_rule_is_refused_with_place_value_and_rule(change: dict[str, Any], message: str) -> None:
    with pytest.raises(FaultError) as caught:
        rule_from({**READ_FAILS, **change})
    assert message in str(caught.value)


def test_rule_on_time_has_no_message_to_lose() -> None:
    with pytest.raises(FaultError, match="has no message that is lost"):
        rule_from({"match": {"on": "time"}, "then": {"interrupt": {}}})


def test_file_errors_name_file_line_rule_and_key_all_at_once() -> None:
    text = """version = 1

[[rules]]
id = "one"
match = { opcode = "read", lba = [
    9,
    3 ] }
then.status.code = "Unrecovered Read Eror"

[[rules]]
[rules.match]
# a comment = "with [ brackets"
opcode = "write"
[rules.then]
[rules.then.delay]
ns = "5 parsecs"

[[rules]]
id = "one"
then = { cfs = { why = 1 } }
"""
    rules_read, problems = check_text(text, "f.toml")
    assert rules_read == []
    assert [str(one).split(": ")[:2] for one in problems] == [
        ["f.toml:5", "rule one match.lba"],
        ["f.toml:8", "rule one then.status.code"],
        ["f.toml:16", "rule 2 then.delay.ns"],
        ["f.toml:20", "rule one then.cfs.why"],
        ["f.toml:19", "rule one id"],
    ]


@pytest.mark.parametrize(
    ("text", "file", "line"),
    [
        ("version = 1\nrules = [[\n", "f.toml", 3),
        ("version = 1\n= 3", "f.toml", 2),
        ('{\n "rules": [}\n', "f.toml", 2),
        ("[1, 2]", "f.json", 1),
        ("{}\n{}", "f.json", 2),
        ("version = 2", "f.toml", 1),
        ("\n\nrulez = []", "f.toml", 3),
        ("\nrules = 5", "f.toml", 2),
        ("rules = [\n 5 ]", "f.toml", 2),
        ('{"version": true}', "f.toml", 1),
    ],
)
def test_text_that_is_no_fault_file_is_refused_by_line(text: str, file: str, line: int) -> None:
    found, problems = check_text(text, file)
    assert not found
    assert [one.line for one in problems] == [line]
    with pytest.raises(FaultFileError, match=f"{file}:{line}: "):
        parse_rules(text, file)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet='[]{}"\'=.,#\n\\ aru1_-:"', max_size=60))
def test_any_text_gives_rules_or_problems(text: str) -> None:
    found, problems = check_text(text, "f.toml")
    assert not (found and problems)
    assert all(1 <= one.line <= text.count("\n") + 2 for one in problems)


def test_rules_without_an_id_get_one_by_their_place() -> None:
    named = load_rules([READ_FAILS, {**READ_FAILS, "id": "fault2"}, READ_FAILS])
    assert [rule.id for rule in named] == ["fault1", "fault2", "fault3"]
    with pytest.raises(FaultError, match="'x' names two rules"):
        load_rules([{**READ_FAILS, "id": "x"}, {**READ_FAILS, "id": "x"}])
    with pytest.raises(FaultError, match="5 is no fault rule"):
        load_rules([5])


def test_file_that_is_not_there_is_an_os_error(tmp_path: Any) -> None:
    with pytest.raises(FileNotFoundError):
        load_rules(tmp_path / "no.toml")
    bad = tmp_path / "bad.toml"
    bad.write_bytes(b"\xff\xfe")
    with pytest.raises(FaultFileError, match=r"bad\.toml:1: no UTF-8"):
        load_rules(bad)


# -- the same in Python -----------------------------------------------------------------------------------


def test_dsl_and_file_give_the_same_rule() -> None:
    written = fault.when(opcode="read", lba=(0, 100), nth=3).status("Unrecovered Read Error", dnr=True)
    text = """
[[rules]]
match = { opcode = "read", lba = [0, 100] }
when = { nth = 3 }
then.status = { code = "READ_ERROR", dnr = true }
"""
    assert load_rules([written]) == parse_rules(text)


@pytest.mark.parametrize(
    ("written", "kind", "values"),
    [
        (fault.when(lba=5).media_error(), "media_error", {}),
        (fault.when().flip_bits(3), "corrupt", {"bits": 3}),
        (fault.when().torn(512), "corrupt", {"how": "torn", "nbytes": 512}),
        (fault.when().stale(), "corrupt", {"how": "stale"}),
        (fault.when().misdirected(8), "corrupt", {"how": "misdirected", "distance": 8}),
        (fault.when().drop(abortable=False), "drop", {"abortable": False}),
        (fault.when().delay("2us", jitter=5), "delay", {"ns": 2000, "jitter_ns": 5}),
        (fault.when().duplicate(after="1ms"), "duplicate", {"after_ns": 1_000_000}),
        (fault.when().reorder(2, hold=9), "reorder", {"behind": 2, "hold_ns": 9}),
        (fault.when().completion(cid=3), "cqe", {"cid": 3}),
        (fault.when().torn_completion(8, after=5), "torn_cqe", {"stale_bytes": 8, "after_ns": 5}),
        (fault.when().lose_interrupt(), "interrupt", {}),
        (fault.when().late_interrupt(5), "interrupt", {"how": "late", "ns": 5}),
        (fault.when().patch(7, "aa"), "payload", {"patches": [{"offset": 7, "bytes": "aa"}]}),
        (fault.when().tcp("pdu_cut", nbytes=4), "tcp", {"how": "pdu_cut", "nbytes": 4}),
        (fault.when(doorbell="sq").lose_doorbell(), "doorbell", {}),
        (fault.when(doorbell="cq").late_doorbell("1s"), "doorbell", {"how": "late", "ns": 10**9}),
        (fault.register("CC", access="write").ignore(), "register", {"ignore": True}),
        (fault.register("cap").lie(5, 7), "register", {"value": 5, "mask": 7}),
        (fault.register("VS").lie(5), "register", {"value": 5, "mask": 0xFFFF_FFFF}),
        (fault.on_enable().never(), "stall", {}),
        (fault.on_disable().takes_longer("1ms"), "stall", {"ns": 1_000_000}),
        (fault.on_shutdown().takes_longer(5), "stall", {"ns": 5}),
        (fault.at("1s").fatal(), "cfs", {}),
        (fault.at(1).reset(nssro=True), "reset", {"nssro": True}),
        (fault.manual().remove(back_after=5), "remove", {"return_ns": 5}),
        (fault.every(7).power_loss(off=5, kept_ppm=9), "power_loss", {"off_ns": 5, "kept_ppm": 9}),
        (fault.manual().temperature(300), "temperature", {"kelvin": 300}),
        (fault.manual().zone(3, "read-only"), "zone", {"zone": 3, "state": "read-only"}),
        (fault.manual().pause("1us"), "pause", {"ns": 1000}),
        (fault.manual().spurious_interrupt(4), "interrupt", {"how": "spurious", "vector": 4}),
    ],
)  # fmt: skip
def test_dsl_effect_is_the_effect_of_a_file(written: Any, kind: str, values: dict[str, Any]) -> None:
    assert rule_to_plain(written.rule)["then"] == {kind: values}


def test_dsl_fields_of_a_property_and_of_a_structure() -> None:
    lie = fault.register("CAP").lie(mqes_z=3, to=1).rule
    assert rule_to_plain(lie)["then"]["register"] == {
        "value": CAP.pack(mqes_z=3, to=1), "mask": CAP.mask("mqes_z", "to"),
    }  # fmt: skip
    patch = fault.when(opcode="identify").fields(IDENTIFY_CONTROLLER, mdts=2, sn="X")
    patches = rule_to_plain(patch.rule)["then"]["payload"]["patches"]
    assert patches == [{"offset": 77, "bytes": "02"}, {"offset": 4, "bytes": b"X".ljust(20).hex()}]
    with pytest.raises(FaultError, match="NSSR has no fields"):
        fault.register("NSSR").lie(anything=1)


def test_dsl_entry_fields_become_pattern_and_mask() -> None:
    match = fault.when(sqe={"opcode": 6, "cdw10": 0x102}).drop().rule.match
    assert match.pattern == SQE.pack(6, *[0] * 8, 0x102, *[0] * 5)
    assert match.mask == SQE.pack(0xFF, *[0] * 8, 0xFFFF_FFFF, *[0] * 5)
    with pytest.raises(FaultError, match="unknown field 'cdw1' of the entry, did you mean 'cdw1"):
        fault.when(sqe={"cdw1": 1})
    with pytest.raises(FaultError, match="256: it must be from 0 to 255"):
        fault.when(sqe={"opcode": 256})


def test_dsl_name_disarmed_and_errors() -> None:
    rule = fault.when(opcode="read").drop().delay(1).named("x").disarmed().rule
    assert (rule.id, rule.armed, rule.kinds) == ("x", False, ("drop", "delay"))
    with pytest.raises(FaultError, match="unknown condition 'opcod', did you mean 'opcode'"):
        fault.when(opcod="read")
    with pytest.raises(FaultError, match="without an effect"):
        assert fault.when().rule
    with pytest.raises(FaultError, match="one effect of a kind"):
        assert fault.when().drop().drop().rule
    with pytest.raises(FaultError, match="unknown effect 'dorp', did you mean 'drop'"):
        fault.when().effect("dorp")
