/* The driver's compiled gait: writing commands and taking completions of a queue pair.
 *
 * `prepare_plain` and `reap_plain` do what QueuePair.prepare and reap do, for requests that need no PRP list.
 * `exchange` and `exchange_many` (lane.c) go all the way to the device and back.
 */

#include "pair.h"

int pair_tag(PairObject *pair, Py_ssize_t place, long *tag, long *cid)
{
    PyObject *item = PyList_GET_ITEM(pair->free, place);
    *tag = PyLong_AsLong(item);
    if (*tag < 0 || *tag >= PyList_GET_SIZE(pair->cids) || *tag >= PyList_GET_SIZE(pair->inflight))
        return 0;
    *cid = PyLong_AsLong(PyList_GET_ITEM(pair->cids, *tag));
    return *cid >= 0 && *cid <= 0xFFFF;
}

int pair_next_cid(PairObject *pair, long tag, long cid)
{
    PyObject *next = PyLong_FromLong((cid + GENERATION) & 0xFFFF);
    return next ? PyList_SetItem(pair->cids, tag, next) : -1;
}

void pair_write(PairObject *pair, const struct sqe *sqe)
{
    memcpy(held_bytes(&pair->sq) + (size_t)pair->tail * SQE_BYTES, sqe, sizeof *sqe);
    pair->tail = pair->tail + 1 == pair->depth ? 0 : pair->tail + 1;
}

void pair_read(PairObject *pair, struct cqe *cqe)
{
    const uint8_t *place = held_bytes(&pair->cq) + (size_t)pair->head * CQE_BYTES;
    /* The phase first: what it vouches for is read after it. */
    uint16_t status = __atomic_load_n(&((const struct cqe *)place)->status, __ATOMIC_ACQUIRE);
    memcpy(cqe, place, sizeof *cqe);
    cqe->status = status;
}

void pair_step(PairObject *pair, const struct cqe *cqe)
{
    pair->sqhd = cqe->sqhd;
    if (++pair->head == pair->depth) {
        pair->head = 0;
        pair->phase ^= 1;
    }
}

int pair_is_ready(const PairObject *pair)
{
    return pair->depth && pair->tail < pair->depth && pair->head < pair->depth && pair->free && pair->cids &&
           pair->inflight && PyList_CheckExact(pair->free) && PyList_CheckExact(pair->cids) &&
           PyList_CheckExact(pair->inflight) && !pair->sq.hold.readonly &&
           pair->sq.hold.size >= (uint64_t)pair->depth * SQE_BYTES &&
           pair->cq.hold.size >= (uint64_t)pair->depth * CQE_BYTES && pair->memory && pair->opened &&
           PyObject_TypeCheck(pair->memory, &MemoryType) && PyList_CheckExact(pair->opened) &&
           PyList_GET_SIZE(pair->opened) >= PyList_GET_SIZE(pair->inflight);
}

static int is_plain(const RequestObject *rq)
{
    return !rq->batch && (!rq->nbytes || (rq->nbytes <= UNLISTED && rq->iova == Py_None));
}

static PyObject *name_view, *name_size, *name_writable, *no_view, *zero;

static int intern_names(void)
{
    if (zero)
        return 0;
    name_view = PyUnicode_InternFromString("view");
    name_size = PyUnicode_InternFromString("size");
    name_writable = PyUnicode_InternFromString("writable");
    PyObject *nothing = PyBytes_FromString("");
    no_view = nothing ? PyMemoryView_FromObject(nothing) : NULL;
    Py_XDECREF(nothing);
    zero = name_view && name_size && name_writable && no_view ? PyLong_FromLong(0) : NULL;
    return zero ? 0 : -1;
}

/* `Window.show` of a tag's window: 1, 0 where Python has to do it, -1 with an exception. */
static int show(PairObject *pair, RequestObject *rq, long tag)
{
    PyObject *window = PyList_GET_ITEM(pair->opened, tag);
    struct region *region = memory_window((MemoryObject *)pair->memory, pair_window(pair, tag));
    if (window == Py_None || !region || !rq->data || !PyMemoryView_Check(rq->data))
        return 0;
    if (intern_names() < 0 || window_show(region, rq->data, !rq->to_device) < 0)
        return -1;
    int writable = !rq->to_device && !PyMemoryView_GET_BUFFER(rq->data)->readonly;
    PyObject *size = PyLong_FromSsize_t(rq->nbytes);
    if (!size || PyObject_SetAttr(window, name_view, rq->data) < 0 ||
        PyObject_SetAttr(window, name_writable, writable ? Py_True : Py_False) < 0 ||
        PyObject_SetAttr(window, name_size, size) < 0) {
        Py_XDECREF(size);
        return -1;
    }
    Py_DECREF(size);
    return 1;
}

/* `Window.hide`: 0, or -1 with an exception. */
static int hide(PairObject *pair, long tag)
{
    PyObject *window = PyList_GET_ITEM(pair->opened, tag);
    memory_hide((MemoryObject *)pair->memory, pair_window(pair, tag));
    if (window == Py_None)
        return 0;
    if (intern_names() < 0 || PyObject_SetAttr(window, name_size, zero) < 0)
        return -1;
    return PyObject_SetAttr(window, name_view, no_view);
}

static PyObject *pair_prepare_plain(PairObject *self, PyObject *arg)
{
    if (!PyObject_TypeCheck(arg, &RequestType) || !pair_is_ready(self) || !is_plain((RequestObject *)arg))
        Py_RETURN_FALSE;
    RequestObject *rq = (RequestObject *)arg;
    Py_ssize_t last = PyList_GET_SIZE(self->free) - 1;
    long tag, cid;
    if (last < 0 || !pair_tag(self, last, &tag, &cid))
        Py_RETURN_FALSE;
    int shown = rq->nbytes ? show(self, rq, tag) : 1;
    if (shown <= 0)
        return shown < 0 ? NULL : PyBool_FromLong(0);
    if (PyList_SetSlice(self->free, last, last + 1, NULL) < 0)
        return NULL;
    PyList_SetItem(self->inflight, tag, Py_NewRef(arg));
    self->outstanding++;
    rq->qid = (int)self->qid;
    rq->cid = (int)cid;
    struct sqe sqe = {
        .opcode = (uint8_t)rq->opcode, .cid = (uint16_t)cid, .nsid = rq->nsid, .slba = rq->slba,
        .cdw12 = rq->cdw12, .cdw13 = rq->cdw13, .cdw14 = rq->cdw14, .cdw15 = rq->cdw15,
    };
    if (rq->nbytes) {
        sqe.prp1 = pair_window(self, tag);
        sqe.prp2 = rq->nbytes > PAGE ? sqe.prp1 + PAGE : 0;
    }
    pair_write(self, &sqe);
    Py_RETURN_TRUE;
}

static PyObject *pair_reap_plain(PairObject *self, PyObject *done)
{
    unsigned int seen = 0;
    if (!pair_is_ready(self) || !PyList_CheckExact(done))
        return PyLong_FromLong(0);
    while (seen < self->depth) {
        struct cqe cqe;
        pair_read(self, &cqe);
        long tag = cqe.cid & TAG_MASK;
        if ((cqe.status & 1) != self->phase || tag >= PyList_GET_SIZE(self->inflight))
            break;
        PyObject *found = PyList_GET_ITEM(self->inflight, tag);
        RequestObject *rq = (RequestObject *)found;
        if (!PyObject_TypeCheck(found, &RequestType) || !is_plain(rq) || tag >= PyList_GET_SIZE(self->cids) ||
            PyLong_AsLong(PyList_GET_ITEM(self->cids, tag)) != cqe.cid)
            break;
        rq->dw0 = cqe.dw0;
        rq->dw1 = cqe.dw1;
        rq->status = cqe.status >> 1;
        if (rq->nbytes && hide(self, tag) < 0)
            return NULL;
        PyObject *freed = PyLong_FromLong(tag);
        if (!freed || PyList_Append(done, found) < 0 || PyList_Append(self->free, freed) < 0 ||
            pair_next_cid(self, tag, cqe.cid) < 0) {
            Py_XDECREF(freed);
            return NULL;
        }
        Py_DECREF(freed);
        PyList_SetItem(self->inflight, tag, Py_NewRef(Py_None));
        self->outstanding--;
        pair_step(self, &cqe);
        seen++;
    }
    return PyLong_FromUnsignedLong(seen);
}

static PyObject *pair_poll(PairObject *self, PyObject *ns)
{
    return poll_flag(&self->bell, ns);
}

/* The type -------------------------------------------------------------------------------------------------- */

static int pair_traverse(PairObject *self, visitproc visit, void *arg)
{
    Py_VISIT(self->free);
    Py_VISIT(self->cids);
    Py_VISIT(self->inflight);
    Py_VISIT(self->memory);
    Py_VISIT(self->opened);
    Py_VISIT(self->device);
    Py_VISIT(self->device_sq);
    Py_VISIT(self->line);
    Py_VISIT(self->raised);
    Py_VISIT(self->masked);
    Py_VISIT(self->handlers);
    Py_VISIT(self->handler);
    for (int i = 0; i < LOCKS; i++)
        Py_VISIT(self->locks[i]);
    if (held_visit(&self->sq, visit, arg) || held_visit(&self->cq, visit, arg) ||
        held_visit(&self->bells, visit, arg) || held_visit(&self->events, visit, arg))
        return -1;
    return held_visit(&self->list, visit, arg);
}

static int pair_clear(PairObject *self)
{
    pair_close_lane(self);
    Py_CLEAR(self->free);
    Py_CLEAR(self->cids);
    Py_CLEAR(self->inflight);
    Py_CLEAR(self->memory);
    Py_CLEAR(self->opened);
    held_drop(&self->sq);
    held_drop(&self->cq);
    held_drop(&self->list);
    held_drop(&self->bells);
    held_drop(&self->events);
    return 0;
}

static void pair_dealloc(PairObject *self)
{
    PyObject_GC_UnTrack(self);
    pair_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

#define VIEW(name, field)                                                                    \
    static PyObject *get_##name(PairObject *self, void *Py_UNUSED(closure))                  \
    {                                                                                        \
        return held_get(&self->field);                                                       \
    }                                                                                        \
    static int set_##name(PairObject *self, PyObject *value, void *Py_UNUSED(closure))       \
    {                                                                                        \
        return held_set(&self->field, value);                                                \
    }

VIEW(sq_view, sq)
VIEW(cq_view, cq)
VIEW(list_view, list)
VIEW(bells_view, bells)
VIEW(events_view, events)

static PyGetSetDef pair_getset[] = {
    {"sq_view", (getter)get_sq_view, (setter)set_sq_view, NULL, NULL},
    {"cq_view", (getter)get_cq_view, (setter)set_cq_view, NULL, NULL},
    {"_list_view", (getter)get_list_view, (setter)set_list_view, NULL, NULL},
    {"bells_view", (getter)get_bells_view, (setter)set_bells_view, NULL, NULL},
    {"events_view", (getter)get_events_view, (setter)set_events_view, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

#define PAIR_UINT(name, field) {name, T_UINT, offsetof(PairObject, field), 0, NULL}

static PyMemberDef pair_members[] = {
    PAIR_UINT("qid", qid), PAIR_UINT("depth", depth), PAIR_UINT("tail", tail), PAIR_UINT("rung_tail", rung_tail),
    PAIR_UINT("head", head), PAIR_UINT("phase", phase), PAIR_UINT("sqhd", sqhd),
    PAIR_UINT("outstanding", outstanding), PAIR_UINT("_batched", batched),
    {"bell", T_BOOL, offsetof(PairObject, bell), 0, NULL},
    {"_window_base", T_ULONGLONG, offsetof(PairObject, window_base), 0, NULL},
    {"_list_addr", T_ULONGLONG, offsetof(PairObject, list_addr), 0, NULL},
    {"_list_tag", T_LONG, offsetof(PairObject, list_tag), 0, NULL},
    {"_memory", T_OBJECT_EX, offsetof(PairObject, memory), 0, NULL},
    {"_opened", T_OBJECT_EX, offsetof(PairObject, opened), 0, NULL},
    {"_free", T_OBJECT_EX, offsetof(PairObject, free), 0, NULL},
    {"_cids", T_OBJECT_EX, offsetof(PairObject, cids), 0, NULL},
    {"inflight", T_OBJECT_EX, offsetof(PairObject, inflight), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef pair_methods[] = {
    {"prepare_plain", (PyCFunction)pair_prepare_plain, METH_O, NULL},
    {"reap_plain", (PyCFunction)pair_reap_plain, METH_O, NULL},
    {"poll", (PyCFunction)pair_poll, METH_O, NULL},
    {"open_lane", (PyCFunction)pair_open_lane, METH_VARARGS, NULL},
    {"exchange_plain", (PyCFunction)(void (*)(void))pair_exchange, METH_FASTCALL, NULL},
    {"exchange_many", (PyCFunction)(void (*)(void))pair_exchange_many, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyObject *pair_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    PairObject *self = (PairObject *)type->tp_alloc(type, 0);
    if (self)
        self->list_tag = -1;
    return (PyObject *)self;
}

PyTypeObject PairType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "nvme_emu._core.PairState",
    .tp_basicsize = sizeof(PairObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_members = pair_members,
    .tp_getset = pair_getset,
    .tp_methods = pair_methods,
    .tp_traverse = (traverseproc)pair_traverse,
    .tp_clear = (inquiry)pair_clear,
    .tp_dealloc = (destructor)pair_dealloc,
    .tp_new = pair_new,
};
