"""The pytest plugin. `pip install nvme-emu` is enough for pytest to load it.

Fixtures    nvme0 nvme0n1 qpair nvme_faults nvme_checker nvme_raw nvme_sim
Options     --nvme-seed --nvme-runs --nvme-check --nvme-scheduler
Marker      @pytest.mark.nvme(size="64M", mode="async", clock="wall", profile="tlc", …)

Nothing of the product is imported until a test asks for one of the fixtures.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from nvme_emu.driver import Namespace
    from nvme_emu.machine import Machine
    from nvme_emu.observe.faults import Faults
    from nvme_emu.testing.raw import RawDevice
    from nvme_emu.testing.rawqueue import RawQueuePair
    from nvme_emu.testing.report import EventLog
    from nvme_emu.testing.settings import Settings
    from nvme_emu.testing.simulation import NvmeSim, Outcome, Runner

__all__ = ["Campaign", "campaign_key"]

RUNS_SIM = 20
"""Runs of a test with ``nvme_sim`` if nobody says how many."""

FIXTURES = frozenset({"nvme0", "nvme0n1", "qpair", "nvme_faults", "nvme_checker", "nvme_raw"})
"""What makes an SSD before the test begins; ``nvme_sim`` makes them in the test."""

CHECKS = ("off", "warn", "error")
SCHEDULERS = ("random", "pct", "run-to-block")

_looked_at = pytest.StashKey[list[tuple[Any, Any]]]()
_reports = pytest.StashKey[list[tuple[str, str]]]()

Campaign = Callable[["Runner", pytest.Function], None]
campaign_key = pytest.StashKey[Campaign]()
"""Put into ``config.stash`` by `nvme-emu explore`: it gets the runner of the test instead of the usual runs."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("nvme-emu", "NVMe drivers on emulated SSDs (nvme-emu)")
    group.addoption("--nvme-seed", type=int, default=0, metavar="N", help="seed of the first run (default 0)")
    group.addoption(
        "--nvme-runs",
        type=int,
        default=None,
        metavar="N",
        help=f"run each NVMe test with N seeds (default: 1; with nvme_sim {RUNS_SIM})",
    )
    group.addoption(
        "--nvme-check",
        choices=CHECKS,
        default=None,
        help="what the checker does that watches the driver: nothing, warn, or fail the test (default error)",
    )
    group.addoption(
        "--nvme-scheduler",
        choices=SCHEDULERS,
        default=None,
        help="who runs next in tests with nvme_sim (default random)",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "nvme(size=, mode=, clock=, profile=, runs=, scheduler=, …): how the SSD of the fixtures nvme0, nvme0n1, "
        "qpair, nvme_raw and nvme_sim is made: the options of nvme_emu.open, and of the plugin (nvme-emu)",
    )
    runs = config.getoption("nvme_runs")
    if runs is not None and runs < 1:
        raise pytest.UsageError(f"--nvme-runs={runs}: it is at least 1")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Without nvme_sim each run is a test of its own, whose fixtures are made anew."""
    runs = metafunc.config.getoption("nvme_runs")
    names = set(metafunc.fixturenames)
    if runs is None or runs == 1 or "nvme_sim" in names or not names & FIXTURES:
        return
    first = metafunc.config.getoption("nvme_seed")
    seeds = range(first, first + runs)
    metafunc.fixturenames.append("_nvme_seed")
    metafunc.parametrize("_nvme_seed", seeds, ids=[f"seed{seed}" for seed in seeds], indirect=True)


# -- fixtures ------------------------------------------------------------------------------------------------


@pytest.fixture
def _nvme_seed(request: pytest.FixtureRequest) -> int:
    seed: int = getattr(request, "param", None) or 0
    return seed if hasattr(request, "param") else int(request.config.getoption("nvme_seed"))


def _settings(item: Any) -> Settings:
    from nvme_emu.testing.settings import settings_of

    try:
        return settings_of(item.iter_markers("nvme"))
    except (TypeError, ValueError) as error:
        why = f"@pytest.mark.nvme of {item.name}: {error}"
    pytest.fail(why, pytrace=False)


def _check_of(config: pytest.Config, settings: Settings) -> dict[str, Any]:
    """The checker is on, and fails the test, unless the command line or the marker says otherwise."""
    chosen = config.getoption("nvme_check")
    if chosen is None:
        return {} if "check" in settings.options else {"check": "error"}
    return {"check": chosen}


def _refuse_with_sim(request: pytest.FixtureRequest) -> None:
    if "nvme_sim" in request.fixturenames:
        pytest.fail(
            "nvme_sim runs the test many times, and each run makes its own SSD: write nvme_sim.open() in the test "
            f"and leave out {', '.join(sorted(FIXTURES & set(request.fixturenames)))}",
            pytrace=False,
        )


@pytest.fixture
def nvme0(request: pytest.FixtureRequest, _nvme_seed: int) -> Generator[Machine, None, None]:
    """An emulated SSD with its driver, ready for I/O: a :class:`nvme_emu.Machine`, on the virtual clock.

    ``@pytest.mark.nvme`` says otherwise. At the end it is shut down, and the driver's books must agree.
    """
    from nvme_emu.testing.audit import close_and_audit

    _refuse_with_sim(request)
    settings = _settings(request.node)
    more: dict[str, Any] = {"seed": _nvme_seed, **_check_of(request.config, settings)}
    if "seed" in settings.options:
        del more["seed"]
    if settings.scheduler is not None:
        more["scheduler"] = settings.scheduler
    if "qpair" in request.fixturenames:
        more["queues"] = settings.options.get("queues", 1) + 1
    machine = settings.opened(**more)
    _look_at(request.node, machine, settings)
    yield machine
    close_and_audit(machine, strict=not _failed(request.node))


@pytest.fixture
def nvme0n1(nvme0: Machine) -> Namespace:
    """The first namespace of ``nvme0``: read, write, flush, submit_read, …"""
    return nvme0.namespaces[1]


@pytest.fixture
def nvme_faults(nvme0: Machine) -> Faults:
    """The fault rules of ``nvme0``: ``nvme_faults.add(fault.when(...))``."""
    return nvme0.faults


@pytest.fixture
def nvme_checker(nvme0: Machine) -> Any:
    """The checker that watches the driver of ``nvme0``; ``findings`` is what it has found."""
    if nvme0.checker is None:
        pytest.fail("the checker is off: leave out --nvme-check=off and check='off'", pytrace=False)
    return nvme0.checker


@pytest.fixture
def qpair(nvme0: Machine) -> Generator[RawQueuePair, None, None]:
    """A queue pair of ``nvme0`` that no driver touches: write commands, ring, look at completions."""
    from nvme_emu.testing.rawqueue import RawQueuePair

    pair = RawQueuePair.beside(nvme0)
    yield pair
    pair.close()


@pytest.fixture
def nvme_raw(request: pytest.FixtureRequest, _nvme_seed: int) -> Generator[RawDevice, None, None]:
    """An SSD without a driver (:class:`nvme_emu.testing.RawDevice`), for a driver of your own."""
    from nvme_emu.testing.raw import RawDevice

    _refuse_with_sim(request)
    settings = _settings(request.node)
    device = RawDevice(
        **{"seed": _nvme_seed, "clock": "virtual", **settings.options, **_check_of(request.config, settings)}
    )
    _look_at(request.node, device.machine, settings)
    yield device
    device.close(strict=not _failed(request.node))


@pytest.fixture
def nvme_sim() -> NvmeSim:
    """A simulated host, new in each run of the test; the plugin puts it in the place of this."""
    return None  # type: ignore[return-value]


# -- runs of tests with nvme_sim -----------------------------------------------------------------------------


def _runner_of(item: pytest.Function) -> Runner:
    from nvme_emu.testing.simulation import Runner

    settings = _settings(item)
    wanted = item._fixtureinfo.argnames
    given = {name: item.funcargs[name] for name in wanted}

    def call(sim: NvmeSim) -> None:
        item.obj(**{**given, "nvme_sim": sim})

    return Runner(call=call, settings=settings, options=_check_of(item.config, settings))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> object | None:
    __tracebackhide__ = True
    if "nvme_sim" not in pyfuncitem.funcargs:
        return None
    if "nvme_sim" not in pyfuncitem._fixtureinfo.argnames:
        pytest.fail("nvme_sim is an argument of the test itself: no other fixture can use it", pytrace=False)
    if FIXTURES & set(pyfuncitem.fixturenames):
        _refuse_with_sim(pyfuncitem._request)
    runner = _runner_of(pyfuncitem)
    campaign = pyfuncitem.config.stash.get(campaign_key, None)
    if campaign is not None:
        campaign(runner, pyfuncitem)
    else:
        _some_runs(pyfuncitem, runner)
    return True


def _some_runs(item: pytest.Function, runner: Runner) -> None:
    __tracebackhide__ = True
    config = item.config
    runs = config.getoption("nvme_runs") or runner.settings.runs or RUNS_SIM
    scheduler = config.getoption("nvme_scheduler") or runner.settings.scheduler or "random"
    if scheduler == "exhaustive":
        from nvme_emu.testing.exhaustive import search

        failed = search(runner, runs_max=runs).failure
        if failed is not None:
            _raise(item, runner, failed, None, scheduler)
        return
    first = config.getoption("nvme_seed")
    for seed in range(first, first + runs):
        outcome = runner.run(seed, scheduler)
        if outcome.failure is not None:
            _raise(item, runner, outcome, seed, scheduler)


def _raise(item: pytest.Function, runner: Runner, outcome: Outcome, seed: int | None, scheduler: str) -> None:
    """Look at the run once more, closely, and raise what it raised."""
    __tracebackhide__ = True
    assert outcome.failure is not None
    if not isinstance(outcome.failure, Exception | SystemExit | pytest.fail.Exception):
        raise outcome.failure  # pytest.skip, pytest.exit
    from kworker.schedulers import Replay
    from nvme_emu.testing.simulation import STEPS_MAX

    replay = Replay(outcome.schedule)
    replay.steps_max = STEPS_MAX
    replay.slack_ns = outcome.slack_ns
    again = runner.attempt(outcome.seed, replay, closely=True)
    if again.signature == outcome.signature:
        item.stash.setdefault(_reports, []).append(("NVMe queues and events", again.report))
        outcome = again
    if seed is None:
        lines = f'nvme-emu explore "{item.nodeid}" --scheduler exhaustive'
    else:
        how = "" if scheduler == "random" else f" --scheduler {scheduler}"
        lines = (
            f'pytest "{item.nodeid}" --nvme-runs 1 --nvme-seed {seed}'
            f"{'' if not how else f' --nvme-scheduler {scheduler}'}\n"
            f'nvme-emu replay "{item.nodeid}" --seed {seed}{how}     # and shows who ran when'
        )
    item.stash.setdefault(_reports, []).append(("NVMe replay", lines))
    assert outcome.failure is not None
    raise outcome.failure


# -- reports -------------------------------------------------------------------------------------------------


def _look_at(item: Any, machine: Machine, settings: Settings) -> None:
    from nvme_emu.testing.report import EventLog

    log: EventLog | None = None
    if settings.events:
        log = EventLog(settings.events)
        log.attach(machine)
    item.stash.setdefault(_looked_at, []).append((machine, log))


_outcome_failed = pytest.StashKey[bool]()


def _failed(item: Any) -> bool:
    return bool(item.stash.get(_outcome_failed, False))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if not report.failed:
        return report
    item.stash[_outcome_failed] = True
    for machine, log in item.stash.get(_looked_at, []):
        from nvme_emu.testing.report import machine_report

        if call.when != "setup":
            report.sections.append(("NVMe queues and events", machine_report(machine, log)))
            seed = f" --nvme-seed {machine.config.seed}" if machine.config.seed else ""
            node = item.nodeid.removesuffix(f"[seed{machine.config.seed}]")
            report.sections.append(("NVMe replay", f'pytest "{node}"{seed}'))
    item.stash[_looked_at] = []
    sections: list[tuple[str, str]] = item.stash.get(_reports, [])
    report.sections.extend(sections)
    item.stash[_reports] = []
    return report
