/* Waiting: by polling a flag, and a recursive lock whose state C can see: `count` is 0 while nobody holds it.
 *
 * The interpreter lock guards its fields; only who has to wait sleeps, each at a gate of its own, in line. A release
 * wakes the first one, and whoever comes before that one runs overtakes it, which is fast. But a waiter that was
 * overtaken says so (`starving`), and the next release makes it the owner. (Linux's mutex does likewise.)
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

PyObject *memory_barrier(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    Py_RETURN_NONE;
}

/* One who sleeps; on its stack. `woken`: its gate is open. `given`: it is the owner and out of the line. */
struct waiter {
    struct waiter *next;
    PyThread_type_lock gate;
    unsigned long thread;
    char woken, given;
};

static PyObject *lock_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    LockObject *self = (LockObject *)type->tp_alloc(type, 0);
    if (self)
        self->last = &self->first;
    return (PyObject *)self;
}

static void leave_line(LockObject *self, struct waiter *waiter)
{
    struct waiter **link = &self->first;
    while (*link != waiter)
        link = &(*link)->next;
    *link = waiter->next;
    if (self->last == &waiter->next)
        self->last = link;
}

static int lock_own(LockObject *self, unsigned long thread)
{
    self->owner = thread;
    self->count = 1;
    return 1;
}

/* Once less held; who is first in line is woken, or owns it. */
static void lock_drop(LockObject *self)
{
    struct waiter *first = self->first;
    if (--self->count || !first)
        return;
    if (self->starving) {
        self->starving = 0;
        leave_line(self, first);
        first->given = 1;
        lock_own(self, first->thread);
    }
    if (!first->woken) {
        first->woken = 1;
        PyThread_release_lock(first->gate);
    }
}

/* Sleep until the lock is ours (1), the time is over (0), or a signal's handler has raised (-1). */
static int wait_in_line(LockObject *self, struct waiter *waiter, PY_TIMEOUT_T microseconds)
{
    while (1) {
        PyLockStatus status;
        Py_BEGIN_ALLOW_THREADS
        status = PyThread_acquire_lock_timed(waiter->gate, microseconds, 1);
        Py_END_ALLOW_THREADS
        if (waiter->given)
            return 1;
        if (!self->count) {
            leave_line(self, waiter);
            return lock_own(self, waiter->thread);
        }
        int failed = status == PY_LOCK_INTR && PyErr_CheckSignals() < 0;
        if (failed || status == PY_LOCK_FAILURE) {
            /* The handler may have run other threads. */
            if (waiter->given)
                return failed ? (lock_drop(self), -1) : 1;
            leave_line(self, waiter);
            return failed ? -1 : 0;
        }
        if (status == PY_LOCK_ACQUIRED) {
            waiter->woken = 0;
            self->starving = 1;
        }
    }
}

/* 1 with the lock, 0 without it after `microseconds` (0: at once, negative: never), -1 with an exception. */
static int lock_take(LockObject *self, PY_TIMEOUT_T microseconds)
{
    unsigned long me = PyThread_get_thread_ident();
    if (!self->count)
        return lock_own(self, me);
    if (self->owner == me) {
        self->count++;
        return 1;
    }
    if (!microseconds)
        return 0;
    struct waiter waiter = {.gate = PyThread_allocate_lock(), .thread = me};
    if (!waiter.gate) {
        PyErr_NoMemory();
        return -1;
    }
    PyThread_acquire_lock(waiter.gate, WAIT_LOCK);
    *self->last = &waiter;
    self->last = &waiter.next;
    int taken = wait_in_line(self, &waiter, microseconds);
    PyThread_acquire_lock(waiter.gate, NOWAIT_LOCK);
    PyThread_release_lock(waiter.gate);
    PyThread_free_lock(waiter.gate);
    return taken;
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
    lock_drop(self);
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
    .tp_new = lock_new,
};
