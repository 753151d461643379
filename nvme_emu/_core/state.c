/* The structures that do nothing themselves: queues, counters, namespaces, and the lock. */

#include "native.h"

PyObject *held_get(const struct held *held)
{
    PyObject *object = held->object ? held->object : Py_None;
    Py_INCREF(object);
    return object;
}

int hold_take(struct hold *hold, PyObject *object)
{
    memset(hold, 0, sizeof *hold);
    if (!PyMemoryView_Check(object)) {
        PyErr_Format(PyExc_TypeError, "a memoryview is needed, not %s", Py_TYPE(object)->tp_name);
        return -1;
    }
    const Py_buffer *seen = PyMemoryView_GET_BUFFER(object);
    if (!seen->obj || !PyBuffer_IsContiguous(seen, 'C'))
        return 0;
    if (PyObject_GetBuffer(seen->obj, &hold->owner, PyBUF_SIMPLE) < 0) {
        /* An owner that has more than a run of bytes, such as an array with strides: C leaves it alone. */
        memset(hold, 0, sizeof *hold);
        PyErr_Clear();
        return 0;
    }
    hold->data = seen->buf;
    hold->size = (uint64_t)seen->len;
    hold->readonly = seen->readonly;
    return 0;
}

void hold_drop(struct hold *hold)
{
    Py_buffer owner = hold->owner;
    memset(hold, 0, sizeof *hold);
    /* Last, for it may run code of the owner. */
    if (owner.obj)
        PyBuffer_Release(&owner);
}

void held_drop(struct held *held)
{
    hold_drop(&held->hold);
    Py_CLEAR(held->object);
}

int held_set(struct held *held, PyObject *value)
{
    struct held fresh = {0};
    if (value && value != Py_None && hold_take(&fresh.hold, value) < 0)
        return -1;
    Py_XINCREF(value);
    fresh.object = value;
    struct held old = *held;
    *held = fresh;
    held_drop(&old);
    return 0;
}

int held_visit(const struct held *held, visitproc visit, void *arg)
{
    Py_VISIT(held->object);
    Py_VISIT(held->hold.owner.obj);
    return 0;
}

/* How an object with references ends; the name of its own `clear`, for a subclass has another one. */
#define DEALLOC(name, clear, type)                    \
    static void name(type *self)                      \
    {                                                 \
        PyObject_GC_UnTrack(self);                    \
        clear(self);                                  \
        Py_TYPE(self)->tp_free((PyObject *)self);     \
    }

/* Counters ------------------------------------------------------------------------------------------------- */

#define COUNTER(name) {#name, T_ULONGLONG, offsetof(CountersObject, name), 0, NULL}

static PyMemberDef counters_members[] = {
    COUNTER(posted),        COUNTER(fetched),    COUNTER(dropped),     COUNTER(read_commands),
    COUNTER(write_commands), COUNTER(read_bytes), COUNTER(write_bytes),
    {"busy_ns", T_LONGLONG, offsetof(CountersObject, busy_ns), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyTypeObject CountersType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "nvme_emu._core.CountersState",
    .tp_basicsize = sizeof(CountersObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .tp_members = counters_members,
    .tp_new = PyType_GenericNew,
};

/* All queues ------------------------------------------------------------------------------------------------ */

static PyMemberDef rings_members[] = {
    {"generation", T_LONGLONG, offsetof(RingsObject, generation), 0, NULL},
    {"sqs", T_OBJECT_EX, offsetof(RingsObject, sqs), 0, NULL},
    {"cqs", T_OBJECT_EX, offsetof(RingsObject, cqs), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static int rings_traverse(RingsObject *self, visitproc visit, void *arg)
{
    Py_VISIT(self->sqs);
    Py_VISIT(self->cqs);
    return 0;
}

static int rings_clear(RingsObject *self)
{
    Py_CLEAR(self->sqs);
    Py_CLEAR(self->cqs);
    return 0;
}

DEALLOC(rings_dealloc, rings_clear, RingsObject)

PyTypeObject RingsType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "nvme_emu._core.RingsState",
    .tp_basicsize = sizeof(RingsObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_members = rings_members,
    .tp_traverse = (traverseproc)rings_traverse,
    .tp_clear = (inquiry)rings_clear,
    .tp_dealloc = (destructor)rings_dealloc,
    .tp_new = PyType_GenericNew,
};

/* Completion queue ------------------------------------------------------------------------------------------ */

#define CQ_UINT(name) {#name, T_UINT, offsetof(CqObject, name), 0, NULL}

static PyMemberDef cq_members[] = {
    CQ_UINT(qid), CQ_UINT(size), CQ_UINT(vector), CQ_UINT(head), CQ_UINT(tail), CQ_UINT(phase), CQ_UINT(free),
    CQ_UINT(sqs),
    {"ien", T_BOOL, offsetof(CqObject, ien), 0, NULL},
    {"base", T_ULONGLONG, offsetof(CqObject, base), 0, NULL},
    {"blocked", T_OBJECT_EX, offsetof(CqObject, blocked), 0, NULL},
    {"backlog", T_OBJECT_EX, offsetof(CqObject, backlog), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyObject *cq_get_view(CqObject *self, void *Py_UNUSED(closure))
{
    return held_get(&self->view);
}

static int cq_set_view(CqObject *self, PyObject *value, void *Py_UNUSED(closure))
{
    return held_set(&self->view, value);
}

static PyGetSetDef cq_getset[] = {
    {"view", (getter)cq_get_view, (setter)cq_set_view, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static int cq_traverse(CqObject *self, visitproc visit, void *arg)
{
    Py_VISIT(self->blocked);
    Py_VISIT(self->backlog);
    return held_visit(&self->view, visit, arg);
}

static int cq_clear(CqObject *self)
{
    Py_CLEAR(self->blocked);
    Py_CLEAR(self->backlog);
    held_drop(&self->view);
    return 0;
}

DEALLOC(cq_dealloc, cq_clear, CqObject)

PyTypeObject CqType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "nvme_emu._core.CqState",
    .tp_basicsize = sizeof(CqObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_members = cq_members,
    .tp_getset = cq_getset,
    .tp_traverse = (traverseproc)cq_traverse,
    .tp_clear = (inquiry)cq_clear,
    .tp_dealloc = (destructor)cq_dealloc,
    .tp_new = PyType_GenericNew,
};

/* Submission queue ------------------------------------------------------------------------------------------ */

#define SQ_UINT(name) {#name, T_UINT, offsetof(SqObject, name), 0, NULL}

static PyMemberDef sq_members[] = {
    SQ_UINT(qid), SQ_UINT(size), SQ_UINT(head), SQ_UINT(tail), SQ_UINT(inflight),
    {"in_line", T_BOOL, offsetof(SqObject, in_line), 0, NULL},
    {"live", T_BOOL, offsetof(SqObject, live), 0, NULL},
    {"base", T_ULONGLONG, offsetof(SqObject, base), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyObject *sq_get_view(SqObject *self, void *Py_UNUSED(closure))
{
    return held_get(&self->view);
}

static int sq_set_view(SqObject *self, PyObject *value, void *Py_UNUSED(closure))
{
    return held_set(&self->view, value);
}

static PyObject *sq_get_cq(SqObject *self, void *Py_UNUSED(closure))
{
    PyObject *cq = self->cq ? (PyObject *)self->cq : Py_None;
    Py_INCREF(cq);
    return cq;
}

static int sq_set_cq(SqObject *self, PyObject *value, void *Py_UNUSED(closure))
{
    if (!value || !PyObject_TypeCheck(value, &CqType)) {
        PyErr_SetString(PyExc_TypeError, "cq must be a completion queue");
        return -1;
    }
    Py_INCREF(value);
    Py_XSETREF(self->cq, (CqObject *)value);
    return 0;
}

static PyGetSetDef sq_getset[] = {
    {"view", (getter)sq_get_view, (setter)sq_set_view, NULL, NULL},
    {"cq", (getter)sq_get_cq, (setter)sq_set_cq, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static int sq_traverse(SqObject *self, visitproc visit, void *arg)
{
    Py_VISIT(self->cq);
    return held_visit(&self->view, visit, arg);
}

static int sq_clear(SqObject *self)
{
    Py_CLEAR(self->cq);
    held_drop(&self->view);
    return 0;
}

static void sq_dealloc(SqObject *self)
{
    PyObject_GC_UnTrack(self);
    sq_clear(self);
    /* Not with the references: who clears a cycle may still let commands go that are in flight here. */
    PyMem_Free(self->light_cids);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

PyTypeObject SqType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "nvme_emu._core.SqState",
    .tp_basicsize = sizeof(SqObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_members = sq_members,
    .tp_getset = sq_getset,
    .tp_traverse = (traverseproc)sq_traverse,
    .tp_clear = (inquiry)sq_clear,
    .tp_dealloc = (destructor)sq_dealloc,
    .tp_new = PyType_GenericNew,
};

/* Namespace ------------------------------------------------------------------------------------------------- */

static PyMemberDef namespace_members[] = {
    {"nsid", T_UINT, offsetof(NamespaceObject, nsid), 0, NULL},
    {"lba_shift", T_UINT, offsetof(NamespaceObject, lba_shift), 0, NULL},
    {"nsze", T_ULONGLONG, offsetof(NamespaceObject, nsze), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyObject *namespace_get_view(NamespaceObject *self, void *Py_UNUSED(closure))
{
    return held_get(&self->view);
}

static int namespace_set_view(NamespaceObject *self, PyObject *value, void *Py_UNUSED(closure))
{
    return held_set(&self->view, value);
}

static PyGetSetDef namespace_getset[] = {
    {"view", (getter)namespace_get_view, (setter)namespace_set_view, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static int namespace_traverse(NamespaceObject *self, visitproc visit, void *arg)
{
    return held_visit(&self->view, visit, arg);
}

static int namespace_clear(NamespaceObject *self)
{
    held_drop(&self->view);
    return 0;
}

DEALLOC(namespace_dealloc, namespace_clear, NamespaceObject)

PyTypeObject NamespaceType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "nvme_emu._core.NamespaceState",
    .tp_basicsize = sizeof(NamespaceObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_members = namespace_members,
    .tp_getset = namespace_getset,
    .tp_traverse = (traverseproc)namespace_traverse,
    .tp_clear = (inquiry)namespace_clear,
    .tp_dealloc = (destructor)namespace_dealloc,
    .tp_new = PyType_GenericNew,
};
