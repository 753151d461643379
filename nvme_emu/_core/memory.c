/* The regions of host memory, as HostMemory keeps them, in a table that C can search. */

#include "native.h"

static const uint64_t WINDOW = 1ull << 32;

/* The index of the last region whose base is at most `addr`, or -1. */
static Py_ssize_t index_of(const MemoryObject *memory, uint64_t addr)
{
    Py_ssize_t low = 0, high = memory->count;
    while (low < high) {
        Py_ssize_t middle = (low + high) / 2;
        if (memory->regions[middle].base <= addr)
            low = middle + 1;
        else
            high = middle;
    }
    return low - 1;
}

struct region *memory_find(MemoryObject *memory, uint64_t addr, uint64_t length, int write)
{
    Py_ssize_t index = memory->last;
    if (index >= memory->count || addr - memory->regions[index].base >= memory->regions[index].size) {
        index = index_of(memory, addr);
        if (index < 0)
            return NULL;
        memory->last = index;
    }
    struct region *region = &memory->regions[index];
    uint64_t offset = addr - region->base;
    if (offset >= region->size || length > region->size - offset || (write && !region->writable))
        return NULL;
    return region;
}

static struct region *make_room(MemoryObject *memory, uint64_t base)
{
    if (memory->count == memory->room) {
        Py_ssize_t room = memory->room ? memory->room * 2 : 16;
        struct region *grown = PyMem_Realloc(memory->regions, (size_t)room * sizeof *grown);
        if (!grown)
            return NULL;
        memory->regions = grown;
        memory->room = room;
    }
    Py_ssize_t index = index_of(memory, base) + 1;
    struct region *place = &memory->regions[index];
    memmove(place + 1, place, (size_t)(memory->count - index) * sizeof *place);
    memory->count++;
    return place;
}

static void take_out(MemoryObject *memory, Py_ssize_t index)
{
    struct region *place = &memory->regions[index];
    struct hold bytes = place->bytes;
    memory->count--;
    memmove(place, place + 1, (size_t)(memory->count - index) * sizeof *place);
    memory->last = 0;
    hold_drop(&bytes);
}

uint64_t memory_lend(MemoryObject *memory, uint8_t *data, uint64_t size, int writable)
{
    uint64_t base = memory->next_base;
    uint64_t top = 0;
    if (memory->count) {
        struct region *highest = &memory->regions[memory->count - 1];
        top = highest->base + highest->size;
    }
    /* As HostMemory.add_region picks one: anything but the plain case is its business. */
    if (!base || base < top || size > -2 * WINDOW || base > -2 * WINDOW - size)
        return 0;
    struct region *region = make_room(memory, base);
    if (!region)
        return 0;
    memset(region, 0, sizeof *region);
    region->base = base;
    region->size = size;
    region->writable = writable;
    region->bytes.data = data;
    memory->next_base = base + ((size + WINDOW - 1) & -WINDOW);
    return base;
}

void memory_return(MemoryObject *memory, uint64_t base)
{
    Py_ssize_t index = index_of(memory, base);
    if (index >= 0 && memory->regions[index].base == base)
        take_out(memory, index);
}

static struct region *region_at(MemoryObject *memory, uint64_t base)
{
    Py_ssize_t index = index_of(memory, base);
    return index >= 0 && memory->regions[index].base == base ? &memory->regions[index] : NULL;
}

struct region *memory_window(MemoryObject *memory, uint64_t base)
{
    struct region *window = region_at(memory, base);
    return window && !window->size ? window : NULL;
}

int window_show(struct region *window, PyObject *view, int writable)
{
    struct hold bytes;
    if (hold_take(&bytes, view) < 0)
        return -1;
    window->bytes = bytes;
    window->size = bytes.size;
    window->writable = writable && !bytes.readonly;
    return 0;
}

void memory_hide(MemoryObject *memory, uint64_t base)
{
    struct region *window = region_at(memory, base);
    if (!window)
        return;
    struct hold bytes = window->bytes;
    memset(&window->bytes, 0, sizeof window->bytes);
    window->size = 0;
    hold_drop(&bytes);
}

static PyObject *memory_table_window(MemoryObject *self, PyObject *arg)
{
    unsigned long long base = PyLong_AsUnsignedLongLong(arg);
    if (PyErr_Occurred())
        return NULL;
    struct region *window = make_room(self, base);
    if (!window)
        return PyErr_NoMemory();
    memset(window, 0, sizeof *window);
    window->base = base;
    Py_RETURN_NONE;
}

static PyObject *memory_table_show(MemoryObject *self, PyObject *args)
{
    unsigned long long base;
    PyObject *view;
    int writable;
    if (!PyArg_ParseTuple(args, "KOp", &base, &view, &writable))
        return NULL;
    memory_hide(self, base);
    struct region *window = memory_window(self, base);
    if (window && window_show(window, view, writable) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *memory_table_hide(MemoryObject *self, PyObject *base)
{
    unsigned long long value = PyLong_AsUnsignedLongLong(base);
    if (PyErr_Occurred())
        return NULL;
    memory_hide(self, value);
    Py_RETURN_NONE;
}

static PyObject *memory_table_add(MemoryObject *self, PyObject *args)
{
    unsigned long long base;
    PyObject *view;
    int writable;
    if (!PyArg_ParseTuple(args, "KOp", &base, &view, &writable))
        return NULL;
    struct hold bytes;
    if (hold_take(&bytes, view) < 0)
        return NULL;
    if (!bytes.data)
        Py_RETURN_NONE;
    struct region *region = make_room(self, base);
    if (!region) {
        hold_drop(&bytes);
        return PyErr_NoMemory();
    }
    *region = (struct region){base, bytes.size, writable && !bytes.readonly, bytes};
    Py_RETURN_NONE;
}

static PyObject *memory_table_remove(MemoryObject *self, PyObject *base)
{
    unsigned long long value = PyLong_AsUnsignedLongLong(base);
    if (PyErr_Occurred())
        return NULL;
    memory_return(self, value);
    Py_RETURN_NONE;
}

static int memory_traverse(MemoryObject *self, visitproc visit, void *arg)
{
    for (Py_ssize_t i = 0; i < self->count; i++)
        Py_VISIT(self->regions[i].bytes.owner.obj);
    return 0;
}

static int memory_clear(MemoryObject *self)
{
    while (self->count)
        take_out(self, self->count - 1);
    return 0;
}

static void memory_dealloc(MemoryObject *self)
{
    PyObject_GC_UnTrack(self);
    memory_clear(self);
    PyMem_Free(self->regions);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMemberDef memory_members[] = {
    {"generation", T_LONGLONG, offsetof(MemoryObject, generation), 0, NULL},
    {"_next_base", T_ULONGLONG, offsetof(MemoryObject, next_base), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef memory_methods[] = {
    {"_table_add", (PyCFunction)memory_table_add, METH_VARARGS, NULL},
    {"_table_remove", (PyCFunction)memory_table_remove, METH_O, NULL},
    {"_table_window", (PyCFunction)memory_table_window, METH_O, NULL},
    {"_table_show", (PyCFunction)memory_table_show, METH_VARARGS, NULL},
    {"_table_hide", (PyCFunction)memory_table_hide, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

PyTypeObject MemoryType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "nvme_emu._core.MemoryState",
    .tp_basicsize = sizeof(MemoryObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_members = memory_members,
    .tp_methods = memory_methods,
    .tp_traverse = (traverseproc)memory_traverse,
    .tp_clear = (inquiry)memory_clear,
    .tp_dealloc = (destructor)memory_dealloc,
    .tp_new = PyType_GenericNew,
};
