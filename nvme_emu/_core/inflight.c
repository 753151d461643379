/* Plain commands on their way: executed, their completions due when the device is done.
 *
 * controller/inflight.py keeps commands as objects. Those that C has fetched stay here as their entries, until their
 * time comes or until somebody asks for `commands`: then `take_light` hands them over and they become objects.
 */

#include "native.h"

enum { CIDS = 1 << 16, WORD_BITS = 64 };

struct timed {
    long long done_ns;
    unsigned long long sequence;
    SqObject *sq;
    struct sqe sqe;
};

static int is_before(const struct timed *one, const struct timed *other)
{
    return one->done_ns != other->done_ns ? one->done_ns < other->done_ns : one->sequence < other->sequence;
}

static int make_room(InFlightObject *self)
{
    if (self->count < self->room)
        return 0;
    Py_ssize_t room = self->room ? self->room * 2 : 64;
    struct timed *grown = PyMem_Realloc(self->light, (size_t)room * sizeof *grown);
    if (!grown) {
        PyErr_NoMemory();
        return -1;
    }
    self->light = grown;
    self->room = room;
    return 0;
}

static void push(InFlightObject *self, const struct timed *timed)
{
    Py_ssize_t at = self->count++;
    while (at) {
        Py_ssize_t parent = (at - 1) / 2;
        if (!is_before(timed, &self->light[parent]))
            break;
        self->light[at] = self->light[parent];
        at = parent;
    }
    self->light[at] = *timed;
}

static struct timed pop(InFlightObject *self)
{
    struct timed first = self->light[0], last = self->light[--self->count];
    Py_ssize_t at = 0, child;
    while ((child = 2 * at + 1) < self->count) {
        if (child + 1 < self->count && is_before(&self->light[child + 1], &self->light[child]))
            child++;
        if (!is_before(&self->light[child], &last))
            break;
        self->light[at] = self->light[child];
        at = child;
    }
    if (self->count)
        self->light[at] = last;
    return first;
}

int inflight_has(InFlightObject *self, SqObject *sq, uint16_t cid)
{
    if (sq->light && sq->light_cids[cid / WORD_BITS] >> (cid % WORD_BITS) & 1)
        return 1;
    if (sq->inflight == sq->light || !self->commands)
        return 0;
    PyObject *key = Py_BuildValue("(II)", sq->qid, (unsigned int)cid);
    if (!key)
        return -1;
    int found = PySequence_Contains(self->commands, key);
    Py_DECREF(key);
    return found;
}

int inflight_add(InFlightObject *self, SqObject *sq, const struct sqe *sqe, long long done_ns, long long now_ns)
{
    if (!sq->light_cids && !(sq->light_cids = PyMem_Calloc(CIDS / WORD_BITS, sizeof *sq->light_cids))) {
        PyErr_NoMemory();
        return -1;
    }
    if (make_room(self) < 0)
        return -1;
    sq->light_cids[sqe->cid / WORD_BITS] |= 1ull << (sqe->cid % WORD_BITS);
    sq->light++;
    sq->inflight++;
    if (!self->timed++)
        self->busy_since_ns = now_ns;
    Py_INCREF(sq);
    push(self, &(struct timed){done_ns, ++self->sequence, sq, *sqe});
    return 0;
}

/* It is no longer C's; the reference to its queue is the caller's. */
static void let_go(const struct timed *timed)
{
    uint16_t cid = timed->sqe.cid;
    timed->sq->light_cids[cid / WORD_BITS] &= ~(1ull << (cid % WORD_BITS));
    timed->sq->light--;
}

int inflight_is_due(const InFlightObject *self, long long now_ns)
{
    return self->count && self->light[0].done_ns <= now_ns;
}

int heap_is_due(PyObject *heap, long long now_ns)
{
    if (!heap || !PyList_CheckExact(heap) || !PyList_GET_SIZE(heap))
        return 0;
    PyObject *first = PyList_GET_ITEM(heap, 0);
    if (!PyTuple_Check(first) || !PyTuple_GET_SIZE(first))
        return 1;
    long long due_ns = PyLong_AsLongLong(PyTuple_GET_ITEM(first, 0));
    if (due_ns == -1 && PyErr_Occurred())
        PyErr_Clear();
    return due_ns <= now_ns;
}

long inflight_end(InFlightObject *self, DeviceObject *device, long long now_ns)
{
    CountersObject *counters = (CountersObject *)device->counters;
    long ended = 0;
    while (inflight_is_due(self, now_ns)) {
        CqObject *cq = self->light[0].sq->cq;
        uint8_t *ring = cq_ring(cq);
        if (!ring) {
            PyErr_SetString(PyExc_BufferError, "the memory of a completion queue cannot be written");
            return -1;
        }
        struct timed timed = pop(self);
        let_go(&timed);
        timed.sq->inflight--;
        if (!--self->timed)
            counters->busy_ns += now_ns - self->busy_since_ns;
        device_post(cq, ring, timed.sq, timed.sqe.cid);
        counters->posted++;
        ended++;
        int failed = cq->ien && interrupts_raise((InterruptsObject *)device->interrupts, cq->vector) < 0;
        Py_DECREF(timed.sq);
        if (failed)
            return -1;
    }
    return ended;
}

PyObject *inflight_next(InFlightObject *self)
{
    if (self->due && PyList_CheckExact(self->due) && PyList_GET_SIZE(self->due))
        return PyObject_CallMethodNoArgs((PyObject *)self, name_next_ns);
    if (!self->count)
        Py_RETURN_NONE;
    return PyLong_FromLongLong(self->light[0].done_ns);
}

/* What Python calls ----------------------------------------------------------------------------------------- */

static PyObject *inflight_light_ns(InFlightObject *self, PyObject *Py_UNUSED(unused))
{
    return self->count ? PyLong_FromLongLong(self->light[0].done_ns) : Py_NewRef(Py_None);
}

/* All are let go: they are in flight, but no longer C's. */
static void drop_light(InFlightObject *self)
{
    Py_ssize_t count = self->count;
    self->count = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        let_go(&self->light[i]);
        Py_DECREF(self->light[i].sq);
    }
}

/* [(done_ns, sequence, queue, entry)], in no order. */
static PyObject *inflight_take_light(InFlightObject *self, PyObject *Py_UNUSED(unused))
{
    PyObject *taken = PyList_New(self->count);
    for (Py_ssize_t i = 0; taken && i < self->count; i++) {
        const struct timed *timed = &self->light[i];
        PyObject *item = Py_BuildValue("(LKOy#)", timed->done_ns, timed->sequence, (PyObject *)timed->sq,
                                       (const char *)&timed->sqe, (Py_ssize_t)SQE_BYTES);
        if (!item)
            Py_CLEAR(taken);
        else
            PyList_SET_ITEM(taken, i, item);
    }
    if (taken)
        drop_light(self);
    return taken;
}

/* The type -------------------------------------------------------------------------------------------------- */

static int inflight_traverse(InFlightObject *self, visitproc visit, void *arg)
{
    for (Py_ssize_t i = 0; i < self->count; i++)
        Py_VISIT(self->light[i].sq);
    Py_VISIT(self->commands);
    Py_VISIT(self->due);
    Py_VISIT(self->counters);
    return 0;
}

static int inflight_clear(InFlightObject *self)
{
    drop_light(self);
    Py_CLEAR(self->commands);
    Py_CLEAR(self->due);
    Py_CLEAR(self->counters);
    return 0;
}

static void inflight_dealloc(InFlightObject *self)
{
    PyObject_GC_UnTrack(self);
    inflight_clear(self);
    PyMem_Free(self->light);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMemberDef inflight_members[] = {
    {"_busy_since_ns", T_LONGLONG, offsetof(InFlightObject, busy_since_ns), 0, NULL},
    {"_sequence", T_ULONGLONG, offsetof(InFlightObject, sequence), 0, NULL},
    {"_timed", T_UINT, offsetof(InFlightObject, timed), 0, NULL},
    {"light", T_PYSSIZET, offsetof(InFlightObject, count), READONLY, NULL},
    {"_commands", T_OBJECT_EX, offsetof(InFlightObject, commands), 0, NULL},
    {"due", T_OBJECT_EX, offsetof(InFlightObject, due), 0, NULL},
    {"_counters", T_OBJECT_EX, offsetof(InFlightObject, counters), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef inflight_methods[] = {
    {"light_ns", (PyCFunction)inflight_light_ns, METH_NOARGS, NULL},
    {"take_light", (PyCFunction)inflight_take_light, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

PyTypeObject InFlightType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "nvme_emu._core.InFlightState",
    .tp_basicsize = sizeof(InFlightObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_members = inflight_members,
    .tp_methods = inflight_methods,
    .tp_traverse = (traverseproc)inflight_traverse,
    .tp_clear = (inquiry)inflight_clear,
    .tp_dealloc = (destructor)inflight_dealloc,
    .tp_new = PyType_GenericNew,
};
