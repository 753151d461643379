"""Namespaces with metadata in the driver: what is generated, verified, passed through, and what has no capacity."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nvme_emu
from nvme_emu.controller.metadata_config import MetadataConfig
from nvme_emu.core.errors import MediaError, NvmeError
from nvme_emu.driver.integrity import MetadataNamespace
from nvme_emu.machine import Machine
from nvme_emu.spec.commands_admin import FORMAT_CDW10, SANITIZE_CDW10
from nvme_emu.spec.opcodes import AdminOpcode
from nvme_emu.spec.status import STATUS_CODE_MASK, Status
from nvme_emu.testing import faults

DATA = bytes(range(256)) * 16


def opened(metadata: str = "ms=8,pi=1", **options: Any) -> Machine:
    return nvme_emu.open(**{"size": "1M", "metadata": metadata, **options})


def only(machine: Machine) -> MetadataNamespace:
    namespace = machine.namespaces[1]
    assert isinstance(namespace, MetadataNamespace)
    return namespace


def format_nvm(machine: Machine, **fields: int) -> None:
    machine.driver.admin.execute(AdminOpcode.FORMAT_NVM, nsid=1, cdw10=FORMAT_CDW10.pack(**fields))
    machine.driver.rescan()


@pytest.mark.parametrize(
    "options", [{}, {"mode": "async"}, {"mode": "async", "worker": "inline"}, {"clock": "virtual"}]
)
@pytest.mark.parametrize("metadata", ["ms=8,pi=1", "ms=64,pi=2,pil=1", "ms=16,pi=3", "ms=8,pi=1,mset=1", "ms=16"])
def test_blocks_with_metadata_are_read_and_written_as_any(metadata: str, options: dict[str, Any]) -> None:
    with opened(metadata, **options) as machine:
        namespace = only(machine)

        namespace.write(3, DATA, fua=True)
        namespace.write_zeroes(4, 2)
        namespace.discard(6, 1)

        expected = DATA[:512] + bytes(3 * 512) + DATA[4 * 512 :]
        assert namespace.read(3, 8).tobytes() == expected
        namespace.compare(3, expected)
        with pytest.raises(NvmeError, match="Compare Failure"):
            namespace.compare(3, DATA)
        whole = os.urandom(namespace.nbytes)
        namespace.write(0, whole)
        assert namespace.read(0, namespace.nlb).tobytes() == whole
        starts = np.arange(0, 100, 2)
        namespace.write_many(starts, bytes(512 * 50))
        assert not namespace.read_many(starts).any()
        assert namespace.read(1, 1).tobytes() == whole[512:1024]
        request = namespace.submit_write(9, DATA[:512])
        request.wait()
        assert namespace.submit_read(9, 1).wait().tobytes() == DATA[:512]  # type: ignore[union-attr]


def test_metadata_is_generated_and_can_be_read() -> None:
    with opened("ms=16,pi=1") as machine:
        namespace, metadata = only(machine), bytearray(32)
        namespace.write(5, bytes(1024))

        namespace.read(5, 2, metadata=metadata)

        # The CRC of zeroes is zero; the Application Tag is 0; the Reference Tag is the LBA.
        assert struct.unpack(">8sHHI8sHHI", metadata) == (bytes(8), 0, 0, 5, bytes(8), 0, 0, 6)


def test_metadata_without_protection_is_the_callers() -> None:
    with opened("ms=64") as machine:
        namespace, metadata = only(machine), os.urandom(128)
        namespace.write(0, DATA[:1024], metadata=metadata)
        found = np.zeros(128, np.uint8)

        assert namespace.read(0, 2, metadata=found).tobytes() == DATA[:1024]

        assert found.tobytes() == metadata
        with pytest.raises(ValueError, match="64 each"):
            namespace.write(0, DATA[:1024], metadata=bytes(64))
        with pytest.raises(ValueError, match="writable"):
            namespace.read(0, 2, metadata=bytes(128))


def test_wrong_metadata_of_the_caller_is_refused_by_the_device() -> None:
    with opened("ms=8,pi=1") as machine:
        with pytest.raises(NvmeError) as caught:
            only(machine).write(0, DATA[:512], metadata=bytes(8))

        assert caught.value.errno == errno.EILSEQ
        assert (caught.value.status or 0) & STATUS_CODE_MASK == Status.GUARD_CHECK


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize(("opcode", "who"), [("read", "host"), ("write", "device")])
def test_flipped_bit_is_found_by_the_guard(mode: str, opcode: str, who: str) -> None:
    with opened("ms=8,pi=1", mode=mode) as machine:
        namespace = only(machine)
        namespace.write(0, DATA)
        errors = machine.controller.counters.media_errors
        machine.faults.add(faults.when(opcode=opcode, lba=(0, 7), times=1).flip_bits(at_bit=4000))

        if opcode == "write":
            namespace.write(0, DATA)
        with pytest.raises(NvmeError) as caught:
            namespace.read(0, 8)

        assert caught.value.errno == errno.EILSEQ
        assert (caught.value.status or 0) & STATUS_CODE_MASK == Status.GUARD_CHECK
        # What the device has read was right where the bit was lost on the way.
        assert machine.controller.counters.media_errors - errors == (who == "device")
        namespace.write(0, DATA)
        assert namespace.read(0, 8).tobytes() == DATA


def test_lost_write_is_lost_with_its_metadata() -> None:
    with opened("ms=8,pi=1") as machine:
        namespace = only(machine)
        namespace.write(0, DATA)
        machine.faults.add(faults.when(opcode="write", times=1).stale())

        namespace.write(0, bytes(4096))

        # What is there is a version that was written once: no check can tell.
        assert namespace.read(0, 8).tobytes() == DATA


def test_torn_write_is_found_by_the_guard() -> None:
    with opened("ms=8,pi=1") as machine:
        namespace = only(machine)
        namespace.write(0, DATA)
        machine.faults.add(faults.when(opcode="write", times=1).torn(700))

        namespace.write(0, bytes(4096))

        assert not namespace.read(0, 1).any()
        with pytest.raises(NvmeError, match="Guard"):
            namespace.read(1, 1)


def test_plain_namespace_does_not_find_a_flipped_bit() -> None:
    with nvme_emu.open(size="1M") as machine:
        namespace = machine.namespaces[1]
        namespace.write(0, DATA)
        machine.faults.add(faults.when(opcode="read").flip_bits())

        assert namespace.read(0, 8).tobytes() != DATA


def test_misdirected_write_is_found_by_the_reference_tag() -> None:
    with opened("ms=8,pi=2") as machine:
        namespace = only(machine)
        machine.faults.add(faults.when(opcode="write", times=1).misdirected(100))
        namespace.write(0, DATA)

        with pytest.raises(NvmeError, match="Reference Tag"):
            namespace.read(100, 8)


def test_extended_blocks_without_room_for_the_block_layer_have_no_capacity() -> None:
    with opened("ms=16,pi=1,mset=1") as machine:
        namespace = only(machine)

        assert (namespace.nlb, namespace.nbytes) == (0, 0)
        with pytest.raises(ValueError, match="no capacity"):
            namespace.read(0, 1)


def test_inserted_metadata_is_not_transferred() -> None:
    with opened("ms=8,pi=1,mset=1") as machine, pytest.raises(ValueError, match="inserts and strips"):
        only(machine).read(0, 1, metadata=bytearray(8))


def test_formats_change_what_the_namespace_is() -> None:
    with nvme_emu.open(size="1M") as machine:
        machine.namespaces[1].write(0, DATA)

        format_nvm(machine, lbafl=2, pi=1)
        assert not only(machine).read(0, 8).any()
        format_nvm(machine, lbafl=0)

        assert type(machine.namespaces[1]) is not MetadataNamespace
        machine.namespaces[1].write(0, DATA)
        assert machine.controller.namespaces[1].view is not None


def test_sanitize_leaves_blocks_that_read_as_deallocated() -> None:
    with opened("ms=8,pi=1", clock="virtual") as machine:
        namespace, metadata = only(machine), bytearray(64)
        namespace.write(0, DATA)

        machine.driver.admin.execute(AdminOpcode.SANITIZE, cdw10=SANITIZE_CDW10.pack(sanact=2))
        machine.runtime.sleep_ns(3_000_000_000)

        assert not namespace.read(0, 8, metadata=metadata).any()
        assert metadata == b"\xff" * 64


@pytest.mark.parametrize("metadata", ["ms=8,pi=1", "ms=64,pi=3,pil=1,mset=0", "ms=16"])
def test_image_keeps_metadata_and_format(tmp_path: Path, metadata: str) -> None:
    image = tmp_path / "disk.img"
    with opened(metadata, image=image) as machine:
        namespace = only(machine)
        tags = bytearray(8 * namespace.ms)
        namespace.write(7, DATA)
        namespace.read(7, 8, metadata=tags)
        namespace.flush()
        before = repr(namespace)

    with nvme_emu.open(image) as machine:
        namespace, found = only(machine), bytearray(8 * only(machine).ms)
        assert repr(namespace) == before
        assert namespace.read(7, 8, metadata=found).tobytes() == DATA
        assert found == tags
    with pytest.raises(MediaError, match="no namespace with the metadata"):
        opened("ms=8,pi=2", image=image)


def test_image_of_plain_blocks_is_as_before(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    with nvme_emu.open(image, size="1M") as machine:
        machine.namespaces[1].write(0, DATA)

    with nvme_emu.open(image) as machine:
        assert machine.namespaces[1].read(0, 8).tobytes() == DATA
        assert b"metadata" not in (machine.media[0].load_state() or b"")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "words"),
    [("ms=9", "must be one of 0, 8, 16, 64"), ("pi=4", "must be one of"), ("ms=0,pi=1", "needs 8"), ("x=1", "none of"),
     ("ms=", "a number")],
)  # fmt: skip
def test_wrong_configuration_is_named(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MetadataConfig.parse(text)


def test_zoned_namespaces_have_no_metadata() -> None:
    with pytest.raises(ValueError, match="zoned namespaces have no metadata"):
        opened("ms=8", size="8M", zoned="zone_size=1M")


def test_power_loss_loses_blocks_with_their_metadata(tmp_path: Path) -> None:
    with opened("ms=8,pi=1", image=tmp_path / "disk.img") as machine:
        namespace = only(machine)
        namespace.write(0, DATA, fua=True)
        power = machine.faults.add(faults.manual().power_loss(off=0))
        namespace.write(0, bytes(4096))

        power.fire()
        machine.driver.reset()

        assert namespace.read(0, 8).tobytes() == DATA
