"""JSON-RPC 2.0 without a transport: text in, text out; and the description of what may be called.

    methods = Methods(title="…", version="…")
    methods.add("stats.get", fn)
    methods.handle(b'{"jsonrpc":"2.0","id":1,"method":"stats.get"}', session)   # -> bytes | None

A method is a function with annotated parameters and a docstring; both make its entry in `rpc.discover`
(OpenRPC 1.3). Its parameters may be given by name or by position and are checked against the annotations. A
first parameter called ``session`` is not the caller's to give: it is whoever is connected.

None of the kept libraries was right: those that are sans-I/O (python-jsonrpc-server, pjrpc) know neither
subscriptions nor size limits and describe themselves by hand, the others bring an event loop or HTTP.
"""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Final, NamedTuple

from nvme_emu.core.errors import CommandError
from nvme_emu.observe.state import to_json
from nvme_emu.spec.status import describe

__all__ = [
    "BATCH_MAX",
    "DEVICE_ERROR",
    "FAILED",
    "INTERNAL_ERROR",
    "INVALID_PARAMS",
    "INVALID_REQUEST",
    "METHOD_NOT_FOUND",
    "NOT_AVAILABLE",
    "PARSE_ERROR",
    "Methods",
    "RpcError",
    "encode",
]

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
NOT_AVAILABLE: Final = -32001
"""This machine does not have that, or does not allow it now."""
DEVICE_ERROR: Final = -32002
"""The device answered with a status; ``data`` has "status" and "words"."""
FAILED: Final = -32003
"""The operating system refused (a file, for example)."""

BATCH_MAX: Final = 100
"""Requests in one batch."""


class RpcError(Exception):
    """What becomes an error object: ``code``, ``message``, and ``data`` if there is any."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data

    def to_json(self) -> dict[str, Any]:
        """The error object."""
        found = {"code": self.code, "message": self.message}
        return found if self.data is None else {**found, "data": self.data}


def encode(message: Any) -> bytes:
    """A message on one line, with its newline."""
    return json.dumps(message, separators=(",", ":"), allow_nan=False).encode() + b"\n"


class _Method(NamedTuple):
    fn: Callable[..., Any]
    parameters: dict[str, inspect.Parameter]
    hints: dict[str, Any]
    wants_session: bool


class Methods:
    """A table of methods. `rpc.discover` is there from the start."""

    def __init__(self, *, title: str, version: str) -> None:
        self._title = title
        self._version = version
        self._table: dict[str, _Method] = {}
        self.add("rpc.discover", self.discover)

    def add(self, name: str, fn: Callable[..., Any]) -> None:
        """Offer ``fn`` as ``name``. A second method of that name replaces the first."""
        parameters = dict(inspect.signature(fn).parameters)
        wants_session = next(iter(parameters), None) == "session"
        if wants_session:
            del parameters["session"]
        self._table[name] = _Method(fn, parameters, typing.get_type_hints(fn), wants_session)

    def names(self) -> list[str]:
        """What may be called, in alphabetical order."""
        return sorted(self._table)

    # --- a request, or a batch ------------------------------------------------------------------------------

    def handle(self, text: bytes, session: Any = None) -> bytes | None:
        """The answer to one message, None if it wants none. Raises nothing."""
        try:
            message = json.loads(text.decode(), parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            reason = f"this is not JSON: {_one_line(error)}"
            return encode(_answer(None, error=RpcError(PARSE_ERROR, reason)))
        if not isinstance(message, list):
            answer = self._one(message, session)
            return None if answer is None else _encode_answer(answer)
        if not message or len(message) > BATCH_MAX:
            reason = f"a batch has 1 to {BATCH_MAX} requests, not {len(message)}"
            return encode(_answer(None, error=RpcError(INVALID_REQUEST, reason)))
        answers = [answer for one in message if (answer := self._one(one, session)) is not None]
        # Each answer is a line of JSON: joined they are the batch, and one that cannot be told spoils no other.
        lines = [_encode_answer(answer).rstrip() for answer in answers]
        return b"[" + b",".join(lines) + b"]\n" if lines else None

    def _one(self, request: Any, session: Any) -> dict[str, Any] | None:
        ident = request.get("id") if isinstance(request, Mapping) else None
        if not isinstance(ident, str | int | float | None) or isinstance(ident, bool):
            ident = None
        try:
            name, params = _check(request)
        except RpcError as error:
            return _answer(ident, error=error)
        wants_answer = "id" in request
        try:
            result = self._call(name, params, session)
        except RpcError as error:
            return _answer(ident, error=error) if wants_answer else None
        return _answer(ident, result=result) if wants_answer else None

    def _call(self, name: str, params: Any, session: Any) -> Any:
        method = self._table.get(name)
        if method is None:
            raise RpcError(METHOD_NOT_FOUND, f"there is no method {name!r}; rpc.discover lists them")
        arguments = _bind(name, method, params)
        try:
            found = method.fn(session, **arguments) if method.wants_session else method.fn(**arguments)
            result = to_json(found)
        except RpcError:
            raise
        except CommandError as error:
            data = {"status": error.field, "words": describe(error.field)}
            raise RpcError(DEVICE_ERROR, f"{name}: {data['words']}", data) from error
        except (ValueError, KeyError, IndexError) as error:
            raise RpcError(INVALID_PARAMS, f"{name}: {_one_line(error)}") from error
        except OSError as error:
            raise RpcError(FAILED, f"{name}: {_one_line(error)}") from error
        except Exception as error:
            # The server outlives a mistake of ours, and the caller is told that it was ours.
            raise RpcError(INTERNAL_ERROR, f"{name}: {type(error).__name__}: {_one_line(error)}") from error
        return result

    # --- the description ------------------------------------------------------------------------------------

    def discover(self) -> dict[str, Any]:
        """This description: every method with its parameters, in OpenRPC form."""
        schemas: dict[str, Any] = {}
        methods = [self._describe(name, schemas) for name in self.names()]
        return {
            "openrpc": "1.3.2",
            "info": {"title": self._title, "version": self._version},
            "methods": methods,
            "components": {"schemas": schemas},
        }

    def _describe(self, name: str, schemas: dict[str, Any]) -> dict[str, Any]:
        method = self._table[name]
        text = inspect.getdoc(method.fn) or ""
        params = []
        for key, parameter in method.parameters.items():
            schema = _schema(method.hints.get(key, Any), schemas)
            if parameter.default is not inspect.Parameter.empty:
                schema = {**schema, "default": to_json(parameter.default)}
            required = parameter.default is inspect.Parameter.empty
            params.append({"name": key, "required": required, "schema": schema})
        return {
            "name": name,
            "summary": text.partition("\n")[0],
            "description": text,
            "paramStructure": "either",
            "params": params,
            "result": {"name": "result", "schema": _schema(method.hints.get("return", Any), schemas)},
        }


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _one_line(error: BaseException) -> str:
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    return " ".join(str(text).split())[:300] or type(error).__name__


def _answer(ident: Any, *, result: Any = None, error: RpcError | None = None) -> dict[str, Any]:
    head = {"jsonrpc": "2.0", "id": ident}
    return {**head, "result": result} if error is None else {**head, "error": error.to_json()}


def _encode_answer(answer: dict[str, Any]) -> bytes:
    try:
        return encode(answer)
    except (ValueError, TypeError) as error:
        reason = f"the result cannot be told in JSON: {_one_line(error)}"
        return encode(_answer(answer["id"], error=RpcError(INTERNAL_ERROR, reason)))


def _check(request: Any) -> tuple[str, Any]:
    """(method, parameters) of a request. RpcError (Invalid Request) for what is none."""
    if not isinstance(request, Mapping):
        raise RpcError(INVALID_REQUEST, "a request is an object")
    if request.get("jsonrpc") != "2.0":
        raise RpcError(INVALID_REQUEST, 'a request has "jsonrpc": "2.0"')
    ident = request.get("id")
    if isinstance(ident, bool) or not isinstance(ident, str | int | float | None):
        raise RpcError(INVALID_REQUEST, "an id is a string, a number or null")
    name, params = request.get("method"), request.get("params", {})
    if not isinstance(name, str):
        raise RpcError(INVALID_REQUEST, 'a request has a "method", which is a string')
    if not isinstance(params, list | dict):
        raise RpcError(INVALID_REQUEST, '"params" is a list or an object')
    return name, params


# --- parameters ---------------------------------------------------------------------------------------------


def _bind(name: str, method: _Method, params: list[Any] | dict[str, Any]) -> dict[str, Any]:
    """The arguments by name, checked. RpcError (Invalid params) that says which is wrong."""
    known = method.parameters
    if isinstance(params, list):
        if len(params) > len(known):
            raise RpcError(INVALID_PARAMS, f"{name} takes {len(known)} parameters, not {len(params)}")
        params = dict(zip(known, params, strict=False))
    for key in params:
        if key not in known:
            offered = f"it has {', '.join(known)}" if known else "it has none"
            raise RpcError(INVALID_PARAMS, f"{name} has no parameter {key!r}; {offered}")
    for key, parameter in known.items():
        if key not in params and parameter.default is inspect.Parameter.empty:
            raise RpcError(INVALID_PARAMS, f"{name} needs the parameter {key!r}")
    for key, value in params.items():
        kind = method.hints.get(key, Any)
        if not _fits(kind, value):
            raise RpcError(INVALID_PARAMS, f"{name}: {key} must be {_kind_name(kind)}, not {value!r:.80}")
    return params


def _fits(kind: Any, value: Any) -> bool:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return True
    if origin is types.UnionType:
        return any(_fits(arg, value) for arg in args)
    if origin is list:
        return isinstance(value, list) and all(_fits(args[0], item) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(args[1], item) for item in value.values())
    if kind is float:
        return type(value) in (int, float)
    return type(value) is (type(None) if kind is None else kind)


def _kind_name(kind: Any) -> str:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return " or ".join(_kind_name(arg) for arg in args)
    if origin is list:
        return f"a list of {_kind_name(args[0])}"
    names = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}
    return names.get(kind, "null" if kind is type(None) else "an object")


_SCALARS: Final = {
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
}


def _schema(kind: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of an annotation; dataclasses go to ``schemas`` and are referred to."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind in _SCALARS:
        return dict(_SCALARS[kind])
    if origin is types.UnionType:
        return {"anyOf": [_schema(arg, schemas) for arg in args]}
    if origin in (list, tuple):
        if origin is tuple and not (len(args) == 2 and args[1] is Ellipsis):
            return {"type": "array", "prefixItems": [_schema(arg, schemas) for arg in args]}
        return {"type": "array", "items": _schema(args[0], schemas)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(args[1], schemas)}
    if isinstance(kind, type) and is_dataclass(kind):
        _add_dataclass(kind, schemas)
        return {"$ref": f"#/components/schemas/{kind.__name__}"}
    return {}


def _add_dataclass(kind: type[Any], schemas: dict[str, Any]) -> None:
    if kind.__name__ in schemas:
        return
    schema: dict[str, Any] = {"type": "object", "description": inspect.getdoc(kind) or ""}
    schemas[kind.__name__] = schema
    hints = typing.get_type_hints(kind)
    schema["properties"] = {field.name: _schema(hints[field.name], schemas) for field in fields(kind)}
    schema["required"] = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
