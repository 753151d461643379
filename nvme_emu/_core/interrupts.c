/* MSI-X vectors: raise_vector and take of controller/pcie/interrupts.py, while nobody traces. */

#include "native.h"

/* The flag of a vector, or NULL with an exception where the flags are not as long as there are vectors. */
static char *flag_of(PyObject *flags, unsigned int vector)
{
    if (flags && PyByteArray_Check(flags) && (Py_ssize_t)vector < PyByteArray_GET_SIZE(flags))
        return PyByteArray_AS_STRING(flags) + vector;
    PyErr_Format(PyExc_IndexError, "there is no vector %u", vector);
    return NULL;
}

int interrupts_raise(InterruptsObject *interrupts, unsigned int vector)
{
    char *is_raised = flag_of(interrupts->is_raised, vector), *masked = flag_of(interrupts->masked, vector);
    char *pending = flag_of(interrupts->pending, vector);
    if (!is_raised || !masked || !pending)
        return -1;
    if (*is_raised)
        return 0;
    if (*masked) {
        *pending = 1;
        return 0;
    }
    PyObject *number = PyLong_FromUnsignedLong(vector);
    int failed = !number || PyList_Append(interrupts->raised, number) < 0;
    Py_XDECREF(number);
    if (!failed)
        *is_raised = 1;
    return failed ? -1 : 0;
}

PyObject *interrupts_take(InterruptsObject *interrupts)
{
    PyObject *taken = PyList_AsTuple(interrupts->raised);
    if (!taken || !PyTuple_GET_SIZE(taken))
        return taken;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(taken); i++) {
        char *is_raised = flag_of(interrupts->is_raised, (unsigned int)PyLong_AsUnsignedLong(PyTuple_GET_ITEM(taken, i)));
        if (!is_raised) {
            Py_DECREF(taken);
            return NULL;
        }
        *is_raised = 0;
    }
    if (PyList_SetSlice(interrupts->raised, 0, PyList_GET_SIZE(interrupts->raised), NULL) < 0)
        Py_CLEAR(taken);
    return taken;
}

static int interrupts_traverse(InterruptsObject *self, visitproc visit, void *arg)
{
    Py_VISIT(self->raised);
    Py_VISIT(self->masked);
    Py_VISIT(self->is_raised);
    Py_VISIT(self->pending);
    return 0;
}

static int interrupts_clear(InterruptsObject *self)
{
    Py_CLEAR(self->raised);
    Py_CLEAR(self->masked);
    Py_CLEAR(self->is_raised);
    Py_CLEAR(self->pending);
    return 0;
}

static void interrupts_dealloc(InterruptsObject *self)
{
    PyObject_GC_UnTrack(self);
    interrupts_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMemberDef interrupts_members[] = {
    {"raised", T_OBJECT_EX, offsetof(InterruptsObject, raised), 0, NULL},
    {"masked", T_OBJECT_EX, offsetof(InterruptsObject, masked), 0, NULL},
    {"_is_raised", T_OBJECT_EX, offsetof(InterruptsObject, is_raised), 0, NULL},
    {"_pending", T_OBJECT_EX, offsetof(InterruptsObject, pending), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyObject *interrupts_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    InterruptsObject *self = (InterruptsObject *)type->tp_alloc(type, 0);
    if (self && !(self->raised = PyList_New(0)))
        Py_CLEAR(self);
    return (PyObject *)self;
}

PyTypeObject InterruptsType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "nvme_emu._core.InterruptsState",
    .tp_basicsize = sizeof(InterruptsObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_members = interrupts_members,
    .tp_traverse = (traverseproc)interrupts_traverse,
    .tp_clear = (inquiry)interrupts_clear,
    .tp_dealloc = (destructor)interrupts_dealloc,
    .tp_new = interrupts_new,
};
