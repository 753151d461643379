"""JSON-RPC 2.0 as its specification's examples have it, and hostile messages."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvme_emu.core.errors import CommandError
from nvme_emu.observe.rpc_core import (
    BATCH_MAX,
    DEVICE_ERROR,
    FAILED,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    Methods,
)
from nvme_emu.observe.state import FieldState


def subtract(minuend: int, subtrahend: int = 0) -> int:
    """One less the other.

    More text.
    """
    return minuend - subtrahend


def fail(kind: str) -> None:
    """Raise what is asked for."""
    raise {
        "value": ValueError("bad\nvalue"),
        "key": KeyError("no such thing"),
        "os": FileNotFoundError(2, "No such file"),
        "bug": AssertionError("ours"),
        "device": CommandError(0x002),
        "recursion": RecursionError("deep"),
    }[kind]


def give_state() -> FieldState:
    """A dataclass."""
    return FieldState(name="en", value=1, words="Enable")


def take(numbers: list[int], maybe: str | None = None, rate: float = 1.0, flag: bool = False) -> list[Any]:
    """All kinds."""
    return [numbers, maybe, rate, flag]


def who(session: str) -> str:
    """Who is connected."""
    return session


def give_nan() -> float:
    """What JSON has no word for."""
    return float("nan")


@pytest.fixture
def methods() -> Methods:
    made = Methods(title="test", version="1")
    for name, fn in {
        "subtract": subtract, "fail": fail, "state": give_state, "take": take, "who": who, "nan": give_nan,
    }.items():  # fmt: skip
        made.add(name, fn)
    return made


def ask(methods: Methods, message: Any) -> Any:
    text = message if isinstance(message, bytes) else json.dumps(message).encode()
    answer = methods.handle(text, "me")
    return None if answer is None else json.loads(answer)


def call(method: str, params: Any = None, ident: Any = 1) -> dict[str, Any]:
    found = {"jsonrpc": "2.0", "id": ident, "method": method}
    return found if params is None else {**found, "params": params}


@pytest.mark.parametrize("params", [[42, 23], {"subtrahend": 23, "minuend": 42}])
def test_request_by_name_or_position_is_answered(methods: Methods, params: Any) -> None:
    assert ask(methods, call("subtract", params)) == {"jsonrpc": "2.0", "id": 1, "result": 19}


@pytest.mark.parametrize("ident", ["a", 7, 1.5, None])
def test_answer_has_the_requests_id(methods: Methods, ident: Any) -> None:
    assert ask(methods, call("subtract", [1], ident))["id"] == ident


def test_notification_is_never_answered(methods: Methods) -> None:
    for name in ("subtract", "no such method", "fail"):
        assert ask(methods, {"jsonrpc": "2.0", "method": name, "params": [1]}) is None


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"{", PARSE_ERROR),
        (b"\xff\xfe", PARSE_ERROR),
        (b"[" * 100_000, PARSE_ERROR),
        (b'{"jsonrpc":"2.0","id":1,"method":"subtract","params":[NaN]}', PARSE_ERROR),
        (b"1" * 5000, PARSE_ERROR),
        ([], INVALID_REQUEST),
        (1, INVALID_REQUEST),
        ("subtract", INVALID_REQUEST),
        ({"id": 1, "method": "subtract"}, INVALID_REQUEST),
        ({"jsonrpc": "1.0", "id": 1, "method": "subtract"}, INVALID_REQUEST),
        ({"jsonrpc": "2.0", "id": 1, "method": 1}, INVALID_REQUEST),
        ({"jsonrpc": "2.0", "id": 1}, INVALID_REQUEST),
        ({"jsonrpc": "2.0", "id": True, "method": "subtract"}, INVALID_REQUEST),
        ({"jsonrpc": "2.0", "id": {}, "method": "subtract"}, INVALID_REQUEST),
        (call("subtract", "no list"), INVALID_REQUEST),
        ([call("subtract", [1])] * (BATCH_MAX + 1), INVALID_REQUEST),
        (call("nothing"), METHOD_NOT_FOUND),
        (call("subtract"), INVALID_PARAMS),
        (call("subtract", [1, 2, 3]), INVALID_PARAMS),
        (call("subtract", {"minuend": 1, "x": 2}), INVALID_PARAMS),
        (call("subtract", ["1"]), INVALID_PARAMS),
        (call("subtract", [True]), INVALID_PARAMS),
        (call("subtract", [1.0]), INVALID_PARAMS),
        (call("take", [[1, "2"]]), INVALID_PARAMS),
        (call("who", {"session": "another"}), INVALID_PARAMS),
        (call("fail", ["value"]), INVALID_PARAMS),
        (call("fail", ["key"]), INVALID_PARAMS),
        (call("fail", ["os"]), FAILED),
        (call("fail", ["bug"]), INTERNAL_ERROR),
        (call("fail", ["recursion"]), INTERNAL_ERROR),
        (call("fail", ["device"]), DEVICE_ERROR),
        (call("nan"), INTERNAL_ERROR),
    ],
)  # fmt: skip
def test_bad_message_gets_its_code(methods: Methods, message: Any, code: int) -> None:
    answer = ask(methods, message)
    assert answer["error"]["code"] == code
    assert answer["error"]["message"] and "\n" not in answer["error"]["message"]
    assert "result" not in answer


def test_invalid_params_names_the_parameter_and_the_kind(methods: Methods) -> None:
    assert ask(methods, call("take", [["a"]]))["error"]["message"] == (
        "take: numbers must be a list of a whole number, not ['a']"
    )
    assert "has no parameter 'x'; it has minuend, subtrahend" in ask(
        methods, call("subtract", {"x": 1})
    )["error"]["message"]  # fmt: skip


def test_device_error_tells_the_status_in_words(methods: Methods) -> None:
    data = ask(methods, call("fail", ["device"]))["error"]["data"]
    assert data["status"] & 0x7FF == 2 and "Invalid Field" in data["words"]


def test_batch_answers_each_request_and_no_notification(methods: Methods) -> None:
    answers = ask(methods, [
        call("subtract", [5, 1], 1), {"jsonrpc": "2.0", "method": "subtract", "params": [1]}, 7, call("no", None, 2),
    ])  # fmt: skip
    assert [answer["id"] for answer in answers] == [1, None, 2]
    assert answers[0]["result"] == 4
    assert [a["error"]["code"] for a in answers[1:]] == [INVALID_REQUEST, METHOD_NOT_FOUND]
    assert ask(methods, [{"jsonrpc": "2.0", "method": "subtract", "params": [1]}]) is None


def test_dataclasses_and_the_session_pass(methods: Methods) -> None:
    assert ask(methods, call("state"))["result"] == {"name": "en", "value": 1, "words": "Enable"}
    assert ask(methods, call("who"))["result"] == "me"
    assert ask(methods, call("take", {"numbers": [], "maybe": None, "rate": 2}))["result"] == [[], None, 2, False]


def test_discover_describes_every_method_from_its_signature(methods: Methods) -> None:
    found = ask(methods, call("rpc.discover"))["result"]
    assert found["openrpc"].startswith("1.")
    by_name = {method["name"]: method for method in found["methods"]}
    assert set(by_name) == {"fail", "nan", "rpc.discover", "state", "subtract", "take", "who"}
    assert by_name["subtract"]["summary"] == "One less the other."
    assert by_name["subtract"]["params"] == [
        {"name": "minuend", "required": True, "schema": {"type": "integer"}},
        {"name": "subtrahend", "required": False, "schema": {"type": "integer", "default": 0}},
    ]
    assert by_name["who"]["params"] == []
    assert by_name["state"]["result"]["schema"] == {"$ref": "#/components/schemas/FieldState"}
    assert found["components"]["schemas"]["FieldState"]["required"] == ["name", "value", "words"]


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(["jsonrpc", "id", "method", "params", "x"]), inner, max_size=5),
    max_leaves=12,
)
_requests = st.fixed_dictionaries(
    {"jsonrpc": st.just("2.0"), "id": _json, "method": st.sampled_from(["take", "subtract"]), "params": _json}
)


@settings(max_examples=300, deadline=None)
@given(_json | _requests)
def test_any_message_gets_a_wellformed_answer_or_none(message: Any) -> None:
    methods = Methods(title="t", version="1")
    methods.add("take", take)
    methods.add("subtract", subtract)
    answer = methods.handle(json.dumps(message).encode())
    for one in [] if answer is None else (lambda a: a if isinstance(a, list) else [a])(json.loads(answer)):
        assert one["jsonrpc"] == "2.0" and ("result" in one) != ("error" in one)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_raise_nothing(data: bytes) -> None:
    Methods(title="t", version="1").handle(data)
