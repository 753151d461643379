"""nvme-cli's words for the subsystem: `nvme-emu ana-log | endurance-log | list-ctrl | supported-log-pages | …`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from nvme_emu.cli.nvme_common import DEVICE, Answer, Number, word

if TYPE_CHECKING:
    from nvme_emu.observe.target import Target

__all__ = [
    "ana_log",
    "changed_ns_list_log",
    "endurance_event_agg_log",
    "endurance_log",
    "fid_support_effects_log",
    "list_ctrl",
    "list_endgrp",
    "supported_log_pages",
]


def _pairs(data: dict[str, Any], width: int = 24) -> list[str]:
    return [f"{key:<{width}}: {value}" for key, value in data.items()]


@word("ana-log", " -g", click.option("-g", "--groups", is_flag=True, help="Without the namespaces (RGO)."))
def ana_log(target: Target, groups: bool) -> Answer:
    """Asymmetric Namespace Access: the ANA groups of the attached namespaces, and their states."""
    from nvme_emu.observe.nvme_words_subsystem import ana_log as form
    from nvme_emu.spec.ana import ANA_LSP_RGO, ana_log_bytes
    from nvme_emu.spec.identify import IDENTIFY_CONTROLLER, Cns
    from nvme_emu.spec.logs import Lid

    controller = IDENTIFY_CONTROLLER.parse(target.identify(Cns.CONTROLLER))
    most = ana_log_bytes(controller.nanagrpid, 0 if groups else controller.mnan or controller.nn)
    raw = target.log(Lid.ANA, most, lsp=ANA_LSP_RGO if groups else 0)
    data = form(raw, DEVICE)
    lines = [f"Asymmetric Namespace Access Log for {DEVICE}: change count {data['chgcnt']}, {data['ngrps']} group(s)"]
    for group in data["ANA DESC LIST "]:
        nsids = ", ".join(str(one["nsid"]) for one in group["NSIDS"])
        listed = "" if groups else f", namespaces {nsids or 'none'}"
        lines.append(f"group {group['grpid']}: {group['state']}, change count {group['chgcnt']}{listed}")
    return Answer(data=data, raw=raw, lines=lines)


@word(
    "endurance-log",
    " -g 1",
    click.option(
        "-g", "--group-id", "group", type=Number(0xFFFF), default=1, show_default=True, help="Which endurance group."
    ),
)
def endurance_log(target: Target, group: int) -> Answer:
    """Endurance Group Information: what was written to the flash, and how much of its life is used."""
    from nvme_emu.observe.nvme_words_subsystem import endurance_log as form
    from nvme_emu.spec.endurance import ENDURANCE_GROUP_LOG
    from nvme_emu.spec.logs import Lid

    raw = target.log(Lid.ENDURANCE_GROUP, ENDURANCE_GROUP_LOG.size, lsi=group)
    data = form(raw)
    return Answer(data=data, raw=raw, lines=[f"Endurance Group Log for {DEVICE}, group {group}:", *_pairs(data)])


@word(
    "endurance-event-agg-log",
    " -e 1",
    click.option(
        "-e", "--log-entries", "entries", type=Number(2044), default=1, show_default=True, help="How many entries."
    ),
)
def endurance_event_agg_log(target: Target, entries: int) -> Answer:
    """Endurance Group Event Aggregate: the groups that have an event nobody has looked at."""
    from nvme_emu.observe.nvme_words_subsystem import endurance_event_agg_log as form
    from nvme_emu.spec.logs import Lid

    raw = target.log(Lid.ENDURANCE_GROUP_AGGREGATE, 8 + -(-2 * entries // 4) * 4)
    data = form(raw, entries)
    used = [str(one["entry"]) for one in data["list_of_entries"] if one["entry"]]
    lines = [f"Endurance Group Event Aggregate Log for {DEVICE}: {data['num_entries_avail']} entries"]
    return Answer(data=data, raw=raw, lines=[*lines, *(f"group {group}" for group in used)])


@word(
    "list-ctrl",
    " -n 1",
    click.option("-c", "--cntid", type=Number(0xFFFF), default=0, show_default=True, help="Begin here."),
    click.option(
        "-n", "--namespace-id", "nsid", type=Number(0xFFFF_FFFE), default=0, help="Those that have it attached."
    ),
)
def list_ctrl(target: Target, cntid: int, nsid: int) -> Answer:
    """The controllers of the subsystem, or those that have a namespace attached."""
    from nvme_emu.observe.nvme_words_subsystem import list_ctrl as form
    from nvme_emu.spec.identify import Cns

    raw = target.identify(Cns.NAMESPACE_CONTROLLER_LIST if nsid else Cns.CONTROLLER_LIST, nsid=nsid, cntid=cntid)
    data = form(raw)
    lines = [f"num of ctrls present: {data['num_ctrl']}"]
    lines += [f"[{index:>4}]:{one['ctrl_id']:#x}" for index, one in enumerate(data["ctrl_list"])]
    return Answer(data=data, raw=raw, lines=lines)


@word(
    "list-endgrp",
    "",
    click.option("-i", "--endgrp-id", "first", type=Number(0xFFFF), default=0, show_default=True, help="Begin here."),
)
def list_endgrp(target: Target, first: int) -> Answer:
    """The endurance groups."""
    from nvme_emu.observe.nvme_words_subsystem import list_endgrp as form
    from nvme_emu.spec.identify import Cns

    raw = target.identify(Cns.ENDURANCE_GROUP_LIST, cnssid=first)
    data = form(raw)
    lines = [f"num of endurance group ids: {data['num_endgrp_id']}"]
    lines += [f"[{index:>4}]:{one['endgrp_id']:#x}" for index, one in enumerate(data["endgrp_list"])]
    return Answer(data=data, raw=raw, lines=lines)


@word("changed-ns-list-log", "")
def changed_ns_list_log(target: Target) -> Answer:
    """Changed Attached Namespace List: what has changed since the host last read it."""
    from nvme_emu.observe.nvme_words_subsystem import changed_ns_list_log as form
    from nvme_emu.spec.logs import CHANGED_NAMESPACE_LIST, Lid

    raw = target.log(Lid.CHANGED_NAMESPACES, CHANGED_NAMESPACE_LIST.size)
    data = form(raw, DEVICE)
    lines = [f"{key}: {value}" for key, value in data[DEVICE].items()]
    return Answer(data=data, raw=raw, lines=lines or ["no ns changed"])


@word("supported-log-pages", "")
def supported_log_pages(target: Target) -> Answer:
    """Supported Log Pages."""
    from nvme_emu.observe.nvme_words_subsystem import supported_log_pages as form
    from nvme_emu.spec.logs import SUPPORTED_LOG_PAGES, Lid

    raw = target.log(Lid.SUPPORTED_LOG_PAGES, SUPPORTED_LOG_PAGES.size)
    found = [lid for lid, entry in enumerate(SUPPORTED_LOG_PAGES.parse(raw).lid) if entry & 1]
    lines = [f"Support Log Pages Details for {DEVICE}:"]
    lines += [f"LID {lid:#x} - {Lid.name_of(lid) or 'Unknown'}" for lid in found]
    return Answer(data=form(raw), raw=raw, lines=lines)


@word("fid-support-effects-log", "")
def fid_support_effects_log(target: Target) -> Answer:
    """Feature Identifiers Supported and Effects."""
    from nvme_emu.observe.nvme_words_subsystem import fid_support_effects_log as form
    from nvme_emu.spec.features import Fid
    from nvme_emu.spec.logs import FEATURES_SUPPORTED_AND_EFFECTS, Lid

    raw = target.log(Lid.FEATURES_SUPPORTED_AND_EFFECTS, FEATURES_SUPPORTED_AND_EFFECTS.size)
    entries = FEATURES_SUPPORTED_AND_EFFECTS.parse(raw).fis
    lines = [f"FID Supports Effects Log for {DEVICE}:"]
    lines += [f"FID {fid:02x} {entry:08x}  {Fid.name_of(fid) or ''}" for fid, entry in enumerate(entries) if entry & 1]
    return Answer(data=form(raw), raw=raw, lines=lines)
