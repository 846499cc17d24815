/* AuditFile and audit_event: the audit trail of the core, for Python to write to as well.
 * Two writers of one file would not know of each other's torn lines. */

#include "bind.h"

#include <errno.h>

#include "audit_event.h"
#include "audit_file.h"
#include "clock.h"

typedef struct {
    PyObject_HEAD
    authz_audit_file *file;
} audit_object;

static PyObject *
audit_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *wanted[] = {"path", NULL};
    PyObject *path;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O:AuditFile", wanted, &path)) {
        return NULL;
    }
    PyObject *name = NULL;
    if (path != Py_None && !PyUnicode_FSConverter(path, &name)) {
        return NULL;
    }
    audit_object *self = (audit_object *)type->tp_alloc(type, 0);
    if (self != NULL) {
        const authz_allocator allocator = authz_system_allocator();
        self->file =
            authz_audit_file_open(name != NULL ? PyBytes_AS_STRING(name) : NULL, &allocator);
        if (self->file == NULL) {
            PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, path);
            Py_CLEAR(self);
        }
    }
    Py_XDECREF(name);
    return (PyObject *)self;
}

static void
audit_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    authz_audit_file_free(((audit_object *)self)->file);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *
audit_write(PyObject *self, PyObject *events)
{
    authz_span bytes;
    if (authz_bytes_of(events, &bytes) < 0) {
        return NULL;
    }
    authz_audit_file *file = ((audit_object *)self)->file;
    const double now_s = authz_now_steady_s();
    if (authz_audit_file_spool(file, bytes, now_s)) {
        Py_RETURN_NONE;
    }
    int error;
    Py_BEGIN_ALLOW_THREADS
    error = authz_audit_file_write(file, bytes, now_s);
    Py_END_ALLOW_THREADS
    if (error != 0) {
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

static PyObject *
audit_close(PyObject *self, PyObject *nothing)
{
    (void)nothing;
    authz_audit_file_close(((audit_object *)self)->file);
    Py_RETURN_NONE;
}

static PyObject *
audit_event(PyObject *module, PyObject *arguments)
{
    (void)module;
    const char *record, *request_id, *source;
    Py_ssize_t record_length, request_id_length, source_length;
    double wall_s, latency_s;
    int cache_hit;
    if (!PyArg_ParseTuple(arguments, "y#ddps#s#:audit_event", &record, &record_length,
                          &wall_s, &latency_s, &cache_hit, &request_id,
                          &request_id_length, &source, &source_length)) {
        return NULL;
    }
    const authz_allocator allocator = authz_system_allocator();
    authz_buffer buffer;
    authz_buffer_init(&buffer, &allocator, PY_SSIZE_T_MAX);
    const authz_occurrence occurrence = {
        .wall_s = wall_s,
        .latency_s = latency_s,
        .cache_hit = cache_hit != 0,
        .request_id = {(const uint8_t *)request_id, (size_t)request_id_length},
        .source = {(const uint8_t *)source, (size_t)source_length},
    };
    PyObject *event = NULL;
    authz_date date = {.text = ""};
    if (authz_audit_event(&buffer, &date,
                          (authz_span){(const uint8_t *)record, (size_t)record_length},
                          &occurrence)) {
        event =
            PyBytes_FromStringAndSize((const char *)buffer.data, (Py_ssize_t)buffer.length);
    } else {
        PyErr_SetString(PyExc_ValueError, "the time has no date, or there is no memory");
    }
    authz_buffer_release(&buffer);
    return event;
}

PyDoc_STRVAR(audit_doc, "AuditFile(path)\n--\n\n"
                        "Appends whole lines to a file; None is standard output.\n\n"
                        "Raises OSError if it cannot be opened.");
PyDoc_STRVAR(write_doc, "write($self, events, /)\n--\n\n"
                        "Append one or more lines; OSError if not all were written.");
PyDoc_STRVAR(close_doc, "close($self)\n--\n\nClose; standard output stays open.");
PyDoc_STRVAR(event_doc,
             "audit_event(record, wall_s, latency_s, cache_hit, request_id, source, /)\n"
             "--\n\nReturn the whole event of a record, as bytes.");

static PyMethodDef audit_methods[] = {
    {"write", audit_write, METH_O, write_doc},
    {"close", audit_close, METH_NOARGS, close_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot audit_slots[] = {
    {Py_tp_doc, (void *)(uintptr_t)audit_doc},
    {Py_tp_new, audit_new},
    {Py_tp_dealloc, audit_dealloc},
    {Py_tp_methods, audit_methods},
    {0, NULL},
};

static PyType_Spec audit_spec = {
    .name = "authz_server._native._core.AuditFile",
    .basicsize = sizeof(audit_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = audit_slots,
};

static PyMethodDef functions[] = {
    {"audit_event", audit_event, METH_VARARGS, event_doc},
    {NULL, NULL, 0, NULL},
};

int
authz_bind_audit(PyObject *module)
{
    authz_state *state = PyModule_GetState(module);
    state->audit_type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &audit_spec, NULL);
    if (state->audit_type == NULL || PyModule_AddType(module, state->audit_type) < 0) {
        return -1;
    }
    return PyModule_AddFunctions(module, functions);
}

authz_audit_file *
authz_audit_file_of(PyObject *module, PyObject *audit_file)
{
    const authz_state *state = PyModule_GetState(module);
    if (!PyObject_TypeCheck(audit_file, state->audit_type)) {
        PyErr_Format(PyExc_TypeError, "expected an AuditFile, not %.100s",
                     Py_TYPE(audit_file)->tp_name);
        return NULL;
    }
    return ((audit_object *)audit_file)->file;
}
