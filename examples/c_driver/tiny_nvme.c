/*
 * A small NVMe driver: probe, Identify, one I/O queue pair, read and write, polled or by interrupt.
 * test_tiny_nvme.py tests it on an emulated SSD. Two bugs that one often meets can be switched on:
 *   -DBUG_PHASE=1  the Phase Tag is not inverted at the end of the queue
 *   -DBUG_HEAD=1   the head doorbell tells of one completion more than were taken
 */
#include <string.h>
#include "nvme_bridge.h"

enum { CAP = 0x00, CC = 0x14, CSTS = 0x1c, AQA = 0x24, ASQ = 0x28, ACQ = 0x30, DOORBELLS = 0x1000 };
enum { CREATE_SQ = 1, CREATE_CQ = 5, IDENTIFY = 6, SET_FEATURES = 9, NVM_WRITE = 1, NVM_READ = 2 };
enum { DEPTH = 8, PAGE = 4096, TRIES = 1000, TRY_NS = 10 * 1000, MS = 1000 * 1000 };
enum { CC_BASE = 4 << 20 | 6 << 16, CC_EN = 1, CC_SHN_NORMAL = 1 << 14 }; /* entries of 1 << 4 and 1 << 6 bytes */
#ifndef BUG_PHASE
#define BUG_PHASE 0
#endif
#ifndef BUG_HEAD
#define BUG_HEAD 0
#endif

struct sqe { uint8_t opcode, flags; uint16_t cid; uint32_t nsid, cdw2, cdw3; uint64_t mptr, prp1, prp2; uint32_t cdw10[6]; };
struct cqe { uint32_t dw0, dw1; uint16_t sqhd, sqid, cid, status; };
struct queue {
	uint16_t qid, tail, head, phase, next_cid;
	struct sqe *sq;
	volatile struct cqe *cq;
	uint64_t sq_addr, cq_addr;
};
static struct tiny {
	struct nvme_bridge *bus;
	struct queue admin, io;
	uint8_t *data;
	uint64_t data_addr;
	uint32_t stride;
	int by_interrupt;
	char model[41];
} disk;

static int queue_init(struct queue *q, uint16_t qid)
{
	q->qid = qid;
	q->phase = 1;
	q->sq = disk.bus->dma_alloc(disk.bus, DEPTH * sizeof(struct sqe), &q->sq_addr);
	q->cq = disk.bus->dma_alloc(disk.bus, DEPTH * sizeof(struct cqe), &q->cq_addr);
	return q->sq && q->cq ? 0 : -1;
}

static int wait_csts(uint32_t mask, uint32_t wanted)
{
	for (int i = 0; i < TRIES; i++) {
		if ((disk.bus->read32(disk.bus, CSTS) & mask) == wanted)
			return 0;
		disk.bus->sleep_ns(disk.bus, MS);
	}
	return -1;
}

/* Take the next completion, if there is one: its status if it is that of `cid`, else -1. */
static int reap(struct queue *q, uint16_t cid)
{
	volatile struct cqe *cqe = &q->cq[q->head];
	uint16_t status = cqe->status, done = cqe->cid;

	if ((status & 1) != q->phase)
		return -1;
	q->head = (q->head + 1) % DEPTH;
	if (q->head == 0 && !BUG_PHASE)
		q->phase ^= 1;
	disk.bus->write32(disk.bus, DOORBELLS + (2 * q->qid + 1) * disk.stride, (q->head + BUG_HEAD) % DEPTH);
	return done == cid ? status >> 1 : -1;
}

/* One command, from its entry to its completion: the status, or -1 if none came. */
static int execute(struct queue *q, struct sqe cmd)
{
	int status;

	cmd.cid = q->next_cid++;
	q->sq[q->tail] = cmd;
	q->tail = (q->tail + 1) % DEPTH;
	disk.bus->write32(disk.bus, DOORBELLS + 2 * q->qid * disk.stride, q->tail);
	for (int i = 0; i < TRIES; i++) {
		if (q->qid && disk.by_interrupt && !disk.bus->irq_wait(disk.bus, 1, 100 * MS))
			return -1;
		status = reap(q, cmd.cid);
		if (status >= 0)
			return status;
		disk.bus->sleep_ns(disk.bus, TRY_NS);
	}
	return -1;
}

int tiny_probe(struct nvme_bridge *bus, int by_interrupt)
{
	struct sqe identify = { .opcode = IDENTIFY, .cdw10 = { 1 } };
	struct sqe features = { .opcode = SET_FEATURES, .cdw10 = { 7, 0 } }; /* one I/O queue pair, please */
	struct sqe cq = { .opcode = CREATE_CQ, .cdw10 = { (DEPTH - 1) << 16 | 1, 1 } };
	struct sqe sq = { .opcode = CREATE_SQ, .cdw10 = { (DEPTH - 1) << 16 | 1, 1 << 16 | 1 } };

	memset(&disk, 0, sizeof(disk));
	disk.bus = bus;
	disk.by_interrupt = by_interrupt;
	disk.stride = 4u << ((bus->read64(bus, CAP) >> 32) & 0xf);
	disk.data = bus->dma_alloc(bus, PAGE, &disk.data_addr);
	bus->write32(bus, CC, 0);
	if (!disk.data || wait_csts(1, 0) || queue_init(&disk.admin, 0) || queue_init(&disk.io, 1))
		return -1;
	bus->write32(bus, AQA, (DEPTH - 1) << 16 | (DEPTH - 1));
	bus->write64(bus, ASQ, disk.admin.sq_addr);
	bus->write64(bus, ACQ, disk.admin.cq_addr);
	bus->write32(bus, CC, CC_BASE);
	bus->write32(bus, CC, CC_BASE | CC_EN);
	identify.prp1 = disk.data_addr;
	if (wait_csts(1, 1) || execute(&disk.admin, identify))
		return -1;
	memcpy(disk.model, disk.data + 24, 40);
	bus->log(bus, disk.model);
	if (by_interrupt && bus->irq_connect(bus, 1, NULL, NULL))
		return -1;
	cq.prp1 = disk.io.cq_addr;
	cq.cdw10[1] |= by_interrupt ? 1 << 16 | 2 : 0; /* vector 1, enabled */
	sq.prp1 = disk.io.sq_addr;
	return execute(&disk.admin, features) || execute(&disk.admin, cq) || execute(&disk.admin, sq) ? -1 : 0;
}

static int transfer(uint8_t opcode, uint64_t lba, uint32_t blocks)
{
	struct sqe cmd = { .opcode = opcode, .nsid = 1, .prp1 = disk.data_addr,
			   .cdw10 = { (uint32_t)lba, (uint32_t)(lba >> 32), blocks - 1 } };
	return execute(&disk.io, cmd);
}

int tiny_write(uint64_t lba, const void *data, uint32_t blocks)
{
	memcpy(disk.data, data, blocks * 512);
	return transfer(NVM_WRITE, lba, blocks);
}

int tiny_read(uint64_t lba, void *data, uint32_t blocks)
{
	int status = transfer(NVM_READ, lba, blocks);

	memcpy(data, disk.data, blocks * 512);
	return status;
}

void tiny_remove(void)
{
	void *memory[] = { disk.admin.sq, (void *)disk.admin.cq, disk.io.sq, (void *)disk.io.cq, disk.data };

	disk.bus->write32(disk.bus, CC, CC_BASE | CC_EN | CC_SHN_NORMAL);
	wait_csts(0xc, 0x8); /* SHST: complete */
	disk.bus->write32(disk.bus, CC, CC_BASE);
	wait_csts(1, 0);
	if (disk.by_interrupt)
		disk.bus->irq_disconnect(disk.bus, 1);
	for (int i = 0; i < 5; i++)
		disk.bus->dma_free(disk.bus, memory[i]);
}
