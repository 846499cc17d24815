/* Listener: the gRPC server of the core. Python gives it what it answers from, and does
 * in `work` what it cannot answer, in as many threads as call that. */

#include "bind.h"

#include "listener.h"

typedef struct {
    PyObject_HEAD
    authz_listener *listener; /* NULL once it is freed */
    PyObject *used;           /* a tuple of what the core points into */
    uid_t *uids;
    gid_t *gids;
    authz_span *paths;
    bool is_running;
} listener_object;

static authz_listener *
core_of(PyObject *self)
{
    return ((listener_object *)self)->listener;
}

/* ---- making ------------------------------------------------------------------------- */

/* The numbers of a tuple; NULL with an exception set. PyMem_Free ends them. */
static uint32_t *
ids_of(PyObject *tuple)
{
    const Py_ssize_t count = PyTuple_GET_SIZE(tuple);
    uint32_t *ids = PyMem_Calloc((size_t)count + 1, sizeof *ids);
    if (ids == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        const unsigned long id = PyLong_AsUnsignedLong(PyTuple_GET_ITEM(tuple, i));
        if (id > UINT32_MAX || (id == (unsigned long)-1 && PyErr_Occurred())) {
            if (!PyErr_Occurred()) {
                PyErr_SetString(PyExc_OverflowError, "no such user or group");
            }
            PyMem_Free(ids);
            return NULL;
        }
        ids[i] = (uint32_t)id;
    }
    return ids;
}

_Static_assert(sizeof(uid_t) == sizeof(uint32_t) && sizeof(gid_t) == sizeof(uint32_t),
               "users and groups are numbers of 32 bits");

static int
read_peers(listener_object *self, PyObject *uids, PyObject *gids, authz_peers *peers)
{
    self->uids = ids_of(uids);
    self->gids = self->uids != NULL ? ids_of(gids) : NULL;
    if (self->gids == NULL) {
        return -1;
    }
    *peers = (authz_peers){
        .uids = self->uids,
        .uid_count = (size_t)PyTuple_GET_SIZE(uids),
        .gids = self->gids,
        .gid_count = (size_t)PyTuple_GET_SIZE(gids),
    };
    peers->are_listed = peers->uid_count + peers->gid_count > 0;
    return 0;
}

static int
read_paths(listener_object *self, PyObject *tuple, authz_paths *paths)
{
    const Py_ssize_t count = PyTuple_GET_SIZE(tuple);
    self->paths = PyMem_Calloc((size_t)count + 1, sizeof *self->paths);
    if (self->paths == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        if (authz_bytes_of(PyTuple_GET_ITEM(tuple, i), &self->paths[i]) < 0) {
            return -1;
        }
    }
    paths->host = self->paths;
    paths->host_count = (uint32_t)count;
    return 0;
}

static int
read_bounds(PyObject *tuple, double bounds_s[AUTHZ_MAX_BUCKETS], size_t *count)
{
    *count = (size_t)PyTuple_GET_SIZE(tuple);
    if (*count > AUTHZ_MAX_BUCKETS) {
        PyErr_SetString(PyExc_ValueError, "there are too many bounds");
        return -1;
    }
    for (size_t i = 0; i < *count; i++) {
        bounds_s[i] = PyFloat_AsDouble(PyTuple_GET_ITEM(tuple, (Py_ssize_t)i));
        if (bounds_s[i] == -1.0 && PyErr_Occurred()) {
            return -1;
        }
    }
    return 0;
}

static PyObject *
listener_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    static char *names[] = {
        "listening",  "loops",      "max_connections", "max_streams", "max_message_bytes",
        "max_open",   "patience_s", "peer_uids",       "peer_gids",   "check_path",
        "host_paths", "plan",       "cache",           "audit",       "seed",
        "denial",     "bounds_s",   NULL};
    int listening;
    unsigned char loops;
    unsigned int max_connections, max_streams;
    Py_ssize_t max_message_bytes, max_open;
    double patience_s;
    PyObject *uids, *gids, *check_path, *host_paths, *plan, *cache, *audit, *seed, *denial,
        *bounds;
    if (!PyArg_ParseTupleAndKeywords(
            arguments, keywords, "$ibIInndO!O!SO!OOOSSO!:Listener", names, &listening,
            &loops, &max_connections, &max_streams, &max_message_bytes, &max_open,
            &patience_s, &PyTuple_Type, &uids, &PyTuple_Type, &gids, &check_path,
            &PyTuple_Type, &host_paths, &plan, &cache, &audit, &seed, &denial,
            &PyTuple_Type, &bounds)) {
        return NULL;
    }
    PyObject *module = PyType_GetModule(type);
    if (loops == 0 || loops > AUTHZ_MAX_LOOPS || max_connections == 0 ||
        max_streams == 0 || max_message_bytes <= 0 || max_open < 0 ||
        max_message_bytes > INT32_MAX / 8 || PyBytes_GET_SIZE(seed) != AUTHZ_SEED_BYTES ||
        PyBytes_GET_SIZE(denial) == 0) {
        PyErr_SetString(PyExc_ValueError, "a listener cannot be so large or so small");
        return NULL;
    }
    double bounds_s[AUTHZ_MAX_BUCKETS];
    const authz_allocator allocator = authz_system_allocator();
    authz_listener_source source = {
        .allocator = &allocator,
        .listening = listening,
        .loops = loops,
        .max_connections = max_connections,
        .max_streams = max_streams,
        .max_message_bytes = (size_t)max_message_bytes,
        .max_open = (size_t)max_open,
        .patience_s = patience_s,
        .plan = authz_plan_of(plan),
        .cache = authz_cache_of(module, cache),
        .audit = NULL,
        .bounds_s = bounds_s,
    };
    if (source.plan == NULL || source.cache == NULL ||
        (source.audit = authz_audit_file_of(module, audit)) == NULL ||
        authz_bytes_of(check_path, &source.paths.check) < 0 ||
        authz_bytes_of(denial, &source.denial) < 0 ||
        read_bounds(bounds, bounds_s, &source.bound_count) < 0) {
        return NULL;
    }
    memcpy(source.seed, PyBytes_AS_STRING(seed), AUTHZ_SEED_BYTES);
    listener_object *self = (listener_object *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->used =
        PyTuple_Pack(6, check_path, host_paths, plan, cache, audit, denial);
    if (self->used == NULL || read_peers(self, uids, gids, &source.peers) < 0 ||
        read_paths(self, host_paths, &source.paths) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    self->listener = authz_listener_new(&source);
    if (self->listener == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static int
listener_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((listener_object *)self)->used);
    return 0;
}

static void
stop(listener_object *self)
{
    if (self->is_running) {
        self->is_running = false;
        Py_BEGIN_ALLOW_THREADS
        authz_listener_stop(self->listener);
        Py_END_ALLOW_THREADS
    }
}

static void
listener_dealloc(PyObject *object)
{
    listener_object *self = (listener_object *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    stop(self);
    if (self->listener != NULL) {
        authz_listener_free(self->listener);
    }
    PyMem_Free(self->uids);
    PyMem_Free(self->gids);
    PyMem_Free(self->paths);
    Py_XDECREF(self->used);
    type->tp_free(object);
    Py_DECREF(type);
}

/* ---- its life ----------------------------------------------------------------------- */

static PyObject *
listener_start(PyObject *self, PyObject *nothing)
{
    (void)nothing;
    if (!authz_listener_start(core_of(self))) {
        PyErr_SetString(PyExc_OSError, "cannot start a thread");
        return NULL;
    }
    ((listener_object *)self)->is_running = true;
    Py_RETURN_NONE;
}

static PyObject *
listener_drain(PyObject *self, PyObject *nothing)
{
    (void)nothing;
    authz_listener_drain(core_of(self));
    Py_RETURN_NONE;
}

static PyObject *
listener_stop(PyObject *self, PyObject *nothing)
{
    (void)nothing;
    stop((listener_object *)self);
    Py_RETURN_NONE;
}

static PyObject *
listener_open(PyObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromSize_t(authz_listener_open(core_of(self)));
}

/* ---- decisions ---------------------------------------------------------------------- */

static PyObject *
listener_hold(PyObject *self, PyObject *arguments)
{
    const char *revision;
    Py_ssize_t length;
    double until_s;
    if (!PyArg_ParseTuple(arguments, "s#d:hold", &revision, &length, &until_s)) {
        return NULL;
    }
    authz_standing_set(authz_listener_standing(core_of(self)),
                       (authz_span){(const uint8_t *)revision, (size_t)length}, until_s);
    Py_RETURN_NONE;
}

static PyObject *
listener_let_go(PyObject *self, PyObject *nothing)
{
    (void)nothing;
    authz_standing_close(authz_listener_standing(core_of(self)));
    Py_RETURN_NONE;
}

/* The answer of `decide` to a miss. One that cannot be had stays empty, which is a denial
 * in the end; what went wrong goes to sys.unraisablehook. */
static void
ask(PyObject *decide, authz_miss *miss, authz_wanted wanted)
{
    /* "y#" makes None of a null pointer. */
    PyObject *answer = PyObject_CallFunction(
        decide, "y#ddi", miss->raw.data != NULL ? (const char *)miss->raw.data : "",
        (Py_ssize_t)miss->raw.length,
        miss->arrived.wall_s, miss->arrived.steady_s, (int)wanted);
    authz_span bytes;
    if (answer == NULL || authz_bytes_of(answer, &bytes) < 0) {
        PyErr_WriteUnraisable(decide);
    } else if (!authz_buffer_bytes(&miss->answer, bytes)) {
        miss->answer.length = 0;
    }
    Py_XDECREF(answer);
}

static PyObject *
work(PyObject *self, PyObject *decide, authz_duty duty)
{
    authz_misses *misses = authz_listener_misses(core_of(self));
    for (;;) {
        /* Without letting go of the interpreter, for which the other workers wait. */
        authz_wanted wanted;
        authz_miss *miss = authz_misses_take(misses, duty, &wanted);
        if (miss != NULL) {
            ask(decide, miss, wanted);
            authz_misses_answer(misses, miss, wanted);
            continue;
        }
        bool is_there_one;
        Py_BEGIN_ALLOW_THREADS
        is_there_one = authz_misses_await(misses, duty);
        Py_END_ALLOW_THREADS
        if (!is_there_one) {
            Py_RETURN_NONE;
        }
    }
}

static PyObject *
listener_work(PyObject *self, PyObject *decide)
{
    return work(self, decide, AUTHZ_DECIDES);
}

static PyObject *
listener_refuse(PyObject *self, PyObject *decide)
{
    return work(self, decide, AUTHZ_REFUSES);
}

/* ---- calls of the host ---------------------------------------------------------------- */

static PyObject *
listener_descriptor(PyObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromLong(authz_listener_happenings(core_of(self))->wake);
}

static PyObject *
listener_take(PyObject *self, PyObject *nothing)
{
    (void)nothing;
    authz_happenings *happenings = authz_listener_happenings(core_of(self));
    authz_happening *happening = authz_happenings_take(happenings);
    if (happening == NULL) {
        Py_RETURN_NONE;
    }
    PyObject *result = Py_BuildValue(
        "KiIy#", (unsigned long long)happening->call, (int)happening->kind,
        happening->method,
        happening->message.data != NULL ? (const char *)happening->message.data : "",
        (Py_ssize_t)happening->message.length);
    authz_happening_free(happenings, happening);
    return result;
}

static PyObject *
say(PyObject *self, unsigned long long call, authz_word_kind kind, authz_span text,
    uint8_t status, size_t taken)
{
    authz_listener *listener = core_of(self);
    authz_word *word =
        authz_word_new(authz_listener_allocator(listener), call, kind, text);
    if (word == NULL) {
        return PyErr_NoMemory();
    }
    word->status = status;
    word->taken = taken;
    authz_listener_say(listener, word);
    Py_RETURN_NONE;
}

static PyObject *
listener_say(PyObject *self, PyObject *arguments)
{
    unsigned long long call;
    const char *message;
    Py_ssize_t length;
    if (!PyArg_ParseTuple(arguments, "Ky#:say", &call, &message, &length)) {
        return NULL;
    }
    return say(self, call, AUTHZ_SAY_MESSAGE,
               (authz_span){(const uint8_t *)message, (size_t)length}, 0, 0);
}

static PyObject *
listener_end(PyObject *self, PyObject *arguments)
{
    unsigned long long call;
    unsigned char status;
    const char *text;
    Py_ssize_t length;
    if (!PyArg_ParseTuple(arguments, "Kbs#:end", &call, &status, &text, &length)) {
        return NULL;
    }
    return say(self, call, AUTHZ_SAY_END,
               (authz_span){(const uint8_t *)text, (size_t)length}, status, 0);
}

static PyObject *
listener_taken(PyObject *self, PyObject *arguments)
{
    unsigned long long call;
    Py_ssize_t length;
    if (!PyArg_ParseTuple(arguments, "Kn:taken", &call, &length)) {
        return NULL;
    }
    return say(self, call, AUTHZ_SAY_TAKEN, (authz_span){NULL, 0}, 0, (size_t)length);
}

/* ---- what is told of it ---------------------------------------------------------------- */

static PyObject *
tuple_of(const uint64_t *numbers, size_t count)
{
    PyObject *tuple = PyTuple_New((Py_ssize_t)count);
    for (size_t i = 0; tuple != NULL && i < count; i++) {
        PyObject *number = PyLong_FromUnsignedLongLong(numbers[i]);
        if (number == NULL) {
            Py_CLEAR(tuple);
        } else {
            PyTuple_SET_ITEM(tuple, (Py_ssize_t)i, number);
        }
    }
    return tuple;
}

static PyObject *
listener_counts(PyObject *self, PyObject *nothing)
{
    (void)nothing;
    authz_counts counts;
    authz_listener_count(core_of(self), &counts);
    PyObject *reasons = tuple_of(counts.reasons, AUTHZ_REASONS);
    PyObject *buckets = tuple_of(counts.buckets, AUTHZ_MAX_BUCKETS + 1);
    if (reasons == NULL || buckets == NULL) {
        Py_XDECREF(reasons);
        Py_XDECREF(buckets);
        return NULL;
    }
    return Py_BuildValue("NNd", reasons, buckets, counts.sum_s);
}

static PyObject *
listener_refused(PyObject *self, PyObject *nothing)
{
    (void)nothing;
    const authz_refused_peers refused = authz_listener_refused(core_of(self));
    return Py_BuildValue("KiII", (unsigned long long)refused.count, (int)refused.pid,
                         (unsigned int)refused.uid, (unsigned int)refused.gid);
}

PyDoc_STRVAR(
    listener_doc,
    "Listener(*, listening, loops, ...)\n--\n\n"
    "A gRPC server over plain HTTP/2 for the Authorization service.\n\n"
    "Args: a non-blocking listening socket's descriptor, which it owns from then on; "
    "threads; limits; seconds for a request to come whole and for an answer to be taken; "
    "users and groups that may connect, empty for all; the path of Check; those of calls "
    "that Python answers; the plan, cache and file that hits are answered by; a seed; the "
    "CheckResponse where there is no memory for any other; the bounds of the latencies "
    "that are counted.");
PyDoc_STRVAR(start_doc, "start($self)\n--\n\nAccept from now on.");
PyDoc_STRVAR(drain_doc, "drain($self)\n--\n\n"
                        "Accept no more, and tell peers to go; what is open goes on.");
PyDoc_STRVAR(stop_doc, "stop($self)\n--\n\n"
                       "Cut every connection; `work` returns once all is answered.");
PyDoc_STRVAR(hold_doc, "hold($self, revision, until_s, /)\n--\n\n"
                       "Answer from memory what was decided under `revision`, until that "
                       "second of the steady clock.");
PyDoc_STRVAR(let_go_doc, "let_go($self)\n--\n\nAnswer nothing from memory.");
PyDoc_STRVAR(work_doc,
             "work($self, decide, /)\n--\n\n"
             "Call `decide(raw, wall_s, steady_s, wanted)` for each check that memory has "
             "no answer to, until the listener is stopped; it returns the CheckResponse. "
             "`wanted` is 0: a decision.");
PyDoc_STRVAR(refuse_doc,
             "refuse($self, decide, /)\n--\n\n"
             "As `work`, for checks that are only to be denied: `wanted` is 1 because too "
             "many decisions are open, 2 because the proxy gave up, and then `raw` is "
             "empty if it was long.");
PyDoc_STRVAR(take_doc, "take($self)\n--\n\n"
                       "Return what has happened to a call of Python's, the oldest first: "
                       "its number, 0 opened, 1 message, 2 ended or 3 gone, the place of "
                       "its path, the message. None: nothing more has.");
PyDoc_STRVAR(say_doc, "say($self, call, message, /)\n--\n\nSend a message.");
PyDoc_STRVAR(end_doc, "end($self, call, status, text, /)\n--\n\n"
                      "End a call with a gRPC status.");
PyDoc_STRVAR(taken_doc, "taken($self, call, length, /)\n--\n\n"
                        "Let the peer send more: a message of that length is taken.");
PyDoc_STRVAR(counts_doc, "counts($self)\n--\n\n"
                         "Return the remembered answers by code of their reason, by bound "
                         "of their latency, and the sum of the latencies in seconds.");
PyDoc_STRVAR(refused_doc, "refused($self)\n--\n\n"
                          "Return how many peers were refused, and the last one's process, "
                          "user and group.");
PyDoc_STRVAR(open_doc, "Connections that are open.");
PyDoc_STRVAR(descriptor_doc, "Readable when `take` has something.");

static PyMethodDef listener_methods[] = {
    {"start", listener_start, METH_NOARGS, start_doc},
    {"drain", listener_drain, METH_NOARGS, drain_doc},
    {"stop", listener_stop, METH_NOARGS, stop_doc},
    {"hold", listener_hold, METH_VARARGS, hold_doc},
    {"let_go", listener_let_go, METH_NOARGS, let_go_doc},
    {"work", listener_work, METH_O, work_doc},
    {"refuse", listener_refuse, METH_O, refuse_doc},
    {"take", listener_take, METH_NOARGS, take_doc},
    {"say", listener_say, METH_VARARGS, say_doc},
    {"end", listener_end, METH_VARARGS, end_doc},
    {"taken", listener_taken, METH_VARARGS, taken_doc},
    {"counts", listener_counts, METH_NOARGS, counts_doc},
    {"refused", listener_refused, METH_NOARGS, refused_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef listener_properties[] = {
    {"open", listener_open, NULL, open_doc, NULL},
    {"descriptor", listener_descriptor, NULL, descriptor_doc, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot listener_slots[] = {
    {Py_tp_doc, (void *)(uintptr_t)listener_doc},
    {Py_tp_new, listener_new},
    {Py_tp_dealloc, listener_dealloc},
    {Py_tp_traverse, listener_traverse},
    {Py_tp_methods, listener_methods},
    {Py_tp_getset, listener_properties},
    {0, NULL},
};

static PyType_Spec listener_spec = {
    .name = "authz_server._native._core.Listener",
    .basicsize = sizeof(listener_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = listener_slots,
};

int
authz_bind_listener(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &listener_spec, NULL);
    if (type == NULL) {
        return -1;
    }
    const int added = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return added;
}
