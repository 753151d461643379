"""A second namespace that comes, works and goes while data on the first is verified: a script for either transport."""

from __future__ import annotations

__all__ = ["churn"]

_SCRIPT = """
ctrl=$(nvme id-ctrl /dev/nvme0 | sed -n 's/^cntlid *: *//p')
until_so() { for i in $(seq 100); do if eval "$1"; then return 0; fi; sleep 0.1; done; echo "never: $1"; return 1; }
create() { nvme create-ns /dev/nvme0 --nsze=$1 --ncap=$1 --flbas=0 --nmic=1; }
attach() { nvme attach-ns /dev/nvme0 -n $1 -c $ctrl; until_so "[ -b /dev/nvme0n$1 ]"; }
detach() { nvme detach-ns /dev/nvme0 -n $1 -c $ctrl; until_so "[ ! -e /dev/nvme0n$1 ]"; }
remove() { detach $1; nvme delete-ns /dev/nvme0 -n $1; }
remove 1; create 32768; attach 1
rm -f /tmp/enough /tmp/round*
verified() {
    round=0
    until [ -e /tmp/enough ]; do
        round=$((round + 1))
        fio --name=job --filename=/dev/nvme0n1 --direct=1 --verify=crc32c --verify_fatal=1 --randseed=$round \
            --rw=randwrite --bs=4k --size=4M --iodepth=16 --ioengine=io_uring || return 1
        touch /tmp/round$round
    done
}
verified >/tmp/fio.log 2>&1 &
job=$!
for n in 1 2 3 4 5; do
    create 16384; attach 2
    head -c 256k /dev/urandom >/tmp/second
    dd if=/tmp/second of=/dev/nvme0n2 bs=64k oflag=direct status=none
    dd if=/dev/nvme0n2 bs=64k count=4 iflag=direct status=none | cmp - /tmp/second
    # Half of them go while they are read: that read may fail, the first namespace's may not.
    if [ $((n % 2)) = 0 ]; then
        dd if=/dev/nvme0n2 of=/dev/null bs=4k iflag=direct status=none 2>/dev/null &
        late=$!
        remove 2
        wait $late || true
    else
        remove 2
    fi
done
touch /tmp/enough
wait $job || { cat /tmp/fio.log; exit 1; }
remove 1; create BLOCKS; attach 1
ls /tmp/round* | wc -l
"""


def churn(blocks: int) -> str:
    """The script for /dev/nvme0: its last line says how many rounds on the first namespace were verified meanwhile.

    At the end namespace 1 is there alone, with so many blocks of 512 bytes.
    """
    return _SCRIPT.replace("BLOCKS", str(blocks))
