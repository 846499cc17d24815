/* The extractor for Python: the twin's `extract`, and its exceptions.
 *
 * `compile_plan` makes a capsule of a plan, which other parts of the module may read
 * from threads without the GIL. An `Extractor` holds the few plans that are in use, by
 * identity: a Plan is a value that nobody changes. All buffers are those of the
 * extractor, and everything is copied out of them before any Python code can run. */

#include "bind.h"

#include "extract.h"

#define PLAN_CAPSULE "authz_server._native.plan"
#define MAX_PLANS 8
/* Buffers that have grown beyond that are given back after the call. */
#define KEPT_BUFFER_BYTES (1u << 20)

typedef struct {
    PyObject *plan; /* NULL: the place is free */
    PyObject *capsule;
} plan_entry;

typedef struct {
    PyObject_HEAD
    /* What Python gives: plan → capsule, the twin, and what is made of an answer. */
    PyObject *compile;
    PyObject *twin;
    PyObject *annotations;
    PyObject *error;
    PyObject *reasons;
    PyObject *request_id_name;
    PyObject *source_name;
    PyObject *no_arguments;
    plan_entry plans[MAX_PLANS];
    size_t next_place;
    authz_extraction extraction;
} extractor;

/* ---- plans --------------------------------------------------------------------- */

static void
free_plan(PyObject *capsule)
{
    authz_plan_free(PyCapsule_GetPointer(capsule, PLAN_CAPSULE));
}

/* Returns `count` zeroed items of `size` bytes; never NULL for none. */
static void *
new_items(Py_ssize_t count, size_t size)
{
    return PyMem_Calloc(count > 0 ? (size_t)count : 1, size);
}

static int
names_of(PyObject *tuple, authz_span **names, size_t *count)
{
    *count = (size_t)PyTuple_GET_SIZE(tuple);
    *names = new_items(PyTuple_GET_SIZE(tuple), sizeof **names);
    if (*names == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t index = 0; index < *count; index++) {
        PyObject *name = PyTuple_GET_ITEM(tuple, (Py_ssize_t)index);
        if (authz_bytes_of(name, &(*names)[index]) < 0) {
            return -1;
        }
    }
    return 0;
}

/* From ((number, keep), ...) with keep 0 VALUE, 1 EACH, 2 PRESENCE. */
static int
fields_of(PyObject *tuple, authz_outline *outline)
{
    Py_ssize_t count = PyTuple_GET_SIZE(tuple);
    authz_kept_field *fields = new_items(count, sizeof *fields);
    if (fields == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    outline->fields = fields;
    outline->count = (size_t)count;
    for (Py_ssize_t index = 0; index < count; index++) {
        unsigned int number, keep;
        PyObject *pair = PyTuple_GET_ITEM(tuple, index);
        if (!PyArg_ParseTuple(pair, "II", &number, &keep)) {
            return -1;
        }
        if (keep > AUTHZ_KEEP_PRESENCE) {
            PyErr_SetString(PyExc_ValueError, "no such way to keep a field");
            return -1;
        }
        fields[index] = (authz_kept_field){number, (authz_keep)keep};
    }
    return 0;
}

static int
outlines_of(PyObject *tuple, authz_outline **outlines, size_t *count)
{
    Py_ssize_t size = PyTuple_GET_SIZE(tuple);
    *outlines = new_items(size, sizeof **outlines);
    if (*outlines == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    /* Counted first: what there is of them is freed whatever happens. */
    *count = (size_t)size;
    for (Py_ssize_t index = 0; index < size; index++) {
        PyObject *path, *fields;
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(tuple, index), "SO!", &path,
                              &PyTuple_Type, &fields)
            || authz_bytes_of(path, &(*outlines)[index].path) < 0
            || fields_of(fields, &(*outlines)[index]) < 0) {
            return -1;
        }
    }
    return 0;
}

static int
models_of(PyObject *tuple, authz_json_model **models, size_t *count)
{
    Py_ssize_t size = PyTuple_GET_SIZE(tuple);
    *models = new_items(size, sizeof **models);
    *count = (size_t)size;
    if (*models == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t index = 0; index < size; index++) {
        PyObject *path, *key;
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(tuple, index), "SS", &path, &key)
            || authz_bytes_of(path, &(*models)[index].path) < 0
            || authz_bytes_of(key, &(*models)[index].key) < 0) {
            return -1;
        }
    }
    return 0;
}

PyDoc_STRVAR(compile_plan_doc,
             "compile_plan(headers, credentials, signals, outlines, json_models, "
             "claims_name, is_for_twin)\n--\n\n"
             "Return a plan for the extractor, as a capsule.\n\n"
             "The first five are tuples: of names; of (path, ((number, keep), ...)) with 0 "
             "for VALUE, 1 for EACH, 2 for PRESENCE; of (path, key). Names, paths and "
             "keys are bytes.");

static PyObject *
compile_plan(PyObject *module, PyObject *arguments)
{
    (void)module;
    PyObject *lists[AUTHZ_HEADER_LISTS], *outlines, *models;
    PyObject *claims_name;
    int is_for_twin;
    if (!PyArg_ParseTuple(arguments, "O!O!O!O!O!Sp:compile_plan", &PyTuple_Type,
                          &lists[AUTHZ_HEADERS], &PyTuple_Type,
                          &lists[AUTHZ_CREDENTIALS], &PyTuple_Type,
                          &lists[AUTHZ_SIGNALS], &PyTuple_Type, &outlines,
                          &PyTuple_Type, &models, &claims_name, &is_for_twin)) {
        return NULL;
    }
    PyObject *capsule = NULL;
    authz_span *names[AUTHZ_HEADER_LISTS] = {NULL};
    authz_outline *outline_items = NULL;
    authz_json_model *model_items = NULL;
    authz_plan_source source = {.is_for_twin = is_for_twin != 0};
    if (authz_bytes_of(claims_name, &source.claims_name) < 0) {
        return NULL;
    }
    for (size_t list = 0; list < AUTHZ_HEADER_LISTS; list++) {
        if (names_of(lists[list], &names[list], &source.lists[list].count) < 0) {
            goto done;
        }
        source.lists[list].names = names[list];
    }
    if (outlines_of(outlines, &outline_items, &source.outline_count) < 0
        || models_of(models, &model_items, &source.json_model_count) < 0) {
        goto done;
    }
    source.outlines = outline_items;
    source.json_models = model_items;
    authz_allocator allocator = authz_system_allocator();
    authz_plan *plan;
    switch (authz_plan_make(&source, &allocator, &plan)) {
    case AUTHZ_PLAN_OK:
        capsule = PyCapsule_New(plan, PLAN_CAPSULE, free_plan);
        if (capsule == NULL) {
            authz_plan_free(plan);
        }
        break;
    case AUTHZ_PLAN_TOO_LARGE:
        PyErr_SetString(PyExc_OverflowError, "the plan is too large");
        break;
    case AUTHZ_PLAN_NO_MEMORY:
        PyErr_NoMemory();
        break;
    }
done:
    for (size_t list = 0; list < AUTHZ_HEADER_LISTS; list++) {
        PyMem_Free(names[list]);
    }
    if (outline_items != NULL) {
        for (size_t index = 0; index < source.outline_count; index++) {
            PyMem_Free((void *)(uintptr_t)outline_items[index].fields);
        }
    }
    PyMem_Free(outline_items);
    PyMem_Free(model_items);
    return capsule;
}

/* ---- the extractor ------------------------------------------------------------- */

/* Returns the capsule of `plan` as a new reference, making it if it is new here. */
static PyObject *
capsule_of(extractor *self, PyObject *plan)
{
    if (self->reasons == NULL) {
        /* A finalizer calls what the garbage collector has cleared. */
        PyErr_SetString(PyExc_RuntimeError, "the extractor has been cleared");
        return NULL;
    }
    for (size_t place = 0; place < MAX_PLANS; place++) {
        if (self->plans[place].plan == plan) {
            return Py_NewRef(self->plans[place].capsule);
        }
    }
    PyObject *capsule = PyObject_CallOneArg(self->compile, plan);
    if (capsule == NULL) {
        return NULL;
    }
    if (!PyCapsule_IsValid(capsule, PLAN_CAPSULE)) {
        Py_DECREF(capsule);
        PyErr_SetString(PyExc_TypeError, "this is no compiled plan");
        return NULL;
    }
    plan_entry *entry = &self->plans[self->next_place];
    self->next_place = (self->next_place + 1) % MAX_PLANS;
    plan_entry old = *entry;
    *entry = (plan_entry){Py_NewRef(plan), Py_NewRef(capsule)};
    Py_XDECREF(old.plan);
    Py_XDECREF(old.capsule);
    return capsule;
}

static void
raise_fault(extractor *self, authz_fault fault)
{
    PyObject *reason =
        PyMapping_GetItemString(self->reasons, authz_fault_reason(fault));
    if (reason == NULL) {
        return;
    }
    PyObject *error = PyObject_CallFunction(self->error, "sO",
                                            authz_fault_message(fault), reason);
    Py_DECREF(reason);
    if (error != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        Py_DECREF(error);
    }
}

static PyObject *
bytes_from(authz_span bytes)
{
    return PyBytes_FromStringAndSize((const char *)bytes.data,
                                     (Py_ssize_t)bytes.length);
}

static PyObject *
text_from(authz_span bytes)
{
    return PyUnicode_DecodeUTF8((const char *)bytes.data, (Py_ssize_t)bytes.length,
                                NULL);
}

/* Returns Annotations. Its own __init__ is Python, and takes longer than the rest of
 * the extraction: its two slots are set as a frozen dataclass sets them itself. */
static PyObject *
make_annotations(extractor *self, PyObject *request_id, PyObject *source)
{
    PyTypeObject *type = (PyTypeObject *)self->annotations;
    PyObject *made = type->tp_new(type, self->no_arguments, NULL);
    if (made == NULL) {
        return NULL;
    }
    if (PyObject_GenericSetAttr(made, self->request_id_name, request_id) < 0
        || PyObject_GenericSetAttr(made, self->source_name, source) < 0) {
        Py_DECREF(made);
        return NULL;
    }
    return made;
}

/* Returns (key, Annotations) of the answer that the extraction holds. */
static PyObject *
make_answer(extractor *self)
{
    authz_extraction *extraction = &self->extraction;
    PyObject *annotations = NULL, *answer = NULL;
    /* None of these three is watched by the garbage collector, so nothing else runs
     * until they have been made, and the buffers may be used again. */
    PyObject *key = bytes_from(extraction->key);
    PyObject *request_id = text_from(extraction->request_id);
    PyObject *source = text_from(extraction->source);
    authz_extraction_trim(extraction, KEPT_BUFFER_BYTES);
    if (key != NULL && request_id != NULL && source != NULL) {
        annotations = make_annotations(self, request_id, source);
    }
    if (annotations != NULL) {
        answer = PyTuple_Pack(2, key, annotations);
    }
    Py_XDECREF(annotations);
    Py_XDECREF(source);
    Py_XDECREF(request_id);
    Py_XDECREF(key);
    return answer;
}

PyDoc_STRVAR(extract_doc,
             "extract($self, raw, plan, /)\n--\n\n"
             "Return the canonical facts in `raw` and what the audit wants beside them.\n\n"
             "The same as the twin for whatever bytes, its exceptions too.");

static PyObject *
extractor_extract(PyObject *object, PyObject *const *arguments, Py_ssize_t count)
{
    extractor *self = (extractor *)object;
    if (count != 2) {
        PyErr_Format(PyExc_TypeError, "extract() takes 2 arguments (%zd given)", count);
        return NULL;
    }
    authz_span raw;
    if (authz_bytes_of(arguments[0], &raw) < 0) {
        return NULL;
    }
    PyObject *capsule = capsule_of(self, arguments[1]);
    if (capsule == NULL) {
        return NULL;
    }
    authz_extract_status status = authz_extract(
        PyCapsule_GetPointer(capsule, PLAN_CAPSULE), raw, &self->extraction);
    authz_fault fault = self->extraction.fault;
    PyObject *answer = NULL;
    switch (status) {
    case AUTHZ_EXTRACT_OK:
        answer = make_answer(self);
        break;
    case AUTHZ_EXTRACT_REFUSED:
        authz_extraction_trim(&self->extraction, KEPT_BUFFER_BYTES);
        raise_fault(self, fault);
        break;
    case AUTHZ_EXTRACT_ASK_TWIN:
        authz_extraction_trim(&self->extraction, KEPT_BUFFER_BYTES);
        answer = PyObject_Vectorcall(self->twin, arguments, 2, NULL);
        break;
    case AUTHZ_EXTRACT_NO_MEMORY:
        authz_extraction_trim(&self->extraction, KEPT_BUFFER_BYTES);
        PyErr_NoMemory();
        break;
    }
    Py_DECREF(capsule);
    return answer;
}

PyDoc_STRVAR(answers_doc,
             "answers($self, raw, plan, /)\n--\n\n"
             "Return whether `extract` answers from here, and need not ask the twin.");

static PyObject *
extractor_answers(PyObject *object, PyObject *const *arguments, Py_ssize_t count)
{
    extractor *self = (extractor *)object;
    if (count != 2) {
        PyErr_Format(PyExc_TypeError, "answers() takes 2 arguments (%zd given)", count);
        return NULL;
    }
    authz_span raw;
    if (authz_bytes_of(arguments[0], &raw) < 0) {
        return NULL;
    }
    PyObject *capsule = capsule_of(self, arguments[1]);
    if (capsule == NULL) {
        return NULL;
    }
    authz_extract_status status = authz_extract(
        PyCapsule_GetPointer(capsule, PLAN_CAPSULE), raw, &self->extraction);
    authz_extraction_trim(&self->extraction, KEPT_BUFFER_BYTES);
    Py_DECREF(capsule);
    return PyBool_FromLong(status != AUTHZ_EXTRACT_ASK_TWIN);
}

static int
extractor_traverse(PyObject *object, visitproc visit, void *arg)
{
    extractor *self = (extractor *)object;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->compile);
    Py_VISIT(self->twin);
    Py_VISIT(self->annotations);
    Py_VISIT(self->error);
    Py_VISIT(self->reasons);
    for (size_t place = 0; place < MAX_PLANS; place++) {
        Py_VISIT(self->plans[place].plan);
    }
    return 0;
}

static int
extractor_clear(PyObject *object)
{
    extractor *self = (extractor *)object;
    Py_CLEAR(self->compile);
    Py_CLEAR(self->twin);
    Py_CLEAR(self->annotations);
    Py_CLEAR(self->error);
    Py_CLEAR(self->reasons);
    for (size_t place = 0; place < MAX_PLANS; place++) {
        Py_CLEAR(self->plans[place].plan);
        Py_CLEAR(self->plans[place].capsule);
    }
    return 0;
}

static void
extractor_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    extractor_clear(object);
    extractor *self = (extractor *)object;
    Py_XDECREF(self->request_id_name);
    Py_XDECREF(self->source_name);
    Py_XDECREF(self->no_arguments);
    authz_extraction_release(&self->extraction);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyObject *
extractor_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    static char *names[] = {"compile_plan", "twin",    "annotations",
                            "error",        "reasons", NULL};
    PyObject *compile, *twin, *annotations, *error, *reasons;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "OOO!OO:Extractor", names,
                                     &compile, &twin, &PyType_Type, &annotations,
                                     &error, &reasons)) {
        return NULL;
    }
    extractor *self = (extractor *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    authz_allocator allocator = authz_system_allocator();
    authz_extraction_init(&self->extraction, &allocator, PY_SSIZE_T_MAX);
    self->compile = Py_NewRef(compile);
    self->twin = Py_NewRef(twin);
    self->annotations = Py_NewRef(annotations);
    self->error = Py_NewRef(error);
    self->reasons = Py_NewRef(reasons);
    self->request_id_name = PyUnicode_InternFromString("request_id");
    self->source_name = PyUnicode_InternFromString("source");
    self->no_arguments = PyTuple_New(0);
    if (self->request_id_name == NULL || self->source_name == NULL
        || self->no_arguments == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static PyMethodDef extractor_methods[] = {
    {"extract", (PyCFunction)(void (*)(void))extractor_extract, METH_FASTCALL,
     extract_doc},
    {"answers", (PyCFunction)(void (*)(void))extractor_answers, METH_FASTCALL,
     answers_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(extractor_doc,
             "Extractor(compile_plan, twin, annotations, error, reasons)\n--\n\n"
             "The native extraction.\n\n"
             "Args: from a Plan to its capsule; the Python `extract`; the class "
             "Annotations; the exception of a refusal, made from a message and a reason; "
             "the reasons by their codes.");

static PyType_Slot extractor_slots[] = {
    {Py_tp_doc, (void *)(uintptr_t)extractor_doc},
    {Py_tp_new, extractor_new},
    {Py_tp_dealloc, extractor_dealloc},
    {Py_tp_traverse, extractor_traverse},
    {Py_tp_clear, extractor_clear},
    {Py_tp_methods, extractor_methods},
    {0, NULL},
};

static PyType_Spec extractor_spec = {
    .name = "authz_server._native._core.Extractor",
    .basicsize = sizeof(extractor),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = extractor_slots,
};

static PyMethodDef functions[] = {
    {"compile_plan", compile_plan, METH_VARARGS, compile_plan_doc},
    {NULL, NULL, 0, NULL},
};

int
authz_bind_extract(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &extractor_spec, NULL);
    if (type == NULL) {
        return -1;
    }
    int added = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return added < 0 ? -1 : PyModule_AddFunctions(module, functions);
}

const authz_plan *
authz_plan_of(PyObject *capsule)
{
    return PyCapsule_GetPointer(capsule, PLAN_CAPSULE);
}
