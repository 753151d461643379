/* Runs of NVMe/TCP commands: what a message transport does for each plain command of many, on both sides.
 *
 * The same functions in Python are in capsules.py. Each goes on while what it sees is plain, and leaves the rest
 * to its caller; nothing is half done when it returns. Numbers on the wire are little-endian, as this machine is
 * where the extension is built (native.h).
 */

#include "native.h"

enum { CH_SIZE = 8, DATA_SIZE = 24, RESP_SIZE = 24 };
enum { C2H_DATA = 7, CAPSULE_RESP = 5, FLAG_LAST = 4, FLAG_SUCCESS = 8, PSDT_SGL = 0x40 };
enum { SGL_TRANSPORT = 0x5A };

static uint16_t u16_at(const uint8_t *at)
{
    uint16_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static uint32_t u32_at(const uint8_t *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static uint64_t u64_at(const uint8_t *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

/* A tuple of two numbers. */
static PyObject *pair_of(unsigned long long one, unsigned long long other)
{
    PyObject *first = PyLong_FromUnsignedLongLong(one), *second = PyLong_FromUnsignedLongLong(other);
    PyObject *pair = first && second ? PyTuple_New(2) : NULL;
    if (pair) {
        PyTuple_SET_ITEM(pair, 0, first);
        PyTuple_SET_ITEM(pair, 1, second);
        return pair;
    }
    Py_XDECREF(first);
    Py_XDECREF(second);
    return NULL;
}

/* Append and give up the reference: 0, or -1 with an exception. */
static int append_new(PyObject *list, PyObject *item)
{
    int failed = item ? PyList_Append(list, item) : -1;
    Py_XDECREF(item);
    return failed;
}

/* -- the host: answers in ----------------------------------------------------------------------------------- */

/* The bytes that a command's answer goes to, from `buffers`; NULL where they cannot be written without help. */
static Py_buffer *buffer_of(PyObject *buffers, PyObject *cid)
{
    PyObject *into = PyDict_GetItemWithError(buffers, cid);
    if (!into || !PyMemoryView_Check(into))
        return NULL;
    Py_buffer *view = PyMemoryView_GET_BUFFER(into);
    /* A view that was released would have no object any more. */
    if (((PyMemoryViewObject *)into)->flags & _Py_MEMORYVIEW_RELEASED || view->readonly || !PyBuffer_IsContiguous(view, 'C'))
        return NULL;
    return view;
}

/* One C2HData PDU: bytes taken, 0 where it is not plain, -1 with an exception. */
static Py_ssize_t take_data(const uint8_t *pdu, Py_ssize_t room, PyObject *buffers, PyObject *done)
{
    uint8_t flags = pdu[1], hlen = pdu[2], pdo = pdu[3];
    uint64_t plen = u32_at(pdu + 4), datao = u32_at(pdu + 12), datal = u32_at(pdu + 16);
    if (plen > (uint64_t)room || plen != pdo + datal || pdo < hlen || hlen != DATA_SIZE ||
        flags & ~(FLAG_LAST | FLAG_SUCCESS))
        return 0;
    PyObject *cid = PyLong_FromLong(u16_at(pdu + 8));
    if (!cid)
        return -1;
    Py_ssize_t taken = 0;
    Py_buffer *into = buffer_of(buffers, cid);
    if (into && datao + datal <= (uint64_t)into->len) {
        memcpy((uint8_t *)into->buf + datao, pdu + pdo, datal);
        taken = (Py_ssize_t)plen;
        if (flags & FLAG_SUCCESS) {
            PyObject *ended = Py_BuildValue("(Oii)", cid, 0, 0);
            if (append_new(done, ended) < 0 || PyDict_DelItem(buffers, cid) < 0)
                taken = -1;
        }
    } else if (PyErr_Occurred())
        taken = -1;
    Py_DECREF(cid);
    return taken;
}

/* One CapsuleResp PDU, likewise. */
static Py_ssize_t take_response(const uint8_t *pdu, PyObject *buffers, PyObject *done)
{
    const uint8_t *cqe = pdu + CH_SIZE;
    if (pdu[1] || pdu[2] != RESP_SIZE || pdu[3] || u32_at(pdu + 4) != RESP_SIZE)
        return 0;
    unsigned int cid = u16_at(cqe + 12);
    PyObject *key = PyLong_FromLong((long)cid);
    if (!key)
        return -1;
    Py_ssize_t taken = RESP_SIZE;
    if (PyDict_GetItemWithError(buffers, key) && PyDict_DelItem(buffers, key) < 0)
        taken = -1;
    Py_DECREF(key);
    if (taken < 0 || PyErr_Occurred())
        return -1;
    PyObject *ended = Py_BuildValue("(IKI)", cid, (unsigned long long)u64_at(cqe), (unsigned int)u16_at(cqe + 14) >> 1);
    return append_new(done, ended) < 0 ? -1 : taken;
}

static PyObject *take_answers(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer stream;
    Py_ssize_t start, end;
    PyObject *buffers, *done;
    if (!PyArg_ParseTuple(args, "y*nnO!O!", &stream, &start, &end, &PyDict_Type, &buffers, &PyList_Type, &done))
        return NULL;
    const uint8_t *bytes = stream.buf;
    end = end < stream.len ? end : stream.len;
    Py_ssize_t taken = 1;
    while (start >= 0 && end - start >= DATA_SIZE && taken > 0) {
        const uint8_t *pdu = bytes + start;
        if (pdu[0] == C2H_DATA)
            taken = take_data(pdu, end - start, buffers, done);
        else
            taken = pdu[0] == CAPSULE_RESP ? take_response(pdu, buffers, done) : 0;
        if (taken > 0)
            start += taken;
    }
    PyBuffer_Release(&stream);
    return taken < 0 ? NULL : PyLong_FromSsize_t(start);
}

/* -- the target: commands in -------------------------------------------------------------------------------- */

struct slots {
    Py_buffer ring, listed;
    unsigned long long size, slot_bytes, first_prp, lists;
    PyObject *commands, *free, *namespaces;
};

/* Bytes that a plain read moves; 0 where it is not plain. */
static uint64_t plain_read_bytes(const uint8_t *sqe, const struct slots *to)
{
    uint32_t nsid = u32_at(sqe + 4);
    if (sqe[0] != OP_READ || sqe[1] != PSDT_SGL || sqe[39] != SGL_TRANSPORT)
        return 0;
    PyObject *key = PyLong_FromUnsignedLong(nsid);
    PyObject *namespace = key ? PyDict_GetItemWithError(to->namespaces, key) : NULL;
    Py_XDECREF(key);
    if (!namespace)
        return 0;
    PyObject *plain = PyObject_GetAttr(namespace, name_wire_shift);
    long shift = plain ? PyLong_AsLong(plain) : -1;
    Py_XDECREF(plain);
    if (shift < 0 || shift > 32)
        return 0;
    uint64_t nbytes = ((uint64_t)(u32_at(sqe + 48) & 0xFFFF) + 1) << shift;
    return nbytes <= u32_at(sqe + 32) && nbytes <= to->slot_bytes ? nbytes : 0;
}

/* One entry into the ring: 1, 0 where it is not plain, -1 with an exception. */
static int take_read(const uint8_t *sqe, struct slots *to, uint64_t tail)
{
    Py_ssize_t last = PyList_GET_SIZE(to->free) - 1;
    uint64_t nbytes = last < 0 ? 0 : plain_read_bytes(sqe, to);
    if (!nbytes)
        return PyErr_Occurred() ? -1 : 0;
    unsigned long long slot = PyLong_AsUnsignedLongLong(PyList_GET_ITEM(to->free, last));
    if (PyErr_Occurred())
        return -1;
    if (slot >= (unsigned long long)to->listed.len || (nbytes > 2 * PAGE && !((uint8_t *)to->listed.buf)[slot]))
        return 0;
    PyObject *cid = PyLong_FromLong(u16_at(sqe + 2));
    if (!cid)
        return -1;
    int known = PyDict_Contains(to->commands, cid);
    PyObject *entry = known ? NULL : pair_of(slot, nbytes);
    int failed = known < 0 || (!known && (!entry || PyDict_SetItem(to->commands, cid, entry) < 0)) ||
                 (!known && PyList_SetSlice(to->free, last, last + 1, NULL) < 0);
    Py_DECREF(cid);
    Py_XDECREF(entry);
    if (failed || known)
        return failed ? -1 : 0;
    uint8_t *at = (uint8_t *)to->ring.buf + tail * SQE_BYTES;
    uint64_t prps[2] = {to->first_prp + slot * to->slot_bytes, 0};
    if (nbytes > 2 * PAGE)
        prps[1] = to->lists + slot * PAGE;
    else if (nbytes > PAGE)
        prps[1] = prps[0] + PAGE;
    memcpy(at, sqe, SQE_BYTES);
    at[1] = 0;
    memcpy(at + 24, prps, sizeof prps);
    return 1;
}

static PyObject *take_reads(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer stream;
    struct slots to;
    Py_ssize_t start, stride, end, room;
    unsigned long long tail;
    if (!PyArg_ParseTuple(args, "y*nnnw*(KKKK)w*O!O!O!Kn", &stream, &start, &stride, &end, &to.ring, &to.size,
                          &to.slot_bytes, &to.first_prp, &to.lists, &to.listed, &PyDict_Type, &to.commands,
                          &PyList_Type, &to.free, &PyDict_Type, &to.namespaces, &tail, &room))
        return NULL;
    int taken = 1;
    Py_ssize_t count = 0;
    if ((unsigned long long)to.ring.len < to.size * SQE_BYTES || tail >= to.size || stride < SQE_BYTES || start < 0)
        taken = 0;
    while (taken > 0 && start < end && start + SQE_BYTES <= stream.len && count < room) {
        taken = take_read((const uint8_t *)stream.buf + start, &to, tail);
        if (taken > 0) {
            tail = tail + 1 == to.size ? 0 : tail + 1;
            start += stride;
            count++;
        }
    }
    PyBuffer_Release(&stream);
    PyBuffer_Release(&to.ring);
    PyBuffer_Release(&to.listed);
    return taken < 0 ? NULL : Py_BuildValue("(nKn)", start, tail, count);
}

/* -- the target: answers out -------------------------------------------------------------------------------- */

struct sending {
    PyObject *commands, *free, *unsent, *data, *answers;
    Py_ssize_t stride;
    unsigned int sqhd;
    int implied;
};

/* A piece of the memoryview `data`. */
static PyObject *piece_of(PyObject *data, Py_ssize_t at, Py_ssize_t nbytes)
{
    PyObject *start = PyLong_FromSsize_t(at), *stop = PyLong_FromSsize_t(at + nbytes);
    PyObject *slice = start && stop ? PySlice_New(start, stop, NULL) : NULL;
    PyObject *piece = slice ? PyObject_GetItem(data, slice) : NULL;
    Py_XDECREF(start);
    Py_XDECREF(stop);
    Py_XDECREF(slice);
    return piece;
}

/* The answer to one completion: 0, or -1 with an exception. */
static int answer(const uint8_t *cqe, struct sending *to)
{
    uint64_t value = u64_at(cqe);
    unsigned int cid = u16_at(cqe + 12), status_p = u16_at(cqe + 14);
    PyObject *key = PyLong_FromLong((long)cid);
    PyObject *command = key ? PyDict_GetItemWithError(to->commands, key) : NULL;
    long slot = -1;
    Py_ssize_t nbytes = 0;
    if (command && PyTuple_Check(command) && PyTuple_GET_SIZE(command) == 2) {
        slot = PyLong_AsLong(PyTuple_GET_ITEM(command, 0));
        nbytes = PyLong_AsSsize_t(PyTuple_GET_ITEM(command, 1));
    }
    int failed = !key || PyErr_Occurred() || (command && PyDict_DelItem(to->commands, key) < 0);
    PyObject *piece = NULL, *slot_object = failed || slot < 0 ? NULL : PyLong_FromLong(slot);
    int has_data = nbytes && status_p < 2;
    if (!failed && has_data) {
        piece = piece_of(to->data, slot * to->stride, nbytes);
        failed = !piece || !slot_object || PyList_Append(to->unsent, slot_object) < 0;
    } else if (!failed && slot >= 0)
        failed = !slot_object || PyList_Append(to->free, slot_object) < 0;
    uint8_t out[CQE_BYTES];
    uint16_t tail[4] = {(uint16_t)to->sqhd, u16_at(cqe + 10), (uint16_t)cid, has_data ? 0 : (uint16_t)(status_p & 0xFFFE)};
    memcpy(out, &value, 8);
    memcpy(out + 8, tail, 8);
    PyObject *entry = NULL, *bytes = NULL;
    if (!failed) {
        bytes = PyBytes_FromStringAndSize((const char *)out, has_data && to->implied && !value ? 0 : CQE_BYTES);
        entry = bytes ? PyTuple_Pack(3, key, bytes, piece ? piece : Py_None) : NULL;
        failed = !entry || PyList_Append(to->answers, entry) < 0;
    }
    Py_XDECREF(key);
    Py_XDECREF(piece);
    Py_XDECREF(slot_object);
    Py_XDECREF(bytes);
    Py_XDECREF(entry);
    return failed ? -1 : 0;
}

static PyObject *take_completions(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer ring;
    struct sending to;
    Py_ssize_t head, size, seen = 0;
    int phase, failed = 0;
    if (!PyArg_ParseTuple(args, "y*ninO!O!O!OnIpO!", &ring, &head, &phase, &size, &PyDict_Type, &to.commands,
                          &PyList_Type, &to.free, &PyList_Type, &to.unsent, &to.data, &to.stride, &to.sqhd,
                          &to.implied, &PyList_Type, &to.answers))
        return NULL;
    while (!failed && seen < size && head >= 0 && head < size && (head + 1) * CQE_BYTES <= ring.len) {
        const uint8_t *cqe = (const uint8_t *)ring.buf + head * CQE_BYTES;
        if ((cqe[14] & 1) != phase)
            break;
        failed = answer(cqe, &to);
        seen++;
        if (++head == size) {
            head = 0;
            phase ^= 1;
        }
    }
    PyBuffer_Release(&ring);
    return failed ? NULL : Py_BuildValue("(nin)", head, phase, seen);
}

/* Headers and data of answers as pieces to send, where there are neither digests nor padding. */
static int put_answer(PyObject *one, PyObject *out)
{
    unsigned int cid;
    PyObject *cqe, *data;
    if (!PyArg_ParseTuple(one, "ISO", &cid, &cqe, &data))
        return -1;
    Py_ssize_t entry = PyBytes_GET_SIZE(cqe);
    if (data != Py_None) {
        Py_ssize_t nbytes = PyObject_Size(data);
        uint8_t head[DATA_SIZE] = {C2H_DATA, entry ? FLAG_LAST : FLAG_LAST | FLAG_SUCCESS, DATA_SIZE, DATA_SIZE};
        uint32_t plen = (uint32_t)(DATA_SIZE + nbytes), datal = (uint32_t)nbytes;
        uint16_t cccid = (uint16_t)cid;
        memcpy(head + 4, &plen, 4);
        memcpy(head + 8, &cccid, 2);
        memcpy(head + 16, &datal, 4);
        if (nbytes < 0 || append_new(out, PyBytes_FromStringAndSize((const char *)head, sizeof head)) < 0 ||
            PyList_Append(out, data) < 0)
            return -1;
    }
    if (!entry)
        return 0;
    uint8_t response[RESP_SIZE] = {CAPSULE_RESP, 0, RESP_SIZE, 0, RESP_SIZE};
    if (entry != CQE_BYTES) {
        PyErr_SetString(PyExc_ValueError, "a completion queue entry has 16 bytes");
        return -1;
    }
    memcpy(response + CH_SIZE, PyBytes_AS_STRING(cqe), CQE_BYTES);
    return append_new(out, PyBytes_FromStringAndSize((const char *)response, sizeof response));
}

static PyObject *put_answers(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *answers, *out;
    if (!PyArg_ParseTuple(args, "O!O!", &PyList_Type, &answers, &PyList_Type, &out))
        return NULL;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(answers); i++)
        if (put_answer(PyList_GET_ITEM(answers, i), out) < 0)
            return NULL;
    Py_RETURN_NONE;
}

PyMethodDef capsule_methods[] = {
    {"take_answers", take_answers, METH_VARARGS, NULL},
    {"take_reads", take_reads, METH_VARARGS, NULL},
    {"take_completions", take_completions, METH_VARARGS, NULL},
    {"put_answers", put_answers, METH_VARARGS, NULL},
    {"memory_barrier", memory_barrier, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
