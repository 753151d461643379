/*
 * What a driver in C gets from nvme_emu.testing.CDriver: an NVMe function on a bus, and a little of a kernel.
 *
 * Every function pointer takes the bridge itself as its first argument. They may be called from any function that the
 * test calls, and (but for those marked "sleeps") from interrupt handlers. Times are nanoseconds.
 */
#ifndef NVME_BRIDGE_H
#define NVME_BRIDGE_H

#include <stddef.h>
#include <stdint.h>

/* CDriver reads the lines between "begin" and "end". */
/* begin */
struct nvme_bridge {
	/* Registers: byte offsets within BAR0, at a multiple of the width. Doorbells are 32 bits wide. */
	uint32_t (*read32)(struct nvme_bridge *bus, uint32_t offset);
	uint64_t (*read64)(struct nvme_bridge *bus, uint32_t offset);
	void (*write32)(struct nvme_bridge *bus, uint32_t offset, uint32_t value);
	void (*write64)(struct nvme_bridge *bus, uint32_t offset, uint64_t value);

	/* DMA: zeroed memory, and in *addr its page-aligned bus address; NULL if there is none. Sleeps. */
	void *(*dma_alloc)(struct nvme_bridge *bus, size_t nbytes, uint64_t *addr);
	void (*dma_free)(struct nvme_bridge *bus, void *memory);

	/* Interrupts: 0, or -1 if the vector is not there or taken. The handler must not block; it may be NULL. */
	int (*irq_connect)(struct nvme_bridge *bus, uint32_t vector, void (*handler)(void *data), void *data);
	void (*irq_disconnect)(struct nvme_bridge *bus, uint32_t vector);
	/* 1 when a message has come since the last call, 0 after timeout_ns. Sleeps. */
	int (*irq_wait)(struct nvme_bridge *bus, uint32_t vector, uint64_t timeout_ns);

	uint64_t (*now_ns)(struct nvme_bridge *bus);
	/* Time passes for the device only in here and in irq_wait. Sleeps. */
	void (*sleep_ns)(struct nvme_bridge *bus, uint64_t duration_ns);
	void (*log)(struct nvme_bridge *bus, const char *text);

	void *private_data; /* the driver's own */
};
/* end */

#endif
