/* The device's clocks: LatencyModel.submit for reads (controller/latency.py, which says what they mean).
 *
 * The clocks of dies and channels are lists of Python, so that there is one truth; those that there is one of are
 * fields. All else (writes, which fill a buffer, and the rest) is asked of Python.
 */

#include "native.h"

static int get(PyObject *list, long long index, long long *value)
{
    *value = PyLong_AsLongLong(PyList_GET_ITEM(list, (Py_ssize_t)index));
    return *value == -1 && PyErr_Occurred() ? -1 : 0;
}

static int set(PyObject *list, long long index, long long value)
{
    PyObject *number = PyLong_FromLongLong(value);
    return number ? PyList_SetItem(list, (Py_ssize_t)index, number) : -1;
}

static int add(PyObject *list, long long index, long long more)
{
    long long value;
    return get(list, index, &value) < 0 ? -1 : set(list, index, value + more);
}

static int has(PyObject *list, long long count)
{
    return list && PyList_CheckExact(list) && PyList_GET_SIZE(list) >= count;
}

static int is_ready(const LatencyObject *self)
{
    const LatencyCountersObject *counters = (const LatencyCountersObject *)self->counters;
    return self->compiled && self->counters && PyObject_TypeCheck(self->counters, &LatencyCountersType) &&
           self->dies > 0 && self->channels > 0 && self->page > 0 && self->read_types > 0 && self->read_ns &&
           PyTuple_CheckExact(self->read_ns) && PyTuple_GET_SIZE(self->read_ns) == self->read_types &&
           has(self->die_free, self->dies) && has(self->program_end, self->dies) &&
           has(self->in_register, self->dies) && has(self->bus_free, self->channels) &&
           has(counters->die_busy_ns, self->dies) && has(counters->channel_busy_ns, self->channels);
}

static int read_time(const LatencyObject *self, long long number, long long *duration)
{
    PyObject *item = PyTuple_GET_ITEM(self->read_ns, (Py_ssize_t)(number / self->dies % self->read_types));
    *duration = PyLong_AsLongLong(item);
    return *duration == -1 && PyErr_Occurred() ? -1 : 0;
}

/* When page `number` is in its die's register, as far as no program is in the way: 1, 0 if one is, -1. */
static int array_read(LatencyObject *self, long long die, long long number, long long ready, long long *end)
{
    LatencyCountersObject *counters = (LatencyCountersObject *)self->counters;
    long long begin, there, program_end, duration;
    if (get(self->die_free, die, &begin) < 0 || get(self->in_register, die, &there) < 0 ||
        get(self->program_end, die, &program_end) < 0)
        return -1;
    begin = begin < ready ? ready : begin;
    if (there == number) {
        *end = begin;
        return 1;
    }
    if (program_end > begin)
        return 0;
    if (read_time(self, number, &duration) < 0)
        return -1;
    *end = begin + duration;
    if (set(self->die_free, die, *end) < 0 || set(self->in_register, die, number) < 0 ||
        add(counters->die_busy_ns, die, duration) < 0)
        return -1;
    counters->media_read_bytes += (unsigned long long)self->page;
    return 1;
}

/* Through a bus or link that passes `transfer` ns worth of bytes: the end, and the clock of what was submitted. */
static long long pass(long long *clock, long long now_ns, long long end, long long transfer)
{
    *clock = (*clock > now_ns ? *clock : now_ns) + transfer;
    end += transfer;
    return *clock > end ? *clock : end;
}

/* When page `number`, of which `size` bytes are wanted, has come to the host: 0, or -1. */
static int read_page(LatencyObject *self, long long number, long long size, long long ready, long long now_ns,
                     long long *end)
{
    LatencyCountersObject *counters = (LatencyCountersObject *)self->counters;
    long long die = number % self->dies;
    int plain = array_read(self, die, number, ready, end);
    if (plain < 0)
        return -1;
    if (!plain) {
        PyObject *result = PyObject_CallMethod((PyObject *)self, "_array_read", "LLL", die, number, ready);
        *end = result ? PyLong_AsLongLong(result) : -1;
        Py_XDECREF(result);
        if (PyErr_Occurred())
            return -1;
    }
    if (self->bus) {
        long long channel = die % self->channels, transfer = size * 1000 / self->bus, clock;
        if (get(self->bus_free, channel, &clock) < 0 || add(counters->channel_busy_ns, channel, transfer) < 0)
            return -1;
        *end = pass(&clock, now_ns, *end, transfer);
        if (set(self->bus_free, channel, clock) < 0)
            return -1;
    }
    if (self->link) {
        long long transfer = size * 1000 / self->link;
        counters->read_link_busy_ns += (unsigned long long)transfer;
        *end = pass(&self->read_link_free, now_ns, *end, transfer);
    }
    return 0;
}

static int scatter(LatencyObject *self, long long *done)
{
    static PyObject *forty;
    if (!forty && !(forty = PyLong_FromLong(40)))
        return -1;
    PyObject *number = PyObject_CallMethodOneArg(self->rng, name_getrandbits, forty);
    long long bits = number ? PyLong_AsLongLong(number) : -1;
    Py_XDECREF(number);
    if (bits < 0) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "getrandbits gave a negative number");
        return -1;
    }
    *done += self->jitter_ns * (bits >> 20) >> 20;
    if ((bits & 0xFFFFF) < self->retry_below) {
        ((LatencyCountersObject *)self->counters)->retries++;
        *done += self->retry_ns;
    }
    return 0;
}

static int submit_read(LatencyObject *self, uint64_t offset, uint64_t nbytes, long long now_ns, long long *done_ns)
{
    long long ready = self->command_free < now_ns ? now_ns : self->command_free;
    self->command_free = ready += self->command_ns;
    ready += self->read_overhead_ns;
    ((LatencyCountersObject *)self->counters)->host_read_bytes += nbytes;
    long long number = (long long)(offset / (uint64_t)self->page), skip = (long long)(offset % (uint64_t)self->page);
    long long left = (long long)nbytes, end;
    *done_ns = ready;
    while (left > 0) {
        long long size = self->page - skip < left ? self->page - skip : left;
        if (read_page(self, number++, size, ready, now_ns, &end) < 0)
            return -1;
        *done_ns = end > *done_ns ? end : *done_ns;
        left -= size;
        skip = 0;
    }
    return self->scatters ? scatter(self, done_ns) : 0;
}

int latency_submit(PyObject *latency, int is_read, uint64_t offset, uint64_t nbytes, long long now_ns,
                   long long *done_ns)
{
    if (is_read && PyObject_TypeCheck(latency, &LatencyType) && is_ready((LatencyObject *)latency))
        return submit_read((LatencyObject *)latency, offset, nbytes, now_ns, done_ns);
    PyObject *result = PyObject_CallMethod(latency, "submit", "sKKL", is_read ? "read" : "write",
                                           (unsigned long long)offset, (unsigned long long)nbytes, now_ns);
    *done_ns = result ? PyLong_AsLongLong(result) : -1;
    Py_XDECREF(result);
    return *done_ns == -1 && PyErr_Occurred() ? -1 : 0;
}

/* The types ------------------------------------------------------------------------------------------------- */

#define COUNTER(name) {#name, T_ULONGLONG, offsetof(LatencyCountersObject, name), 0, NULL}

static PyMemberDef counters_members[] = {
    COUNTER(host_read_bytes),  COUNTER(host_write_bytes), COUNTER(media_read_bytes),
    COUNTER(media_write_bytes), COUNTER(erases),          COUNTER(retries),
    COUNTER(read_link_busy_ns), COUNTER(write_link_busy_ns),
    {"die_busy_ns", T_OBJECT_EX, offsetof(LatencyCountersObject, die_busy_ns), 0, NULL},
    {"channel_busy_ns", T_OBJECT_EX, offsetof(LatencyCountersObject, channel_busy_ns), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static int counters_traverse(LatencyCountersObject *self, visitproc visit, void *arg)
{
    Py_VISIT(self->die_busy_ns);
    Py_VISIT(self->channel_busy_ns);
    return 0;
}

static int counters_clear(LatencyCountersObject *self)
{
    Py_CLEAR(self->die_busy_ns);
    Py_CLEAR(self->channel_busy_ns);
    return 0;
}

static void counters_dealloc(LatencyCountersObject *self)
{
    PyObject_GC_UnTrack(self);
    counters_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

PyTypeObject LatencyCountersType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "nvme_emu._core.LatencyCountersState",
    .tp_basicsize = sizeof(LatencyCountersObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_members = counters_members,
    .tp_traverse = (traverseproc)counters_traverse,
    .tp_clear = (inquiry)counters_clear,
    .tp_dealloc = (destructor)counters_dealloc,
    .tp_new = PyType_GenericNew,
};

#define NUMBER(name, field) {name, T_LONGLONG, offsetof(LatencyObject, field), 0, NULL}
#define OBJECT(name, field) {name, T_OBJECT_EX, offsetof(LatencyObject, field), 0, NULL}

static PyMemberDef latency_members[] = {
    {"_scatters", T_BOOL, offsetof(LatencyObject, scatters), 0, NULL},
    {"_compiled", T_BOOL, offsetof(LatencyObject, compiled), 0, NULL},
    NUMBER("_command_free", command_free), NUMBER("_read_link_free", read_link_free),
    NUMBER("_dies", dies), NUMBER("_channels", channels), NUMBER("_page", page),
    NUMBER("_read_types", read_types), NUMBER("_command_ns", command_ns),
    NUMBER("_read_overhead_ns", read_overhead_ns), NUMBER("_bus", bus), NUMBER("_read_link", link),
    NUMBER("_jitter_ns", jitter_ns), NUMBER("_retry_ns", retry_ns), NUMBER("_retry_below", retry_below),
    OBJECT("_read_ns", read_ns), OBJECT("_bus_free", bus_free), OBJECT("_die_free", die_free),
    OBJECT("_program_end", program_end), OBJECT("_register", in_register), OBJECT("_rng", rng),
    OBJECT("counters", counters),
    {NULL, 0, 0, 0, NULL},
};

static PyObject **latency_object(LatencyObject *self, int index)
{
    PyObject **const objects[] = {&self->read_ns,     &self->bus_free, &self->die_free, &self->program_end,
                                  &self->in_register, &self->rng,      &self->counters, NULL};
    return objects[index];
}

static int latency_traverse(LatencyObject *self, visitproc visit, void *arg)
{
    for (int i = 0; latency_object(self, i); i++)
        Py_VISIT(*latency_object(self, i));
    return 0;
}

static int latency_clear(LatencyObject *self)
{
    for (int i = 0; latency_object(self, i); i++)
        Py_CLEAR(*latency_object(self, i));
    return 0;
}

static void latency_dealloc(LatencyObject *self)
{
    PyObject_GC_UnTrack(self);
    latency_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

PyTypeObject LatencyType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "nvme_emu._core.LatencyState",
    .tp_basicsize = sizeof(LatencyObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_members = latency_members,
    .tp_traverse = (traverseproc)latency_traverse,
    .tp_clear = (inquiry)latency_clear,
    .tp_dealloc = (destructor)latency_dealloc,
    .tp_new = PyType_GenericNew,
};
