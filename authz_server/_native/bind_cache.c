/* DecisionCache: the decision cache of the core, as the Python twin looks.
 *
 * Locks: the core's mutex is taken with the GIL held, and never the other way round: the
 * core knows no Python and its allocator is malloc, so whoever holds the mutex never waits
 * for the GIL, and a C thread without the GIL can't be waited for long. */

#include "bind.h"

#include <stddef.h>

typedef struct {
    PyObject_HEAD
    authz_cache *cache;
} cache_object;

/* Answers are a few hundred bytes; a longer one costs an allocation. */
#define STACK_BUFFER 2048

/* Attributes of Entry and Instant: places in authz_state.names. */
enum {
    RESPONSE,
    RECORD,
    REASON,
    REVISION,
    EXPIRES_S,
    VALID_FROM_S,
    VALID_UNTIL_S,
    WALL_S,
    STEADY_S,
    NAME_COUNT
};

static const char *const names[NAME_COUNT] = {
    "response",     "record",        "reason", "revision", "expires_s",
    "valid_from_s", "valid_until_s", "wall_s", "steady_s",
};

static PyObject *
name_of(const authz_state *state, int name)
{
    return PyTuple_GET_ITEM(state->names, name);
}

static authz_state *
state_of(PyObject *self)
{
    return PyType_GetModuleState(Py_TYPE(self));
}

/* Fetches what only Python has. When the module is loaded, those may not have been: the
 * package of the twin loads this module. */
static int
fetch_types(authz_state *state)
{
    if (state->reasons != NULL) {
        return 0;
    }
    int result = -1;
    PyObject *entry_type = NULL, *reason_type = NULL, *reasons = NULL;
    PyObject *twin = PyImport_ImportModule("authz_server.cache.decision_cache");
    PyObject *errors = PyImport_ImportModule("authz_server.errors");
    if (twin == NULL || errors == NULL) {
        goto done;
    }
    entry_type = PyObject_GetAttrString(twin, "Entry");
    reason_type = PyObject_GetAttrString(errors, "Reason");
    if (entry_type == NULL || reason_type == NULL) {
        goto done;
    }
    if (!PyType_Check(entry_type)) {
        PyErr_SetString(PyExc_TypeError, "Entry is not a class");
        goto done;
    }
    reasons = PySequence_Tuple(reason_type);
    if (reasons == NULL) {
        goto done;
    }
    if (PyTuple_GET_SIZE(reasons) > UINT8_MAX + 1) {
        PyErr_SetString(PyExc_OverflowError, "there are more reasons than codes");
        goto done;
    }
    Py_XSETREF(state->entry_type, Py_NewRef(entry_type));
    Py_XSETREF(state->reasons, Py_NewRef(reasons));
    result = 0;
done:
    Py_XDECREF(twin);
    Py_XDECREF(errors);
    Py_XDECREF(entry_type);
    Py_XDECREF(reason_type);
    Py_XDECREF(reasons);
    return result;
}

/* Reads bytes; -1: they are none. They live as long as `object`. */
static int
read_bytes(PyObject *object, const char *name, authz_span *bytes)
{
    if (!PyBytes_Check(object)) {
        PyErr_Format(PyExc_TypeError, "%s must be bytes, not %.100s", name,
                     Py_TYPE(object)->tp_name);
        return -1;
    }
    bytes->data = (const unsigned char *)PyBytes_AS_STRING(object);
    bytes->length = (size_t)PyBytes_GET_SIZE(object);
    return 0;
}

static int
read_text(PyObject *object, const char *name, authz_span *bytes)
{
    if (!PyUnicode_Check(object)) {
        PyErr_Format(PyExc_TypeError, "%s must be str, not %.100s", name,
                     Py_TYPE(object)->tp_name);
        return -1;
    }
    Py_ssize_t len;
    const char *text = PyUnicode_AsUTF8AndSize(object, &len);
    if (text == NULL) {
        return -1;
    }
    bytes->data = (const unsigned char *)text;
    bytes->length = (size_t)len;
    return 0;
}

static int
read_number(const authz_state *state, PyObject *object, int name, double *number)
{
    PyObject *value = PyObject_GetAttr(object, name_of(state, name));
    if (value == NULL) {
        return -1;
    }
    *number = PyFloat_AsDouble(value);
    Py_DECREF(value);
    return *number == -1.0 && PyErr_Occurred() ? -1 : 0;
}

/* Reads `count` arguments, each by place or by name. They are borrowed. */
static int
read_arguments(PyObject *const *given, Py_ssize_t placed, PyObject *by_name,
               const char *const *wanted, Py_ssize_t count, PyObject **arguments)
{
    const Py_ssize_t named = by_name != NULL ? PyTuple_GET_SIZE(by_name) : 0;
    if (placed + named != count) {
        PyErr_Format(PyExc_TypeError, "expected %zd arguments, got %zd", count,
                     placed + named);
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        arguments[i] = i < placed ? given[i] : NULL;
        for (Py_ssize_t j = 0; j < named && arguments[i] == NULL; j++) {
            PyObject *name = PyTuple_GET_ITEM(by_name, j);
            if (PyUnicode_CompareWithASCIIString(name, wanted[i]) == 0) {
                arguments[i] = given[placed + j];
            }
        }
        if (arguments[i] == NULL) {
            PyErr_Format(PyExc_TypeError, "argument %s is missing", wanted[i]);
            return -1;
        }
    }
    return 0;
}

/* Fills `seed` from the system; it is never shown. */
static int
read_seed(unsigned char seed[AUTHZ_SEED_BYTES])
{
    PyObject *os = PyImport_ImportModule("os");
    PyObject *random =
        os != NULL ? PyObject_CallMethod(os, "urandom", "i", AUTHZ_SEED_BYTES) : NULL;
    Py_XDECREF(os);
    if (random == NULL) {
        return -1;
    }
    authz_span bytes;
    int result = read_bytes(random, "a seed", &bytes);
    if (result == 0 && bytes.length != AUTHZ_SEED_BYTES) {
        PyErr_SetString(PyExc_OSError, "the system gave too few random bytes");
        result = -1;
    }
    if (result == 0) {
        memcpy(seed, bytes.data, AUTHZ_SEED_BYTES);
    }
    Py_DECREF(random);
    return result;
}

static PyObject *
cache_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *wanted[] = {"max_entries", "max_bytes", NULL};
    Py_ssize_t max_entries, max_bytes;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "$nn:DecisionCache", wanted,
                                     &max_entries, &max_bytes)) {
        return NULL;
    }
    if (max_entries < 0 || max_bytes < 0) {
        PyErr_SetString(PyExc_ValueError, "a cache can't hold less than nothing");
        return NULL;
    }
    unsigned char seed[AUTHZ_SEED_BYTES];
    authz_state *state = PyType_GetModuleState(type);
    if (state == NULL || fetch_types(state) < 0 || read_seed(seed) < 0) {
        return NULL;
    }
    cache_object *self = (cache_object *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    const authz_allocator allocator = authz_system_allocator();
    self->cache =
        authz_cache_create((size_t)max_entries, (size_t)max_bytes, seed, &allocator);
    if (self->cache == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static int
cache_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static void
cache_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    authz_cache_destroy(((cache_object *)self)->cache);
    type->tp_free(self);
    Py_DECREF(type);
}

static authz_cache *
core_of(PyObject *self)
{
    return ((cache_object *)self)->cache;
}

/* Sets a field of a frozen dataclass, as its own __init__ does. Steals `value`. */
static int
set_field(const authz_state *state, PyObject *entry, int name, PyObject *value)
{
    if (value == NULL) {
        return -1;
    }
    const int result = PyObject_GenericSetAttr(entry, name_of(state, name), value);
    Py_DECREF(value);
    return result;
}

/* Makes the Entry of an answer: without its __init__, which would cost more than the rest
 * of a hit. */
static PyObject *
make_entry(const authz_state *state, const authz_answer *answer, const char *buffer,
           PyObject *revision)
{
    if (answer->reason >= PyTuple_GET_SIZE(state->reasons)) {
        PyErr_SetString(PyExc_SystemError, "an entry has an unknown reason");
        return NULL;
    }
    PyObject *reason = PyTuple_GET_ITEM(state->reasons, answer->reason);
    PyTypeObject *type = (PyTypeObject *)state->entry_type;
    PyObject *none = PyTuple_New(0);
    PyObject *entry = none != NULL ? type->tp_new(type, none, NULL) : NULL;
    Py_XDECREF(none);
    if (entry == NULL) {
        return NULL;
    }
    const Py_ssize_t response_len = (Py_ssize_t)answer->response_len;
    const Py_ssize_t record_len = (Py_ssize_t)answer->record_len;
    if (set_field(state, entry, RESPONSE,
                  PyBytes_FromStringAndSize(buffer, response_len)) < 0 ||
        set_field(state, entry, RECORD,
                  PyBytes_FromStringAndSize(buffer + response_len, record_len)) < 0 ||
        set_field(state, entry, REASON, Py_NewRef(reason)) < 0 ||
        set_field(state, entry, REVISION, Py_NewRef(revision)) < 0 ||
        set_field(state, entry, EXPIRES_S, PyFloat_FromDouble(answer->expires_s)) < 0 ||
        set_field(state, entry, VALID_FROM_S,
                  PyFloat_FromDouble(answer->valid_from_s)) < 0 ||
        set_field(state, entry, VALID_UNTIL_S,
                  PyFloat_FromDouble(answer->valid_until_s)) < 0) {
        Py_DECREF(entry);
        return NULL;
    }
    return entry;
}

static PyObject *
cache_get(PyObject *self, PyObject *const *given, Py_ssize_t placed, PyObject *by_name)
{
    static const char *const wanted[] = {"key", "revision", "now"};
    PyObject *arguments[3];
    if (read_arguments(given, placed, by_name, wanted, 3, arguments) < 0) {
        return NULL;
    }
    const authz_state *state = state_of(self);
    authz_span key, revision;
    authz_instant now;
    if (read_bytes(arguments[0], "key", &key) < 0 ||
        read_text(arguments[1], "revision", &revision) < 0 ||
        read_number(state, arguments[2], WALL_S, &now.wall_s) < 0 ||
        read_number(state, arguments[2], STEADY_S, &now.steady_s) < 0) {
        return NULL;
    }
    unsigned char stack[STACK_BUFFER];
    unsigned char *buffer = stack;
    size_t capacity = sizeof stack;
    authz_answer answer;
    authz_cache_status status;
    while ((status = authz_cache_get(core_of(self), key, revision, now, buffer, capacity,
                                  &answer)) == AUTHZ_CACHE_SMALL_BUFFER) {
        if (buffer != stack) {
            PyMem_Free(buffer);
        }
        capacity = answer.response_len + answer.record_len;
        buffer = PyMem_Malloc(capacity);
        if (buffer == NULL) {
            return PyErr_NoMemory();
        }
    }
    PyObject *result = status == AUTHZ_CACHE_OK
                           ? make_entry(state, &answer, (char *)buffer, arguments[1])
                           : Py_NewRef(Py_None);
    if (buffer != stack) {
        PyMem_Free(buffer);
    }
    return result;
}

/* Finds the code of a reason by identity: members of an enum are single. */
static int
code_of(const authz_state *state, PyObject *reason, uint8_t *code)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(state->reasons); i++) {
        if (PyTuple_GET_ITEM(state->reasons, i) == reason) {
            *code = (uint8_t)i;
            return 0;
        }
    }
    PyErr_Format(PyExc_TypeError, "reason must be a Reason, not %R", reason);
    return -1;
}

static PyObject *
cache_put(PyObject *self, PyObject *const *given, Py_ssize_t placed, PyObject *by_name)
{
    static const char *const wanted[] = {"key", "entry"};
    PyObject *arguments[2];
    if (read_arguments(given, placed, by_name, wanted, 2, arguments) < 0) {
        return NULL;
    }
    const authz_state *state = state_of(self);
    PyObject *entry = arguments[1], *result = NULL;
    PyObject *response = NULL, *record = NULL, *reason = NULL, *revision_object = NULL;
    authz_span key, revision;
    authz_decision decision;
    if ((response = PyObject_GetAttr(entry, name_of(state, RESPONSE))) == NULL ||
        (record = PyObject_GetAttr(entry, name_of(state, RECORD))) == NULL ||
        (reason = PyObject_GetAttr(entry, name_of(state, REASON))) == NULL ||
        (revision_object = PyObject_GetAttr(entry, name_of(state, REVISION))) == NULL ||
        read_bytes(arguments[0], "key", &key) < 0 ||
        read_text(revision_object, "revision", &revision) < 0 ||
        read_bytes(response, "response", &decision.response) < 0 ||
        read_bytes(record, "record", &decision.record) < 0 ||
        code_of(state, reason, &decision.reason) < 0 ||
        read_number(state, entry, EXPIRES_S, &decision.expires_s) < 0 ||
        read_number(state, entry, VALID_FROM_S, &decision.valid_from_s) < 0 ||
        read_number(state, entry, VALID_UNTIL_S, &decision.valid_until_s) < 0) {
        goto done;
    }
    if (authz_cache_put(core_of(self), key, revision, &decision) == AUTHZ_CACHE_NO_MEMORY) {
        PyErr_NoMemory();
        goto done;
    }
    result = Py_NewRef(Py_None);
done:
    Py_XDECREF(response);
    Py_XDECREF(record);
    Py_XDECREF(reason);
    Py_XDECREF(revision_object);
    return result;
}

static PyObject *
cache_latest(PyObject *self, PyObject *const *given, Py_ssize_t placed,
             PyObject *by_name)
{
    static const char *const wanted[] = {"count"};
    PyObject *argument;
    if (read_arguments(given, placed, by_name, wanted, 1, &argument) < 0) {
        return NULL;
    }
    const Py_ssize_t count = PyNumber_AsSsize_t(argument, PyExc_OverflowError);
    if (count == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (count < 0) {
        PyErr_SetString(PyExc_ValueError, "there are no fewer keys than none");
        return NULL;
    }
    authz_keys *keys = NULL;
    authz_cache_status status;
    authz_cache *cache = core_of(self);
    Py_BEGIN_ALLOW_THREADS /* it visits every entry */
    status = authz_cache_latest(cache, (size_t)count, &keys);
    Py_END_ALLOW_THREADS
    if (status != AUTHZ_CACHE_OK) {
        return PyErr_NoMemory();
    }
    PyObject *list = PyList_New((Py_ssize_t)keys->count);
    for (size_t i = 0; list != NULL && i < keys->count; i++) {
        PyObject *key = PyBytes_FromStringAndSize((const char *)keys->keys[i].data,
                                                  (Py_ssize_t)keys->keys[i].length);
        if (key == NULL) {
            Py_CLEAR(list);
            break;
        }
        PyList_SET_ITEM(list, (Py_ssize_t)i, key);
    }
    authz_keys_free(cache, keys);
    return list;
}

static PyObject *
cache_clear(PyObject *self, PyObject *unused)
{
    (void)unused;
    authz_cache *cache = core_of(self);
    Py_BEGIN_ALLOW_THREADS /* it frees every entry */
    authz_cache_clear(cache);
    Py_END_ALLOW_THREADS
    return Py_NewRef(Py_None);
}

static PyObject *
cache_check(PyObject *self, PyObject *unused)
{
    (void)unused;
    const char *fault = authz_cache_check(core_of(self));
    if (fault != NULL) {
        PyErr_SetString(PyExc_AssertionError, fault);
        return NULL;
    }
    return Py_NewRef(Py_None);
}

static Py_ssize_t
cache_length(PyObject *self)
{
    return (Py_ssize_t)authz_cache_stats(core_of(self)).entries;
}

static PyObject *
cache_size_bytes(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromSize_t(authz_cache_stats(core_of(self)).bytes);
}

PyDoc_STRVAR(cache_doc,
             "DecisionCache(*, max_entries, max_bytes)\n--\n\n"
             "Cache of `Entry` by facts. Safe to share between threads.\n\n"
             "authz_server.cache.decision_cache.DecisionCache is its twin in Python.");
PyDoc_STRVAR(get_doc, "get($self, key, revision, now)\n--\n\n"
                      "Return the entry of `key` if it still answers.");
PyDoc_STRVAR(put_doc, "put($self, key, entry)\n--\n\n"
                      "Remember `entry`, and forget others if room is short.");
PyDoc_STRVAR(latest_doc, "latest($self, count)\n--\n\n"
                         "Return up to `count` keys, the last used first.");
PyDoc_STRVAR(clear_doc, "clear($self)\n--\n\nForget every entry.");
PyDoc_STRVAR(check_doc, "check($self)\n--\n\n"
                        "Raise AssertionError if the structure is not whole.");
PyDoc_STRVAR(size_bytes_doc, "Bytes accounted for now.");

static PyMethodDef cache_methods[] = {
    {"get", (PyCFunction)(void (*)(void))cache_get, METH_FASTCALL | METH_KEYWORDS, get_doc},
    {"put", (PyCFunction)(void (*)(void))cache_put, METH_FASTCALL | METH_KEYWORDS, put_doc},
    {"latest", (PyCFunction)(void (*)(void))cache_latest, METH_FASTCALL | METH_KEYWORDS, latest_doc},
    {"clear", cache_clear, METH_NOARGS, clear_doc},
    {"check", cache_check, METH_NOARGS, check_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef cache_properties[] = {
    {"size_bytes", cache_size_bytes, NULL, size_bytes_doc, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot cache_slots[] = {
    {Py_tp_doc, (void *)cache_doc},
    {Py_tp_new, cache_new},
    {Py_tp_dealloc, cache_dealloc},
    {Py_tp_traverse, cache_traverse},
    {Py_tp_methods, cache_methods},
    {Py_tp_getset, cache_properties},
    {Py_sq_length, cache_length},
    {0, NULL},
};

/* Not immutable: tests put a failing method in the place of one, as with the twin. */
static PyType_Spec cache_spec = {
    .name = "authz_server._native._core.DecisionCache",
    .basicsize = sizeof(cache_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = cache_slots,
};

int
authz_bind_cache(PyObject *module)
{
    authz_state *state = PyModule_GetState(module);
    state->names = PyTuple_New(NAME_COUNT);
    for (Py_ssize_t i = 0; state->names != NULL && i < NAME_COUNT; i++) {
        PyObject *name = PyUnicode_InternFromString(names[i]);
        if (name == NULL) {
            return -1;
        }
        PyTuple_SET_ITEM(state->names, i, name);
    }
    if (state->names == NULL) {
        return -1;
    }
    PyObject *type = PyType_FromModuleAndSpec(module, &cache_spec, NULL);
    if (type == NULL) {
        return -1;
    }
    state->cache_type = (PyTypeObject *)type;
    PyObject *overhead = PyLong_FromLong(AUTHZ_ENTRY_OVERHEAD);
    const int failed = overhead == NULL || PyObject_SetAttrString(
                                               type, "entry_overhead_bytes", overhead) < 0;
    Py_XDECREF(overhead);
    return failed ? -1 : PyModule_AddType(module, state->cache_type);
}

authz_cache *
authz_cache_of(PyObject *module, PyObject *decision_cache)
{
    const authz_state *state = PyModule_GetState(module);
    if (!PyObject_TypeCheck(decision_cache, state->cache_type)) {
        PyErr_Format(PyExc_TypeError, "expected a DecisionCache, not %.100s",
                     Py_TYPE(decision_cache)->tp_name);
        return NULL;
    }
    return core_of(decision_cache);
}
