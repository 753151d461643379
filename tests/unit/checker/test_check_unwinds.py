"""A CheckError that a doorbell raises leaves no lock held: others go on, and the machine can be closed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import nvme_emu
from nvme_emu.observe.checker import CheckError


def batch(ns: Any) -> None:
    ns.read_many([0, 8, 16], nlb=1)


def one(ns: Any) -> None:
    ns.write(0, bytes(512))


def several(ns: Any) -> None:
    ns.write(0, bytes(64 * 512))


@pytest.mark.parametrize("clock", ["virtual", "wall"])
@pytest.mark.parametrize("call", [one, several, batch])
def test_doorbell_that_raises_leaves_no_lock(clock: str, call: Callable[[Any], None]) -> None:
    with nvme_emu.open(size="1M", clock=clock, check="error") as ssd:
        port, real = ssd.port, {name: getattr(ssd.port, name) for name in ("ring_sq", "ring_sq_polled")}

        def after(name: str) -> Callable[..., Any]:
            def ring(*args: Any) -> Any:
                result = real[name](*args)
                port.ring_cq(1, 500)
                return result

            return ring

        vars(port).update({name: after(name) for name in real})
        with pytest.raises(CheckError, match="cq-head"):
            call(ssd.namespaces[1])
        vars(port).update(real)
        one(ssd.namespaces[1])
