/* The compiled gait's structures. Each is the base class of a Python class, and its fields are that class's
 * attributes: Python code and C code read and write the same truth. pure.py holds the same classes in Python.
 *
 * Nothing here lets go of the interpreter lock while it works, so each call is atomic to Python code. Memory is
 * touched through buffers that are held for as long as the structure names them.
 */

#ifndef NVME_EMU_NATIVE_H
#define NVME_EMU_NATIVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>
#include <structmember.h>

/* Raised with each change of what Python sees of these structures: an older build is left alone. */
#define NATIVE_LAYOUT 8

/* Bytes that C uses, and what keeps them where they are.
 *
 * Of a memoryview its owner is held and not the view: the collector clears a view that is part of a cycle even
 * while it is held, and whoever closes a mapping or resizes a bytearray asks the owner.
 */
struct hold {
    uint8_t *data; /* NULL for nothing */
    uint64_t size;
    int readonly;
    Py_buffer owner; /* obj is NULL where nothing has to be given back */
};

/* Hold the bytes of a memoryview if that can be done: -1 with an exception where it is none. */
int hold_take(struct hold *hold, PyObject *object);
void hold_drop(struct hold *hold);

/* An attribute of which C uses the bytes. */
struct held {
    PyObject *object;
    struct hold hold;
};

static inline uint8_t *held_bytes(const struct held *held)
{
    return held->hold.data;
}

PyObject *held_get(const struct held *held);
int held_set(struct held *held, PyObject *value);
void held_drop(struct held *held);
int held_visit(const struct held *held, visitproc visit, void *arg);

struct region {
    uint64_t base;
    uint64_t size;
    int writable;
    struct hold bytes;
};

typedef struct {
    PyObject_HEAD
    long long generation;
    unsigned long long next_base;
    struct region *regions; /* in order of base */
    Py_ssize_t count, room, last;
} MemoryObject;

typedef struct {
    PyObject_HEAD
    unsigned long long posted, fetched, dropped, read_commands, write_commands, read_bytes, write_bytes;
    long long busy_ns;
} CountersObject;

typedef struct {
    PyObject_HEAD
    long long generation;
    PyObject *sqs, *cqs;
} RingsObject;

typedef struct {
    PyObject_HEAD
    unsigned int qid, size, vector, head, tail, phase, free, sqs;
    char ien;
    unsigned long long base;
    PyObject *blocked, *backlog;
    struct held view;
} CqObject;

typedef struct {
    PyObject_HEAD
    unsigned int qid, size, head, tail, inflight;
    char in_line, live;
    unsigned long long base;
    CqObject *cq;
    struct held view;
    /* Of `inflight` those that only C keeps, and a bit for each identifier they have; NULL before the first. */
    unsigned int light;
    uint64_t *light_cids;
} SqObject;

typedef struct {
    PyObject_HEAD
    unsigned int nsid, lba_shift;
    unsigned long long nsze;
    struct held view;
} NamespaceObject;

typedef struct {
    PyObject_HEAD
    PyObject *raised, *masked, *is_raised, *pending; /* a list of vectors, and flags for each vector */
} InterruptsObject;

typedef struct {
    PyObject_HEAD
    char running, posting, write_through, sgl_blocks;
    unsigned int page_size, step_commands_max;
    unsigned long long transfer_bytes_max;
    long long now_ns;
    PyObject *memory, *rings, *counters, *namespaces, *latency, *trace, *faults, *inflight, *interrupts, *line, *timers;
} DeviceObject;

struct timed;

/* Commands in flight: `commands` and `due` in Python, and the plain ones that only C keeps in `light`. */
typedef struct {
    PyObject_HEAD
    long long busy_since_ns;
    unsigned long long sequence;
    unsigned int timed;
    struct timed *light; /* a heap by time and sequence */
    Py_ssize_t count, room;
    PyObject *commands, *due, *counters;
} InFlightObject;

typedef struct {
    PyObject_HEAD
    unsigned long long host_read_bytes, host_write_bytes, media_read_bytes, media_write_bytes, erases, retries,
        read_link_busy_ns, write_link_busy_ns;
    PyObject *die_busy_ns, *channel_busy_ns; /* lists */
} LatencyCountersObject;

typedef struct {
    PyObject_HEAD
    char scatters, compiled;
    long long command_free, read_link_free;
    long long dies, channels, page, read_types, command_ns, read_overhead_ns, bus, link, jitter_ns, retry_ns, retry_below;
    PyObject *read_ns, *bus_free, *die_free, *program_end, *in_register, *rng, *counters;
} LatencyObject;

typedef struct {
    PyObject_HEAD
    unsigned long owner;
    unsigned int count;
    char starving;
    struct waiter *first, **last;
} LockObject;

typedef struct {
    PyObject_HEAD
    int opcode, cid, qid;
    unsigned int nsid, nlb, cdw12, cdw13, cdw14, cdw15, dw0, dw1, status;
    unsigned long long slba, serial;
    Py_ssize_t nbytes;
    char to_device, admin, batch, done;
    PyObject *data, *array, *iova, *region, *completion, *callbacks, *path;
} RequestObject;

typedef struct {
    PyObject_HEAD
    unsigned int qid, depth, tail, rung_tail, head, phase, sqhd, outstanding, batched;
    unsigned long long window_base, list_addr;
    long list_tag; /* the tag of whose window the list is, or -1 */
    struct held sq, cq, list;
    /* The pair's words in the Shadow Doorbell and EventIdx pages: the tail's and, half-way, the head's. Empty without. */
    struct held bells, events;
    char bell;
    PyObject *free, *cids, *inflight, *memory, *opened;
    /* The lane: what else has to be idle, set by open_lane and NULL without one. */
    DeviceObject *device;
    SqObject *device_sq;
    PyObject *line, *raised, *masked, *handlers, *handler;
    LockObject *locks[3];
} PairObject;

extern PyTypeObject MemoryType, CountersType, RingsType, CqType, SqType, NamespaceType, DeviceType, LockType,
    RequestType, PairType, InterruptsType, InFlightType, LatencyCountersType, LatencyType;

enum { SQE_BYTES = 64, CQE_BYTES = 16, OP_WRITE = 1, OP_READ = 2, PAGE = 4096 };

/* Submission queue entry, NVMe Base 2.1, 4.1; little-endian machines only, as rings.py says. */
struct sqe {
    uint8_t opcode, flags;
    uint16_t cid;
    uint32_t nsid;
    uint64_t cdw2_3, mptr, prp1, prp2, slba;
    uint32_t cdw12, cdw13, cdw14, cdw15;
};

/* Completion queue entry, 4.2. */
struct cqe {
    uint32_t dw0, dw1;
    uint16_t sqhd, sqid, cid, status;
};

_Static_assert(sizeof(struct sqe) == SQE_BYTES, "a submission queue entry has 64 bytes");
_Static_assert(sizeof(struct cqe) == CQE_BYTES, "a completion queue entry has 16 bytes");

/* (ns): wait until a flag is set, without the interpreter lock, so that others can come to an end; or until
 * `ns` have passed. Gives the flag. */
PyObject *poll_flag(const char *flag, PyObject *ns);
/* (): what was stored before is seen by every processor before anything is loaded after it. */
PyObject *memory_barrier(PyObject *module, PyObject *unused);

/* The region that owns all of [addr, addr + length), or NULL. */
struct region *memory_find(MemoryObject *memory, uint64_t addr, uint64_t length, int write);
/* A region over `data` for the duration of a call: its base, or 0 where Python has to pick one. */
uint64_t memory_lend(MemoryObject *memory, uint8_t *data, uint64_t size, int writable);
void memory_return(MemoryObject *memory, uint64_t base);
/* The window at `base` if there is one that shows nothing, else NULL. Valid until a region is added or removed. */
struct region *memory_window(MemoryObject *memory, uint64_t base);
/* What a window shows, flat bytes of a memoryview: -1 with an exception where it is none. */
int window_show(struct region *window, PyObject *view, int writable);
/* A window shows nothing any more; nothing happens where none is. */
void memory_hide(MemoryObject *memory, uint64_t base);

/* Whether plain commands can be done here at all: not traced, no faults, running, rings in place. The second: and at
 * once. -1 with an exception. */
int device_is_open(DeviceObject *device);
int device_is_plain(DeviceObject *device);
/* Fetch and execute up to `count` plain commands of a queue, each with a free completion slot; how many, or -1 with
 * an exception. The completions of `posted` of them are written, the others' are in flight. */
long device_run(DeviceObject *device, SqObject *sq, long count, long *posted);
/* device_run, and the interrupt for what it has completed. */
long device_run_and_raise(DeviceObject *device, SqObject *sq, long count);
/* The commands of a queue that nobody has fetched. */
long sq_waiting(const SqObject *sq);
/* Methods of the device, in doorbells.c. */
PyObject *device_ring_compiled(DeviceObject *self, PyObject *const *args, Py_ssize_t count);
PyObject *device_head_compiled(DeviceObject *self, PyObject *const *args, Py_ssize_t count);
PyObject *device_due_compiled(DeviceObject *self, PyObject *now_ns);
PyObject *device_end_compiled(DeviceObject *self, PyObject *unused);
/* Write a successful completion; the head that it tells is the queue's of now. */
void device_post(CqObject *cq, uint8_t *ring, const SqObject *sq, uint16_t cid);
/* The bytes of a completion queue, NULL where C cannot use them. */
uint8_t *cq_ring(const CqObject *cq);

/* A message of a vector is due: 0, or -1 with an exception. The tuple of all that are, taken. */
int interrupts_raise(InterruptsObject *interrupts, unsigned int vector);
PyObject *interrupts_take(InterruptsObject *interrupts);

/* When a command will be done that arrives now, as LatencyModel.submit: 0, or -1 with an exception. */
int latency_submit(PyObject *latency, int is_read, uint64_t offset, uint64_t nbytes, long long now_ns,
                   long long *done_ns);

/* Whether a command of that name is in flight; -1 with an exception. */
int inflight_has(InFlightObject *self, SqObject *sq, uint16_t cid);
/* Keep an executed command until `done_ns`: 0, or -1 with an exception. */
int inflight_add(InFlightObject *self, SqObject *sq, const struct sqe *sqe, long long done_ns, long long now_ns);
/* Whether one of the commands that C keeps is due; whether the first of a heap of Python's tuples (time, ...) is. */
int inflight_is_due(const InFlightObject *self, long long now_ns);
int heap_is_due(PyObject *heap, long long now_ns);
/* Write the completions that are due of the commands that C keeps: how many, or -1 with an exception. */
long inflight_end(InFlightObject *self, DeviceObject *device, long long now_ns);
/* When the next one is due, an int or None. */
PyObject *inflight_next(InFlightObject *self);

/* Of module.c: attribute and method names, made once. */
extern PyObject *name_emit, *name_wire_shift, *name_getrandbits, *name_go_on, *name_next_deadline, *name_next_ns;

#endif
