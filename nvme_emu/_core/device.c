/* The device's compiled gait: what dispatch.run_plain does, for namespaces in memory.
 *
 * It takes the leading run of plain reads and writes of a queue and leaves the first other command, and whatever
 * fails a check, to the Python gaits, which find out what the answer is. Where the device takes its time, the commands
 * stay in flight (inflight.c) until it is over.
 */

#include "native.h"

enum { RUNS_MAX = 1032, NLB_MASK = 0xFFFF, PREFETCH_BYTES = 1024, PSDT_SGL = 0x40 };

struct run {
    uint8_t *data;
    uint64_t nbytes;
};

int device_is_open(DeviceObject *device)
{
    if (!device->running || device->faults != Py_None)
        return 0;
    if (!PyObject_TypeCheck(device->memory, &MemoryType) || !PyObject_TypeCheck(device->rings, &RingsType) ||
        !PyObject_TypeCheck(device->counters, &CountersType))
        return 0;
    if (((MemoryObject *)device->memory)->generation != ((RingsObject *)device->rings)->generation)
        return 0;
    PyObject *emit = PyObject_GetAttr(device->trace, name_emit);
    if (!emit)
        return -1;
    Py_DECREF(emit);
    return emit == Py_None;
}

int device_is_plain(DeviceObject *device)
{
    return device->latency == Py_None ? device_is_open(device) : 0;
}

/* The namespace of a command if it lies in memory, else NULL. */
static NamespaceObject *namespace_of(DeviceObject *device, uint32_t nsid)
{
    PyObject *key = PyLong_FromUnsignedLong(nsid);
    if (!key) {
        PyErr_Clear();
        return NULL;
    }
    PyObject *found = PyDict_GetItemWithError(device->namespaces, key);
    Py_DECREF(key);
    if (!found) {
        PyErr_Clear();
        return NULL;
    }
    if (!PyObject_TypeCheck(found, &NamespaceType) || !held_bytes(&((NamespaceObject *)found)->view))
        return NULL;
    return (NamespaceObject *)found;
}

static int add_run(MemoryObject *memory, struct run *runs, int count, uint64_t addr, uint64_t nbytes, int write)
{
    struct region *region = memory_find(memory, addr, nbytes, write);
    if (!region || count == RUNS_MAX)
        return -1;
    runs[count] = (struct run){region->bytes.data + (addr - region->base), nbytes};
    return count + 1;
}

/* The pages of a PRP list (NVMe Base 2.1, 4.1.1), from `prp2` on; neighbours are merged. */
static int list_runs(MemoryObject *memory, const struct sqe *sqe, uint64_t first, uint64_t rest, uint64_t page,
                     int write, struct run *runs)
{
    const uint64_t mask = page - 1;
    uint64_t needed = (rest + page - 1) / page, spare = needed * page - rest;
    uint64_t start = sqe->prp1, length = first, list = sqe->prp2;
    int count = 0;
    if (list & 7)
        return -1;
    for (;;) {
        uint64_t room = (page - (list & mask)) / 8;
        uint64_t entries = needed > room ? room : needed;
        struct region *region = memory_find(memory, list, entries * 8, 0);
        if (!region)
            return -1;
        const uint8_t *place = region->bytes.data + (list - region->base);
        uint64_t here = needed > room ? entries - 1 : entries;
        for (uint64_t i = 0; i < here; i++) {
            uint64_t addr;
            memcpy(&addr, place + i * 8, 8);
            if (addr & mask)
                return -1;
            if (addr == start + length) {
                length += page;
                continue;
            }
            if ((count = add_run(memory, runs, count, start, length, write)) < 0)
                return -1;
            start = addr;
            length = page;
        }
        needed -= here;
        if (!needed)
            return add_run(memory, runs, count, start, length - spare, write);
        memcpy(&list, place + here * 8, 8);
        if (list & mask)
            return -1;
    }
}

/* Whether the data is one SGL Data Block (4.3.2): its length where PRP2 is, a type of 0 and nothing else above it. */
static int is_block(const DeviceObject *device, const struct sqe *sqe)
{
    return device->sgl_blocks && sqe->flags == PSDT_SGL && !(sqe->prp2 >> 32);
}

/* Where a command's data lies: the number of runs, or -1 where the answer is not plain. */
static int resolve(MemoryObject *memory, const struct sqe *sqe, uint64_t nbytes, uint64_t page, int write,
                   struct run *runs)
{
    if (sqe->flags)
        return sqe->prp2 < nbytes ? -1 : add_run(memory, runs, 0, sqe->prp1, nbytes, write);
    if (sqe->prp1 & 3)
        return -1;
    uint64_t first = page - (sqe->prp1 & (page - 1));
    if (nbytes <= first)
        return add_run(memory, runs, 0, sqe->prp1, nbytes, write);
    uint64_t rest = nbytes - first;
    if (rest > page)
        return list_runs(memory, sqe, first, rest, page, write, runs);
    if (sqe->prp2 & (page - 1))
        return -1;
    if (sqe->prp1 + first == sqe->prp2)
        return add_run(memory, runs, 0, sqe->prp1, nbytes, write);
    int count = add_run(memory, runs, 0, sqe->prp1, first, write);
    return count < 0 ? -1 : add_run(memory, runs, count, sqe->prp2, rest, write);
}

static void copy(const struct run *runs, int count, uint8_t *stored, int is_read)
{
    for (int i = 0; i < count; i++) {
        if (is_read)
            memmove(runs[i].data, stored, runs[i].nbytes);
        else
            memmove(stored, runs[i].data, runs[i].nbytes);
        stored += runs[i].nbytes;
    }
}

/* Bring the beginning of the next command's blocks nearer; only a hint, so that wrong bytes do no harm. */
static void look_ahead(const uint8_t *ring, const NamespaceObject *namespace, uint32_t slot)
{
    struct sqe sqe;
    memcpy(&sqe, ring + (size_t)slot * SQE_BYTES, sizeof sqe);
    if (sqe.slba >= namespace->nsze)
        return;
    const uint8_t *stored = held_bytes(&namespace->view) + (sqe.slba << namespace->lba_shift);
    uint64_t left = (namespace->nsze - sqe.slba) << namespace->lba_shift;
    uint64_t nbytes = ((uint64_t)(sqe.cdw12 & NLB_MASK) + 1) << namespace->lba_shift;
    nbytes = nbytes < left ? nbytes : left;
    nbytes = nbytes < PREFETCH_BYTES ? nbytes : PREFETCH_BYTES;
    for (uint64_t at = 0; at < nbytes; at += 64)
        __builtin_prefetch(stored + at);
}

void device_post(CqObject *cq, uint8_t *ring, const SqObject *sq, uint16_t cid)
{
    struct cqe *cqe = (struct cqe *)(ring + (size_t)cq->tail * CQE_BYTES);
    cqe->dw0 = cqe->dw1 = 0;
    cqe->sqhd = (uint16_t)sq->head;
    cqe->sqid = (uint16_t)sq->qid;
    cqe->cid = cid;
    /* Success, and the phase: last, in a store of its own. */
    __atomic_store_n(&cqe->status, (uint16_t)cq->phase, __ATOMIC_RELEASE);
    if (++cq->tail == cq->size) {
        cq->tail = 0;
        cq->phase ^= 1;
    }
}

uint8_t *cq_ring(const CqObject *cq)
{
    if (!cq || cq->view.hold.readonly || cq->view.hold.size < (uint64_t)cq->size * CQE_BYTES)
        return NULL;
    return held_bytes(&cq->view);
}

static void count_one(CountersObject *counters, int is_read, uint64_t nbytes)
{
    counters->fetched++;
    if (is_read) {
        counters->read_commands++;
        counters->read_bytes += nbytes;
    } else {
        counters->write_commands++;
        counters->write_bytes += nbytes;
    }
}

/* After the transfer: the completion, now or when the device is done. 1 if it was written, -1 with an exception. */
static int answer(DeviceObject *device, SqObject *sq, const struct sqe *sqe, uint64_t offset, uint64_t nbytes)
{
    if (device->latency != Py_None) {
        long long done_ns;
        if (latency_submit(device->latency, sqe->opcode == OP_READ, offset, nbytes, device->now_ns, &done_ns) < 0)
            return -1;
        if (done_ns > device->now_ns)
            return inflight_add((InFlightObject *)device->inflight, sq, sqe, done_ns, device->now_ns);
    }
    device_post(sq->cq, held_bytes(&sq->cq->view), sq, sqe->cid);
    return 1;
}

long device_run(DeviceObject *device, SqObject *sq, long count, long *posted)
{
    CqObject *cq = sq->cq;
    uint8_t *ring = held_bytes(&sq->view);
    *posted = 0;
    if (!ring || !cq_ring(cq) || sq->view.hold.size < (uint64_t)sq->size * SQE_BYTES)
        return 0;
    if ((sq->inflight || device->latency != Py_None) && !PyObject_TypeCheck(device->inflight, &InFlightType))
        return 0;
    MemoryObject *memory = (MemoryObject *)device->memory;
    CountersObject *counters = (CountersObject *)device->counters;
    NamespaceObject *namespace = NULL;
    uint32_t nsid = 0;
    struct run runs[RUNS_MAX];
    long done = 0;
    while (done < count && cq->free) {
        struct sqe sqe;
        memcpy(&sqe, ring + (size_t)sq->head * SQE_BYTES, sizeof sqe);
        int is_read = sqe.opcode == OP_READ;
        if (!(is_read || sqe.opcode == OP_WRITE) || sqe.cdw12 > NLB_MASK || (sqe.flags && !is_block(device, &sqe)))
            break;
        if (!namespace || sqe.nsid != nsid) {
            namespace = namespace_of(device, sqe.nsid);
            nsid = sqe.nsid;
            if (!namespace)
                break;
        }
        if (sqe.slba >= namespace->nsze || sqe.cdw12 >= namespace->nsze - sqe.slba ||
            (!is_read && (device->write_through || namespace->view.hold.readonly)))
            break;
        uint64_t nbytes = ((uint64_t)sqe.cdw12 + 1) << namespace->lba_shift;
        uint64_t offset = sqe.slba << namespace->lba_shift;
        if (nbytes > device->transfer_bytes_max || offset + nbytes > namespace->view.hold.size)
            break;
        int taken = sq->inflight ? inflight_has((InFlightObject *)device->inflight, sq, sqe.cid) : 0;
        if (taken < 0)
            return -1;
        int pieces = taken ? -1 : resolve(memory, &sqe, nbytes, device->page_size, is_read, runs);
        if (pieces < 0)
            break;
        sq->head = sq->head + 1 == sq->size ? 0 : sq->head + 1;
        if (done + 1 < count)
            look_ahead(ring, namespace, sq->head);
        copy(runs, pieces, held_bytes(&namespace->view) + offset, is_read);
        cq->free--;
        done++;
        count_one(counters, is_read, nbytes);
        int written = answer(device, sq, &sqe, offset, nbytes);
        if (written < 0)
            return -1;
        *posted += written;
    }
    counters->posted += (unsigned long long)*posted;
    return done;
}

long sq_waiting(const SqObject *sq)
{
    return (long)((sq->tail + sq->size - sq->head) % sq->size);
}

long device_run_and_raise(DeviceObject *self, SqObject *sq, long count)
{
    long posted, done = device_run(self, sq, count, &posted);
    if (done < 0 || (posted && sq->cq->ien && interrupts_raise((InterruptsObject *)self->interrupts, sq->cq->vector) < 0))
        return -1;
    return done;
}

static PyObject *device_run_compiled(DeviceObject *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2 || !PyObject_TypeCheck(args[0], &SqType)) {
        PyErr_SetString(PyExc_TypeError, "run_compiled(submission queue, count)");
        return NULL;
    }
    SqObject *sq = (SqObject *)args[0];
    long wanted = PyLong_AsLong(args[1]);
    if (wanted == -1 && PyErr_Occurred())
        return NULL;
    int open = PyObject_TypeCheck(self->interrupts, &InterruptsType) ? device_is_open(self) : 0;
    if (open < 0)
        return NULL;
    long done = open ? device_run_and_raise(self, sq, wanted < sq_waiting(sq) ? wanted : sq_waiting(sq)) : 0;
    return done < 0 ? NULL : PyLong_FromLong(done);
}

/* The type -------------------------------------------------------------------------------------------------- */

static PyObject *device_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    DeviceObject *self = (DeviceObject *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    PyObject **fields[] = {&self->memory, &self->rings,  &self->counters, &self->namespaces, &self->latency,
                           &self->trace,  &self->faults, &self->inflight, &self->interrupts, &self->line,
                           &self->timers};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        Py_INCREF(Py_None);
        *fields[i] = Py_None;
    }
    return (PyObject *)self;
}

static int device_traverse(DeviceObject *self, visitproc visit, void *arg)
{
    Py_VISIT(self->memory);
    Py_VISIT(self->rings);
    Py_VISIT(self->counters);
    Py_VISIT(self->namespaces);
    Py_VISIT(self->latency);
    Py_VISIT(self->trace);
    Py_VISIT(self->faults);
    Py_VISIT(self->inflight);
    Py_VISIT(self->interrupts);
    Py_VISIT(self->line);
    Py_VISIT(self->timers);
    return 0;
}

static int device_clear(DeviceObject *self)
{
    self->running = 0;
    Py_CLEAR(self->memory);
    Py_CLEAR(self->rings);
    Py_CLEAR(self->counters);
    Py_CLEAR(self->namespaces);
    Py_CLEAR(self->latency);
    Py_CLEAR(self->trace);
    Py_CLEAR(self->faults);
    Py_CLEAR(self->inflight);
    Py_CLEAR(self->interrupts);
    Py_CLEAR(self->line);
    Py_CLEAR(self->timers);
    return 0;
}

static void device_dealloc(DeviceObject *self)
{
    PyObject_GC_UnTrack(self);
    device_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

#define DEVICE_OBJECT(name) {#name, T_OBJECT_EX, offsetof(DeviceObject, name), 0, NULL}

static PyMemberDef device_members[] = {
    {"running", T_BOOL, offsetof(DeviceObject, running), 0, NULL},
    {"posting", T_BOOL, offsetof(DeviceObject, posting), 0, NULL},
    {"write_through", T_BOOL, offsetof(DeviceObject, write_through), 0, NULL},
    {"sgl_blocks", T_BOOL, offsetof(DeviceObject, sgl_blocks), 0, NULL},
    {"now_ns", T_LONGLONG, offsetof(DeviceObject, now_ns), 0, NULL},
    {"step_commands_max", T_UINT, offsetof(DeviceObject, step_commands_max), 0, NULL},
    {"page_size", T_UINT, offsetof(DeviceObject, page_size), 0, NULL},
    {"transfer_bytes_max", T_ULONGLONG, offsetof(DeviceObject, transfer_bytes_max), 0, NULL},
    DEVICE_OBJECT(memory), DEVICE_OBJECT(rings), DEVICE_OBJECT(counters), DEVICE_OBJECT(namespaces),
    DEVICE_OBJECT(latency), DEVICE_OBJECT(trace), DEVICE_OBJECT(faults),
    DEVICE_OBJECT(inflight), DEVICE_OBJECT(interrupts), DEVICE_OBJECT(line), DEVICE_OBJECT(timers),
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef device_methods[] = {
    {"run_compiled", (PyCFunction)(void (*)(void))device_run_compiled, METH_FASTCALL, NULL},
    {"ring_compiled", (PyCFunction)(void (*)(void))device_ring_compiled, METH_FASTCALL, NULL},
    {"head_compiled", (PyCFunction)(void (*)(void))device_head_compiled, METH_FASTCALL, NULL},
    {"due_compiled", (PyCFunction)device_due_compiled, METH_O, NULL},
    {"end_compiled", (PyCFunction)device_end_compiled, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

PyTypeObject DeviceType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "nvme_emu._core.DeviceState",
    .tp_basicsize = sizeof(DeviceObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_members = device_members,
    .tp_methods = device_methods,
    .tp_traverse = (traverseproc)device_traverse,
    .tp_clear = (inquiry)device_clear,
    .tp_dealloc = (destructor)device_dealloc,
    .tp_new = device_new,
};
