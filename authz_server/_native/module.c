/* The Python module: nothing but what binds the core to Python. */

#include "bind.h"

static int
exec_module(PyObject *module)
{
    return authz_bind_cache(module) < 0 || authz_bind_extract(module) < 0 ||
                   authz_bind_audit(module) < 0 || authz_bind_listener(module) < 0
               ? -1
               : 0;
}

static int
traverse(PyObject *module, visitproc visit, void *arg)
{
    authz_state *state = PyModule_GetState(module);
    Py_VISIT(state->cache_type);
    Py_VISIT(state->audit_type);
    Py_VISIT(state->entry_type);
    Py_VISIT(state->reasons);
    Py_VISIT(state->names);
    return 0;
}

static int
clear(PyObject *module)
{
    authz_state *state = PyModule_GetState(module);
    Py_CLEAR(state->cache_type);
    Py_CLEAR(state->audit_type);
    Py_CLEAR(state->entry_type);
    Py_CLEAR(state->reasons);
    Py_CLEAR(state->names);
    return 0;
}

static void
release(void *module)
{
    (void)clear(module);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, exec_module},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "authz_server._native._core",
    .m_doc = "The native core of authz-server.",
    .m_size = sizeof(authz_state),
    .m_slots = slots,
    .m_traverse = traverse,
    .m_clear = clear,
    .m_free = release,
};

PyMODINIT_FUNC
PyInit__core(void)
{
    return PyModuleDef_Init(&definition);
}
