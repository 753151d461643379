/* nvme_emu._core._native: see nvme_emu/_core/__init__.py. */

#include "native.h"

PyObject *name_emit, *name_getrandbits, *name_go_on, *name_wire_shift, *name_next_deadline, *name_next_ns;

static int make_names(void)
{
    return (name_emit = PyUnicode_InternFromString("emit")) &&
           (name_getrandbits = PyUnicode_InternFromString("getrandbits")) &&
           (name_go_on = PyUnicode_InternFromString("go_on")) &&
           (name_wire_shift = PyUnicode_InternFromString("wire_shift")) &&
           (name_next_deadline = PyUnicode_InternFromString("next_deadline")) &&
           (name_next_ns = PyUnicode_InternFromString("next_ns"));
}

extern PyMethodDef capsule_methods[];

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_native",
    .m_doc = "The compiled gait; import nvme_emu._core instead.",
    .m_size = -1,
    .m_methods = capsule_methods,
};

PyMODINIT_FUNC PyInit__native(void)
{
    static const struct {
        const char *name;
        PyTypeObject *type;
    } types[] = {
        {"MemoryState", &MemoryType}, {"CountersState", &CountersType}, {"RingsState", &RingsType},
        {"CqState", &CqType},         {"SqState", &SqType},             {"NamespaceState", &NamespaceType},
        {"DeviceState", &DeviceType}, {"Lock", &LockType},              {"RequestState", &RequestType},
        {"PairState", &PairType},     {"InterruptsState", &InterruptsType}, {"InFlightState", &InFlightType},
        {"LatencyState", &LatencyType}, {"LatencyCountersState", &LatencyCountersType},
    };
    PyObject *self = PyModule_Create(&module);
    if (!self || !make_names() || PyModule_AddIntConstant(self, "LAYOUT", NATIVE_LAYOUT) < 0)
        return NULL;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (PyType_Ready(types[i].type) < 0 ||
            PyModule_AddObjectRef(self, types[i].name, (PyObject *)types[i].type) < 0) {
            Py_DECREF(self);
            return NULL;
        }
    }
    return self;
}
