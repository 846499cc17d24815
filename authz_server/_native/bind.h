/* What each part of the core adds to the module. */

#ifndef AUTHZ_NATIVE_BIND_H
#define AUTHZ_NATIVE_BIND_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "audit_file.h"
#include "cache.h"
#include "plan.h"

/* What the module holds: each part its own, so that two interpreters share nothing. */
typedef struct {
    PyTypeObject *cache_type;
    PyTypeObject *audit_type;
    PyObject *entry_type; /* authz_server.cache.Entry; NULL until a cache is made */
    PyObject *reasons;    /* tuple: the Reason of each code of the core */
    PyObject *names;      /* tuple: attributes that are read and set, interned */
} authz_state;

/* Borrows the bytes of `object`; -1 with TypeError if it is no bytes object. */
static inline int
authz_bytes_of(PyObject *object, authz_span *bytes)
{
    char *data;
    Py_ssize_t length;
    if (PyBytes_AsStringAndSize(object, &data, &length) < 0) {
        return -1;
    }
    *bytes = (authz_span){(const uint8_t *)data, (size_t)length};
    return 0;
}

/* Each returns 0, or -1 with an exception set. */
int authz_bind_cache(PyObject *module);
int authz_bind_extract(PyObject *module);
int authz_bind_audit(PyObject *module);
int authz_bind_listener(PyObject *module);

/* The cache within a DecisionCache, for C code that answers hits without Python; it lives
 * as long as the object, so hold a reference. Its reason codes are the members of Reason
 * in their order. NULL with TypeError set: the object is something else. */
authz_cache *authz_cache_of(PyObject *module, PyObject *decision_cache);

/* The same of an AuditFile. */
authz_audit_file *authz_audit_file_of(PyObject *module, PyObject *audit_file);

/* The same of what compile_plan returned. */
const authz_plan *authz_plan_of(PyObject *capsule);

#endif
