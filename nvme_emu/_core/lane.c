/* The lane: a synchronous caller's commands, from entry to end, while nobody else is on the way.
 *
 * The same steps as ever, in one call: entries into the ring, the doorbell, fetch, check, copy, completion,
 * reaping by phase, the head doorbell. It is taken only when every lock on the way is free, both queues are
 * empty, nothing is raised, masked, blocked or in line, and the interrupt would reach the very handler that does
 * what is done here. The interpreter lock is kept throughout, so nothing of that can change meanwhile. In any
 * other case nothing has happened when it returns, and the caller goes the ordinary way.
 */

#include "pair.h"

void pair_close_lane(PairObject *pair)
{
    Py_CLEAR(pair->device);
    Py_CLEAR(pair->device_sq);
    Py_CLEAR(pair->line);
    Py_CLEAR(pair->raised);
    Py_CLEAR(pair->masked);
    Py_CLEAR(pair->handlers);
    Py_CLEAR(pair->handler);
    for (int i = 0; i < LOCKS; i++)
        Py_CLEAR(pair->locks[i]);
}

/* (device, submission queue, line, raised, masked, handlers, handler, locks) */
PyObject *pair_open_lane(PairObject *self, PyObject *args)
{
    PyObject *device, *sq, *line, *raised, *masked, *handlers, *handler, *locks[LOCKS];
    pair_close_lane(self);
    if (!PyArg_ParseTuple(args, "O!O!OO!O!O!O(O!O!O!)", &DeviceType, &device, &SqType, &sq, &line, &PyList_Type,
                          &raised, &PyByteArray_Type, &masked, &PyDict_Type, &handlers, &handler, &LockType,
                          &locks[0], &LockType, &locks[1], &LockType, &locks[2]))
        return NULL;
    self->device = (DeviceObject *)Py_NewRef(device);
    self->device_sq = (SqObject *)Py_NewRef(sq);
    self->line = Py_NewRef(line);
    self->raised = Py_NewRef(raised);
    self->masked = Py_NewRef(masked);
    self->handlers = Py_NewRef(handlers);
    self->handler = Py_NewRef(handler);
    for (int i = 0; i < LOCKS; i++)
        self->locks[i] = (LockObject *)Py_NewRef(locks[i]);
    Py_RETURN_NONE;
}

static int is_empty(PyObject *container)
{
    return container && PyObject_Size(container) == 0;
}

static int handler_is_ours(PairObject *pair, unsigned int vector)
{
    PyObject *key = PyLong_FromUnsignedLong(vector);
    PyObject *found = key ? PyDict_GetItemWithError(pair->handlers, key) : NULL;
    Py_XDECREF(key);
    return found == pair->handler;
}

/* Whether the lane is free: 1, 0, or -1 with an exception. */
static int lane_is_free(PairObject *pair)
{
    SqObject *sq = pair->device_sq;
    if (!sq || !sq->live || !sq->cq || pair->outstanding || !pair_is_ready(pair))
        return 0;
    for (int i = 0; i < LOCKS; i++)
        if (pair->locks[i]->count)
            return 0;
    CqObject *cq = sq->cq;
    if (pair->tail != pair->rung_tail || pair->tail != sq->tail || sq->tail != sq->head || sq->size != pair->depth ||
        sq->in_line || sq->inflight)
        return 0;
    if (cq->head != pair->head || cq->tail != pair->head || cq->size != pair->depth || cq->phase != pair->phase ||
        cq->free != cq->size - 1 || cq->sqs != 1 || !cq->ien)
        return 0;
    if (!is_empty(pair->line) || PyList_GET_SIZE(pair->raised) || !is_empty(cq->blocked) || !is_empty(cq->backlog))
        return 0;
    if ((Py_ssize_t)cq->vector >= PyByteArray_GET_SIZE(pair->masked) ||
        PyByteArray_AS_STRING(pair->masked)[cq->vector] || !handler_is_ours(pair, cq->vector))
        return 0;
    return device_is_plain(pair->device);
}

static void store_word(const struct held *page, uint64_t at, uint32_t value)
{
    memcpy(held_bytes(page) + at, &value, sizeof value);
}

/* Shadow doorbells: what the host and the device tell each other of the tail, or of the head. */
static void tell_both(PairObject *pair, int is_cq, uint32_t value)
{
    uint64_t size = pair->bells.hold.size, at = is_cq ? size / 2 : 0;
    if (size < 8 || pair->events.hold.size != size || pair->bells.hold.readonly || pair->events.hold.readonly)
        return;
    store_word(&pair->bells, at, value);
    store_word(&pair->events, at, value);
}

/* Ring the doorbell for `count` entries and let the device work; what it did not take is taken back. */
static long ring(PairObject *pair, long count)
{
    SqObject *sq = pair->device_sq;
    sq->tail = pair->tail;
    long posted, taken = device_run(pair->device, sq, count, &posted);
    pair->tail = pair->rung_tail = sq->tail = sq->head;
    tell_both(pair, 0, pair->tail);
    return taken;
}

/* Tell the device how far completions were taken. */
static void ring_head(PairObject *pair, long count)
{
    CqObject *cq = pair->device_sq->cq;
    cq->head = pair->head;
    cq->free += (unsigned int)count;
    tell_both(pair, 1, pair->head);
}

/* PRP1 and PRP2 of `nbytes` in a tag's window, with the pair's own list: 0 where it is too small. */
static int map_pages(PairObject *pair, struct sqe *sqe, long tag, uint64_t nbytes)
{
    uint64_t pages = (nbytes + PAGE - 1) / PAGE, addr = pair_window(pair, tag);
    sqe->prp1 = addr;
    sqe->prp2 = pages == 2 ? addr + PAGE : 0;
    if (pages > 2) {
        uint64_t entries = pair->list.hold.size / 8;
        if (pair->list.hold.readonly || entries < pages - 1)
            return 0;
        /* As QueuePair does it: all of the list, which stays right for as long as this tag has it. */
        for (uint64_t entry = 0; pair->list_tag != tag && entry < entries; entry++) {
            addr += PAGE;
            memcpy(held_bytes(&pair->list) + entry * 8, &addr, 8);
        }
        pair->list_tag = tag;
        sqe->prp2 = pair->list_addr;
    }
    return 1;
}

/* The bytes of a caller's buffer, 0 where it has none: an array of Python objects holds references, not data. */
static int get_bytes(PyObject *buffer, Py_buffer *data, int writable)
{
    if (PyObject_GetBuffer(buffer, data, (writable ? PyBUF_CONTIG : PyBUF_CONTIG_RO) | PyBUF_FORMAT) < 0)
        return 0;
    if (!data->format || !strchr(data->format, 'O'))
        return 1;
    PyBuffer_Release(data);
    return 0;
}

/* One command over free lane: 1 when it has succeeded, 0 when nothing happened, -1 with an exception. */
static int exchange(PairObject *self, struct sqe *sqe, Py_buffer *data)
{
    Py_ssize_t last = PyList_GET_SIZE(self->free) - 1;
    long tag, cid;
    if (last < 0 || !pair_tag(self, last, &tag, &cid))
        return 0;
    /* A window that was never opened is Python's to open. */
    struct region *window = memory_window((MemoryObject *)self->device->memory, pair_window(self, tag));
    if (!window || !map_pages(self, sqe, tag, (uint64_t)data->len))
        return 0;
    window->size = (uint64_t)data->len;
    window->writable = sqe->opcode == OP_READ;
    window->bytes.data = data->buf;
    sqe->cid = (uint16_t)cid;
    pair_write(self, sqe);
    long taken = ring(self, 1);
    window->size = 0;
    window->bytes.data = NULL;
    if (!taken)
        return 0;
    struct cqe cqe;
    pair_read(self, &cqe);
    if ((cqe.status & 1) != self->phase || cqe.cid != cid || cqe.status >> 1) {
        PyErr_SetString(PyExc_RuntimeError, "the completion of a command on an idle queue is not its own");
        return -1;
    }
    pair_step(self, &cqe);
    ring_head(self, 1);
    return pair_next_cid(self, tag, cid) < 0 ? -1 : 1;
}

/* (opcode, nsid, slba, cdw12, data, nbytes): True when the command has succeeded, False when nothing was done. */
PyObject *pair_exchange(PairObject *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 6) {
        PyErr_SetString(PyExc_TypeError, "exchange_plain(opcode, nsid, slba, cdw12, data, nbytes)");
        return NULL;
    }
    if (!self->device)
        Py_RETURN_FALSE;
    struct sqe sqe = {.opcode = (uint8_t)PyLong_AsLong(args[0])};
    sqe.nsid = (uint32_t)PyLong_AsUnsignedLong(args[1]);
    sqe.slba = PyLong_AsUnsignedLongLong(args[2]);
    sqe.cdw12 = (uint32_t)PyLong_AsUnsignedLong(args[3]);
    Py_ssize_t nbytes = PyLong_AsSsize_t(args[5]);
    if (PyErr_Occurred())
        return NULL;
    Py_buffer data;
    /* First, for it may run code of the buffer's owner. */
    if (!get_bytes(args[4], &data, sqe.opcode == OP_READ)) {
        PyErr_Clear(); /* the ordinary way says what is wrong with it */
        Py_RETURN_FALSE;
    }
    int done = 0;
    if (data.len == nbytes && nbytes > 0 && (done = lane_is_free(self)) > 0)
        done = exchange(self, &sqe, &data);
    PyBuffer_Release(&data);
    return done < 0 ? NULL : PyBool_FromLong(done);
}

struct many {
    struct sqe sqe;
    const int64_t *slbas;
    uint64_t width, base;
};

/* Write, ring and reap up to `wanted` commands from number `at` on: how many have succeeded, -1 on error. */
static long exchange_round(PairObject *self, struct many *many, Py_ssize_t at, Py_ssize_t wanted)
{
    Py_ssize_t free = PyList_GET_SIZE(self->free), room = (Py_ssize_t)self->depth - 1;
    Py_ssize_t round = wanted < free ? wanted : free;
    long tag, cid;
    round = round < room ? round : room;
    /* The tags in the order in which prepare_batch takes them; reaping puts them back in the same order. */
    for (Py_ssize_t i = 0; i < round; i++) {
        if (!pair_tag(self, free - round + i, &tag, &cid)) {
            round = i;
            break;
        }
        struct sqe sqe = many->sqe;
        sqe.cid = (uint16_t)cid;
        sqe.slba = (uint64_t)many->slbas[at + i];
        sqe.prp1 = many->base + (uint64_t)(at + i) * many->width;
        sqe.prp2 = many->width > PAGE ? sqe.prp1 + PAGE : 0;
        pair_write(self, &sqe);
    }
    long taken = ring(self, (long)round);
    for (long i = 0; i < taken; i++) {
        struct cqe cqe;
        pair_read(self, &cqe);
        if (!pair_tag(self, free - round + i, &tag, &cid) || (cqe.status & 1) != self->phase || cqe.cid != cid) {
            PyErr_SetString(PyExc_RuntimeError, "the completions of commands on an idle queue are not their own");
            return -1;
        }
        if (pair_next_cid(self, tag, cid) < 0)
            return -1;
        pair_step(self, &cqe);
    }
    ring_head(self, taken);
    return taken;
}

static int all_inside(const int64_t *slbas, Py_ssize_t count, int64_t limit)
{
    for (Py_ssize_t i = 0; i < count; i++)
        if (slbas[i] < 0 || slbas[i] > limit)
            return 0;
    return 1;
}

static Py_ssize_t exchange_all(PairObject *self, struct many *many, Py_ssize_t count, Py_buffer *data)
{
    int is_free = lane_is_free(self);
    if (is_free <= 0 || !PyList_GET_SIZE(self->free))
        return is_free < 0 ? -1 : 0;
    MemoryObject *memory = (MemoryObject *)self->device->memory;
    unsigned long long before = memory->next_base;
    many->base = memory_lend(memory, data->buf, (uint64_t)data->len, many->sqe.opcode == OP_READ);
    if (!many->base)
        return 0;
    Py_ssize_t done = 0;
    while (done < count) {
        long taken = exchange_round(self, many, done, count - done);
        if (taken <= 0) {
            done = taken < 0 ? -1 : done;
            break;
        }
        done += taken;
    }
    memory_return(memory, many->base);
    if (!done)
        memory->next_base = before;
    return done;
}

/* (opcode, nsid, slbas, nlb, width, blocks, data): how many commands, from the first on, have succeeded.
 *
 * `slbas` is an array of 64-bit integers, command i has `width` bytes at data[i * width:], `blocks` is the size
 * of the namespace. 0 where a block is outside of it, or anything else is not as it should be. */
PyObject *pair_exchange_many(PairObject *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 7) {
        PyErr_SetString(PyExc_TypeError, "exchange_many(opcode, nsid, slbas, nlb, width, blocks, data)");
        return NULL;
    }
    if (!self->device)
        return PyLong_FromLong(0);
    struct many many = {.sqe.opcode = (uint8_t)PyLong_AsLong(args[0])};
    many.sqe.nsid = (uint32_t)PyLong_AsUnsignedLong(args[1]);
    long nlb = PyLong_AsLong(args[3]);
    many.width = PyLong_AsUnsignedLongLong(args[4]);
    int64_t limit = PyLong_AsLongLong(args[5]) - nlb;
    if (PyErr_Occurred())
        return NULL;
    int is_read = many.sqe.opcode == OP_READ;
    if (nlb < 1 || nlb > 65536 || !many.width || many.width > 2 * PAGE ||
        (many.width % PAGE && PAGE % many.width))
        return PyLong_FromLong(0);
    many.sqe.cdw12 = (uint32_t)nlb - 1;
    Py_buffer slbas, data;
    if (PyObject_GetBuffer(args[2], &slbas, PyBUF_CONTIG_RO) < 0) {
        PyErr_Clear();
        return PyLong_FromLong(0);
    }
    if (!get_bytes(args[6], &data, is_read)) {
        PyErr_Clear();
        PyBuffer_Release(&slbas);
        return PyLong_FromLong(0);
    }
    Py_ssize_t commands = slbas.len / 8, done = 0;
    many.slbas = slbas.buf;
    if (commands && slbas.itemsize == 8 && (uint64_t)data.len == (uint64_t)commands * many.width &&
        all_inside(many.slbas, commands, limit))
        done = exchange_all(self, &many, commands, &data);
    PyBuffer_Release(&data);
    PyBuffer_Release(&slbas);
    return done < 0 ? NULL : PyLong_FromSsize_t(done);
}
