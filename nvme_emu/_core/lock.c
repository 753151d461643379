/* Waiting: by polling a flag, and a recursive lock whose state C can see: `count` is 0 while nobody holds it.
 *
 * The interpreter lock guards its fields; only who has to wait sleeps, on `gate`, which is locked except between
 * a release that found waiters and the waiter that it wakes.
 */

#include "native.h"

#include <sched.h>
#include <time.h>

static long long now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ll + now.tv_nsec;
}

PyObject *poll_flag(const char *flag, PyObject *ns)
{
    long long left = PyLong_AsLongLong(ns);
    if (left == -1 && PyErr_Occurred())
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    long long end = now_ns() + left;
    /* The processor may be the only one: whoever shall set the flag gets it. */
    while (!__atomic_load_n(flag, __ATOMIC_ACQUIRE) && now_ns() < end)
        sched_yield();
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(__atomic_load_n(flag, __ATOMIC_ACQUIRE));
}

static PyObject *lock_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    LockObject *self = (LockObject *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    self->gate = PyThread_allocate_lock();
    if (!self->gate) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    PyThread_acquire_lock(self->gate, WAIT_LOCK);
    return (PyObject *)self;
}

static void lock_dealloc(LockObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    if (self->gate) {
        PyThread_acquire_lock(self->gate, NOWAIT_LOCK);
        PyThread_release_lock(self->gate);
        PyThread_free_lock(self->gate);
    }
    type->tp_free((PyObject *)self);
}

/* 1 with the lock, 0 without it after `microseconds` (0: at once, negative: never), -1 with an exception. */
static int lock_take(LockObject *self, PY_TIMEOUT_T microseconds)
{
    unsigned long me = PyThread_get_thread_ident();
    if (self->count && self->owner == me) {
        self->count++;
        return 1;
    }
    while (self->count) {
        if (!microseconds)
            return 0;
        PyLockStatus status;
        self->waiters++;
        Py_BEGIN_ALLOW_THREADS
        status = PyThread_acquire_lock_timed(self->gate, microseconds, 1);
        Py_END_ALLOW_THREADS
        self->waiters--;
        if (status == PY_LOCK_ACQUIRED)
            self->signalled = 0;
        else if (status == PY_LOCK_FAILURE && self->count)
            return 0;
        else if (status == PY_LOCK_INTR && PyErr_CheckSignals() < 0)
            return -1;
    }
    self->owner = me;
    self->count = 1;
    return 1;
}

static PyObject *lock_acquire(LockObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"blocking", "timeout", NULL};
    int blocking = 1;
    double seconds = -1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|pd", names, &blocking, &seconds))
        return NULL;
    PY_TIMEOUT_T microseconds = !blocking ? 0 : seconds < 0 ? -1 : (PY_TIMEOUT_T)(seconds * 1e6);
    int taken = lock_take(self, microseconds);
    return taken < 0 ? NULL : PyBool_FromLong(taken);
}

static PyObject *lock_try_acquire(LockObject *self, PyObject *Py_UNUSED(ignored))
{
    if (self->count && self->owner == PyThread_get_thread_ident())
        Py_RETURN_FALSE;
    return PyBool_FromLong(lock_take(self, 0));
}

static PyObject *lock_release(LockObject *self, PyObject *Py_UNUSED(ignored))
{
    if (!self->count || self->owner != PyThread_get_thread_ident()) {
        PyErr_SetString(PyExc_RuntimeError, "release of a lock that the caller does not hold");
        return NULL;
    }
    if (!--self->count && self->waiters && !self->signalled) {
        self->signalled = 1;
        PyThread_release_lock(self->gate);
    }
    Py_RETURN_NONE;
}

static PyObject *lock_enter(LockObject *self, PyObject *Py_UNUSED(ignored))
{
    return lock_take(self, -1) < 0 ? NULL : Py_NewRef(Py_True);
}

static PyObject *lock_exit(LockObject *self, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(count))
{
    return lock_release(self, NULL);
}

static PyObject *lock_held(LockObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(self->count && self->owner == PyThread_get_thread_ident());
}

static PyObject *lock_locked(LockObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(self->count != 0);
}

static PyMethodDef lock_methods[] = {
    {"acquire", (PyCFunction)(void (*)(void))lock_acquire, METH_VARARGS | METH_KEYWORDS, NULL},
    {"try_acquire", (PyCFunction)lock_try_acquire, METH_NOARGS, NULL},
    {"release", (PyCFunction)lock_release, METH_NOARGS, NULL},
    {"held", (PyCFunction)lock_held, METH_NOARGS, NULL},
    {"locked", (PyCFunction)lock_locked, METH_NOARGS, NULL},
    {"__enter__", (PyCFunction)lock_enter, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)(void (*)(void))lock_exit, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

PyTypeObject LockType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "nvme_emu._core.Lock",
    .tp_basicsize = sizeof(LockObject),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_methods = lock_methods,
    .tp_dealloc = (destructor)lock_dealloc,
    .tp_new = lock_new,
};
