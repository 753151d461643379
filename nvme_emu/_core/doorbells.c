/* Doorbells and time: dispatch.doorbell_sq, doorbell_cq and due, while nothing stands in line and nobody listens. */

#include "native.h"

/* Whether there are timers that Python runs: a heap of tuples whose first item is the time. */
static int has_timers(const DeviceObject *self)
{
    return self->timers && PyList_CheckExact(self->timers) && PyList_GET_SIZE(self->timers);
}

/* Whether nothing stands in line and all that happens now is in C's hands; -1 with an exception. */
static int is_quiet(DeviceObject *self, long long now_ns)
{
    if (!PyObject_TypeCheck(self->inflight, &InFlightType) || !PyObject_TypeCheck(self->interrupts, &InterruptsType))
        return 0;
    Py_ssize_t line = PyObject_Size(self->line);
    if (line)
        return line < 0 ? -1 : 0;
    if (!self->posting || heap_is_due(((InFlightObject *)self->inflight)->due, now_ns) ||
        heap_is_due(self->timers, now_ns))
        return 0;
    return device_is_open(self);
}

/* The queue of that identifier in a dictionary of `rings`, borrowed; NULL without one. */
static void *queue_of(DeviceObject *self, int is_cq, PyObject *qid)
{
    if (!PyObject_TypeCheck(self->rings, &RingsType))
        return NULL;
    RingsObject *rings = (RingsObject *)self->rings;
    PyObject *queues = is_cq ? rings->cqs : rings->sqs;
    if (!queues || !PyDict_CheckExact(queues))
        return NULL;
    PyObject *found = PyDict_GetItemWithError(queues, qid);
    if (!found)
        PyErr_Clear();
    return found && PyObject_TypeCheck(found, is_cq ? &CqType : &SqType) ? found : NULL;
}

static PyObject *irqs_and_next(DeviceObject *self)
{
    PyObject *irqs = interrupts_take((InterruptsObject *)self->interrupts);
    PyObject *next = NULL;
    if (irqs)
        next = has_timers(self) ? PyObject_CallMethodNoArgs((PyObject *)self, name_next_deadline)
                                : inflight_next((InFlightObject *)self->inflight);
    PyObject *answer = next ? PyTuple_Pack(2, irqs, next) : NULL;
    Py_XDECREF(irqs);
    Py_XDECREF(next);
    return answer;
}

/* (qid, tail, now_ns): dispatch.doorbell_sq, or None if nothing was done. What is not plain goes to `go_on`. */
PyObject *device_ring_compiled(DeviceObject *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 3)
        return PyErr_Format(PyExc_TypeError, "ring_compiled(qid, tail, now_ns)");
    SqObject *sq = queue_of(self, 0, args[0]);
    long tail = PyLong_AsLong(args[1]);
    long long now_ns = PyLong_AsLongLong(args[2]);
    if (PyErr_Occurred())
        return NULL;
    if (!sq || !sq->qid || sq->in_line || tail < 0 || tail >= (long)sq->size || tail == (long)sq->tail)
        Py_RETURN_NONE;
    long added = (tail + (long)sq->size - (long)sq->tail) % (long)sq->size;
    if (sq_waiting(sq) + added >= (long)sq->size)
        Py_RETURN_NONE;
    int quiet = is_quiet(self, now_ns);
    if (quiet <= 0)
        return quiet < 0 ? NULL : Py_NewRef(Py_None);
    sq->tail = (unsigned int)tail;
    self->now_ns = now_ns;
    if (inflight_end((InFlightObject *)self->inflight, self, now_ns) < 0)
        return NULL;
    long wanted = sq_waiting(sq);
    long done = device_run_and_raise(self, sq, wanted < (long)self->step_commands_max ? wanted : (long)self->step_commands_max);
    if (done < 0)
        return NULL;
    if (done == wanted)
        return irqs_and_next(self);
    PyObject *so_far = PyLong_FromLong(done);
    if (!so_far)
        return NULL;
    PyObject *answer = PyObject_CallMethodObjArgs((PyObject *)self, name_go_on, (PyObject *)sq, so_far, NULL);
    Py_DECREF(so_far);
    return answer;
}

/* (qid, head, now_ns): True where dispatch.doorbell_cq gives None and it was done here. */
PyObject *device_head_compiled(DeviceObject *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 3)
        return PyErr_Format(PyExc_TypeError, "head_compiled(qid, head, now_ns)");
    CqObject *cq = queue_of(self, 1, args[0]);
    long head = PyLong_AsLong(args[1]);
    long long now_ns = PyLong_AsLongLong(args[2]);
    if (PyErr_Occurred())
        return NULL;
    if (!cq || head < 0 || head >= (long)cq->size || !cq->blocked || PyObject_Size(cq->blocked) || !cq->backlog ||
        PyObject_Size(cq->backlog))
        Py_RETURN_FALSE;
    int quiet = is_quiet(self, now_ns);
    if (quiet <= 0)
        return quiet < 0 ? NULL : Py_NewRef(Py_False);
    InFlightObject *inflight = (InFlightObject *)self->inflight;
    if (inflight->count && inflight_is_due(inflight, now_ns))
        Py_RETURN_FALSE;
    unsigned int moved = ((unsigned int)head + cq->size - cq->head) % cq->size;
    if (!moved || moved > (cq->tail + cq->size - cq->head) % cq->size)
        Py_RETURN_FALSE;
    cq->head = (unsigned int)head;
    cq->free += moved;
    Py_RETURN_TRUE;
}

/* (now_ns): dispatch.due, or None if nothing was done. */
PyObject *device_due_compiled(DeviceObject *self, PyObject *arg)
{
    long long now_ns = PyLong_AsLongLong(arg);
    if (now_ns == -1 && PyErr_Occurred())
        return NULL;
    int quiet = is_quiet(self, now_ns);
    if (quiet <= 0)
        return quiet < 0 ? NULL : Py_NewRef(Py_None);
    self->now_ns = now_ns;
    if (inflight_end((InFlightObject *)self->inflight, self, now_ns) < 0)
        return NULL;
    return irqs_and_next(self);
}

/* dispatch.end_due: True if all that was due was in C's hands and is done. */
PyObject *device_end_compiled(DeviceObject *self, PyObject *Py_UNUSED(unused))
{
    if (!PyObject_TypeCheck(self->inflight, &InFlightType) || !PyObject_TypeCheck(self->interrupts, &InterruptsType) ||
        !self->posting || heap_is_due(((InFlightObject *)self->inflight)->due, self->now_ns))
        Py_RETURN_FALSE;
    int open = device_is_open(self);
    if (open <= 0)
        return open < 0 ? NULL : Py_NewRef(Py_False);
    if (inflight_end((InFlightObject *)self->inflight, self, self->now_ns) < 0)
        return NULL;
    Py_RETURN_TRUE;
}
