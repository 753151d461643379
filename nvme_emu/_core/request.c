/* The fields of a request: a few hundred bytes that are filled in one go. */

#include "native.h"

static unsigned long long serials;

static PyObject *request_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    RequestObject *self = (RequestObject *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    PyObject **fields[] = {&self->data,       &self->array,     &self->iova, &self->region,
                           &self->completion, &self->callbacks, &self->path};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        Py_INCREF(Py_None);
        *fields[i] = Py_None;
    }
    self->qid = self->cid = -1;
    return (PyObject *)self;
}

static void take(PyObject **field, PyObject *value)
{
    Py_INCREF(value);
    Py_SETREF(*field, value);
}

/* (opcode, nsid, slba=0, nlb=0, cdw12=0, data=None, to_device=False, array=None) */
static int request_init(RequestObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"opcode", "nsid", "slba", "nlb", "cdw12", "data", "to_device", "array", NULL};
    PyObject *opcode, *nsid, *slba = NULL, *nlb = NULL, *cdw12 = NULL;
    PyObject *data = Py_None, *to_device = Py_False, *array = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO|OOOOOO:Request", names, &opcode, &nsid, &slba, &nlb, &cdw12,
                                     &data, &to_device, &array))
        return -1;
    self->opcode = (int)PyLong_AsLong(opcode);
    self->nsid = (unsigned int)PyLong_AsUnsignedLong(nsid);
    self->slba = slba ? PyLong_AsUnsignedLongLong(slba) : 0;
    self->nlb = nlb ? (unsigned int)PyLong_AsUnsignedLong(nlb) : 0;
    self->cdw12 = cdw12 ? (unsigned int)PyLong_AsUnsignedLong(cdw12) : 0;
    if (PyErr_Occurred())
        return -1;
    self->nbytes = data == Py_None ? 0 : PyObject_Size(data);
    int direction = PyObject_IsTrue(to_device);
    if (self->nbytes < 0 || direction < 0)
        return -1;
    self->to_device = (char)direction;
    take(&self->data, data);
    take(&self->array, array);
    self->serial = ++serials;
    return 0;
}

static int request_traverse(RequestObject *self, visitproc visit, void *arg)
{
    Py_VISIT(self->data);
    Py_VISIT(self->array);
    Py_VISIT(self->iova);
    Py_VISIT(self->region);
    Py_VISIT(self->completion);
    Py_VISIT(self->callbacks);
    Py_VISIT(self->path);
    return 0;
}

static int request_clear(RequestObject *self)
{
    Py_CLEAR(self->data);
    Py_CLEAR(self->array);
    Py_CLEAR(self->iova);
    Py_CLEAR(self->region);
    Py_CLEAR(self->completion);
    Py_CLEAR(self->callbacks);
    Py_CLEAR(self->path);
    return 0;
}

static void request_dealloc(RequestObject *self)
{
    PyObject_GC_UnTrack(self);
    request_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

#define FIELD(name, type, member) {name, type, offsetof(RequestObject, member), 0, NULL}

static PyMemberDef request_members[] = {
    FIELD("opcode", T_INT, opcode),
    FIELD("nsid", T_UINT, nsid),
    FIELD("slba", T_ULONGLONG, slba),
    FIELD("nlb", T_UINT, nlb),
    FIELD("cdw12", T_UINT, cdw12),
    FIELD("cdw13", T_UINT, cdw13),
    FIELD("cdw14", T_UINT, cdw14),
    FIELD("cdw15", T_UINT, cdw15),
    FIELD("dw0", T_UINT, dw0),
    FIELD("dw1", T_UINT, dw1),
    FIELD("qid", T_INT, qid),
    FIELD("cid", T_INT, cid),
    FIELD("serial", T_ULONGLONG, serial),
    FIELD("nbytes", T_PYSSIZET, nbytes),
    FIELD("to_device", T_BOOL, to_device),
    FIELD("admin", T_BOOL, admin),
    FIELD("batch", T_BOOL, batch),
    FIELD("done", T_BOOL, done),
    FIELD("_status", T_UINT, status),
    FIELD("data", T_OBJECT_EX, data),
    FIELD("array", T_OBJECT_EX, array),
    FIELD("iova", T_OBJECT_EX, iova),
    FIELD("region", T_OBJECT_EX, region),
    FIELD("_completion", T_OBJECT_EX, completion),
    FIELD("_callbacks", T_OBJECT_EX, callbacks),
    FIELD("_path", T_OBJECT_EX, path),
    {NULL, 0, 0, 0, NULL},
};

static PyObject *request_poll(RequestObject *self, PyObject *ns)
{
    return poll_flag(&self->done, ns);
}

static PyMethodDef request_methods[] = {
    {"poll", (PyCFunction)request_poll, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

PyTypeObject RequestType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "nvme_emu._core.RequestState",
    .tp_basicsize = sizeof(RequestObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_members = request_members,
    .tp_methods = request_methods,
    .tp_traverse = (traverseproc)request_traverse,
    .tp_clear = (inquiry)request_clear,
    .tp_dealloc = (destructor)request_dealloc,
    .tp_init = (initproc)request_init,
    .tp_new = request_new,
};
