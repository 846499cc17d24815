#include "extract_walk.h"
#include "utf8.h"

enum {
    FACTS_VERSION = 4,
    FLAG_GRPC = 1,
    FLAG_GATED = 2
};

#define MAX_REQUEST_ID_BYTES 128

/* The rule of Envoy's Grpc::Common::hasGrpcContentType. */
static bool
is_grpc(const authz_walk *at)
{
    const authz_span grpc = AUTHZ_SPAN("application/grpc");
    authz_span type = authz_walk_value(at, AUTHZ_CONTENT_TYPE);
    if (type.data == NULL || type.length < grpc.length
        || memcmp(type.data, grpc.data, grpc.length) != 0) {
        return false;
    }
    if (type.length == grpc.length) {
        return true;
    }
    uint8_t next = type.data[grpc.length];
    return next == '+' || next == ';';
}

static bool
put_u16(authz_walk *at, uint16_t value)
{
    return authz_buffer_u16(&at->to->out, value)
           || authz_walk_stop(at, AUTHZ_EXTRACT_NO_MEMORY);
}

static bool
put_headers(authz_walk *at, size_t list)
{
    const authz_plan *plan = at->plan;
    const authz_header_slot *slots = authz_walk_slots(at);
    const authz_header_value *values = authz_walk_values(at);
    uint16_t present = 0;
    for (uint32_t index = 0; index < plan->lists[list].count; index++) {
        present =
            (uint16_t)(present + (slots[plan->lists[list].names[index]].count > 0));
    }
    if (!put_u16(at, present)) {
        return false;
    }
    for (uint32_t index = 0; index < plan->lists[list].count; index++) {
        uint32_t name = plan->lists[list].names[index];
        const authz_header_slot *slot = &slots[name];
        if (slot->count == 0) {
            continue;
        }
        if (slot->count > UINT16_MAX) {
            return authz_walk_stop(at, AUTHZ_EXTRACT_ASK_TWIN);
        }
        if (!authz_put_scalar(at, plan->names.keys[name])
            || !put_u16(at, (uint16_t)slot->count)) {
            return false;
        }
        uint32_t index_of = slot->first;
        while (index_of != AUTHZ_NO_VALUE) {
            const authz_header_value *value = &values[index_of];
            if (!authz_put_scalar(at, (authz_span){value->data, value->length})) {
                return false;
            }
            index_of = value->next;
        }
    }
    return true;
}

/* Writes the claims, as a scalar whose length is known afterwards. */
static bool
put_claims(authz_walk *at)
{
    if (!authz_put_scalar(at, AUTHZ_EMPTY)) {
        return false;
    }
    if (at->claims.data == NULL) {
        return true;
    }
    authz_buffer *out = &at->to->out;
    size_t begin = out->length;
    authz_claims_status status = authz_claims_put(at->claims, out);
    if (status != AUTHZ_CLAIMS_OK) {
        return authz_walk_stop(at, status == AUTHZ_CLAIMS_NO_MEMORY
                                       ? AUTHZ_EXTRACT_NO_MEMORY
                                       : AUTHZ_EXTRACT_ASK_TWIN);
    }
    size_t length = out->length - begin;
    if (length > UINT32_MAX) {
        return authz_walk_stop(at, AUTHZ_EXTRACT_ASK_TWIN);
    }
    for (size_t byte = 0; byte < 4; byte++) {
        out->data[begin - 1 - byte] = (uint8_t)(length >> (8 * byte));
    }
    return true;
}

static bool
put_facts(authz_walk *at)
{
    authz_span path = authz_or_empty(at->http[AUTHZ_HTTP_PATH]);
    const authz_span scalars[] = {
        authz_or_empty(at->peers[AUTHZ_SOURCE][AUTHZ_PEER_PRINCIPAL]),
        authz_or_empty(at->peers[AUTHZ_SOURCE][AUTHZ_PEER_CERTIFICATE]),
        authz_or_empty(at->peers[AUTHZ_DESTINATION][AUTHZ_PEER_PRINCIPAL]),
        authz_or_empty(at->upstream),
        authz_or_empty(at->http[AUTHZ_HTTP_METHOD]),
        path,
        authz_or_empty(at->http[AUTHZ_HTTP_HOST]),
    };
    authz_buffer *out = &at->to->out;
    if (!authz_buffer_u8(out, FACTS_VERSION)) {
        return authz_walk_stop(at, AUTHZ_EXTRACT_NO_MEMORY);
    }
    for (size_t index = 0; index < sizeof scalars / sizeof scalars[0]; index++) {
        if (!authz_put_scalar(at, scalars[index])) {
            return false;
        }
    }
    if (!put_claims(at) || !authz_put_scalar(at, AUTHZ_EMPTY /* the document */)) {
        return false;
    }
    uint8_t flags = (uint8_t)((is_grpc(at) ? FLAG_GRPC : 0)
                              | (authz_walk_is_gated(at) ? FLAG_GATED : 0));
    if (!authz_buffer_u8(out, flags)) {
        return authz_walk_stop(at, AUTHZ_EXTRACT_NO_MEMORY);
    }
    for (size_t list = 0; list < AUTHZ_HEADER_LISTS; list++) {
        if (!put_headers(at, list)) {
            return false;
        }
    }
    return authz_put_body(at, path);
}

/* Appends `bytes` with what is no UTF-8 as \xNN: Python's "backslashreplace". */
static bool
put_text(authz_walk *at, authz_span bytes)
{
    static const char digits[] = "0123456789abcdef";
    const uint8_t *from = bytes.data, *end = from + bytes.length;
    while (from < end) {
        const uint8_t *begin = from;
        from = authz_utf8_end(from, end);
        if (!authz_put(at, (authz_span){begin, (size_t)(from - begin)})) {
            return false;
        }
        if (from < end) {
            uint8_t escape[4] = {'\\', 'x', (uint8_t)digits[*from >> 4],
                                 (uint8_t)digits[*from & 15]};
            if (!authz_put(at, (authz_span){escape, sizeof escape})) {
                return false;
            }
            from++;
        }
    }
    return true;
}

/* Appends "host:port". */
static bool
put_source(authz_walk *at)
{
    authz_span host = authz_or_empty(at->address_host);
    bool has_colon = memchr(host.data, ':', host.length) != NULL;
    uint8_t digits[20];
    size_t begin = sizeof digits;
    uint64_t port = at->address_port;
    do {
        digits[--begin] = (uint8_t)('0' + port % 10);
        port /= 10;
    } while (port > 0);
    return (!has_colon || authz_put(at, AUTHZ_SPAN("["))) && put_text(at, host)
           && authz_put(at, has_colon ? AUTHZ_SPAN("]:") : AUTHZ_SPAN(":"))
           && authz_put(at, (authz_span){digits + begin, sizeof digits - begin});
}

/* Writes the answer: key, request id and source, one behind the other. */
static bool
put_answer(authz_walk *at)
{
    authz_buffer *out = &at->to->out;
    if (!put_facts(at)) {
        return false;
    }
    size_t key_end = out->length;
    authz_span id = authz_walk_value(at, AUTHZ_REQUEST_ID);
    if (id.data == NULL) {
        id = authz_or_empty(at->http[AUTHZ_HTTP_ID]);
    }
    if (id.length > MAX_REQUEST_ID_BYTES) {
        id.length = MAX_REQUEST_ID_BYTES;
    }
    if (!put_text(at, id)) {
        return false;
    }
    size_t id_end = out->length;
    if (at->has_address && !put_source(at)) {
        return false;
    }
    at->to->key = (authz_span){out->data, key_end};
    at->to->request_id = (authz_span){out->data + key_end, id_end - key_end};
    at->to->source = (authz_span){out->data + id_end, out->length - id_end};
    return true;
}

authz_extract_status
authz_extract(const authz_plan *plan, authz_span raw, authz_extraction *extraction)
{
    extraction->key = extraction->request_id = extraction->source = AUTHZ_EMPTY;
    extraction->fault = AUTHZ_FAULT_NONE;
    if (plan->is_for_twin || raw.length > UINT32_MAX) {
        return AUTHZ_EXTRACT_ASK_TWIN;
    }
    if (raw.length == 0) {
        raw = AUTHZ_EMPTY;
    }
    authz_walk at;
    /* All but the extensions, of which only those that came are read. */
    memset(&at, 0, offsetof(authz_walk, extensions));
    at.plan = plan;
    at.to = extraction;
    at.status = AUTHZ_EXTRACT_OK;
    if (authz_walk_request(&at, raw)) {
        put_answer(&at);
    }
    return at.status;
}

void
authz_extraction_init(authz_extraction *extraction, const authz_allocator *allocator,
                      size_t limit)
{
    *extraction = (authz_extraction){
        .key = AUTHZ_EMPTY,
        .request_id = AUTHZ_EMPTY,
        .source = AUTHZ_EMPTY,
        .allocator = *allocator,
    };
    authz_buffer_init(&extraction->out, &extraction->allocator, limit);
    authz_buffer_init(&extraction->slots, &extraction->allocator, limit);
    authz_buffer_init(&extraction->values, &extraction->allocator, limit);
    authz_buffer_init(&extraction->json.names, &extraction->allocator, limit);
    authz_buffer_init(&extraction->json.texts, &extraction->allocator, limit);
}

void
authz_extraction_trim(authz_extraction *extraction, size_t most)
{
    authz_buffer *const buffers[] = {
        &extraction->out,        &extraction->slots,      &extraction->values,
        &extraction->json.names, &extraction->json.texts,
    };
    for (size_t index = 0; index < sizeof buffers / sizeof buffers[0]; index++) {
        if (buffers[index]->capacity > most) {
            authz_buffer_release(buffers[index]);
        }
    }
    extraction->key = extraction->request_id = extraction->source = AUTHZ_EMPTY;
}

void
authz_extraction_release(authz_extraction *extraction)
{
    authz_extraction_trim(extraction, 0);
}

const char *
authz_fault_reason(authz_fault fault)
{
    return fault == AUTHZ_FAULT_NOT_HTTP ? "request_not_http" : "request_malformed";
}

const char *
authz_fault_message(authz_fault fault)
{
    switch (fault) {
    case AUTHZ_FAULT_VARINT_VALUE:
        return "varint is not minimal or exceeds 64 bits";
    case AUTHZ_FAULT_VARINT_CUT:
        return "varint is cut off or too long";
    case AUTHZ_FAULT_FIELD_NUMBER:
        return "field number is out of range";
    case AUTHZ_FAULT_FIELD_LENGTH:
        return "field is longer than its message";
    case AUTHZ_FAULT_WIRE_TYPE_3:
        return "wire type 3 is not accepted";
    case AUTHZ_FAULT_WIRE_TYPE_4:
        return "wire type 4 is not accepted";
    case AUTHZ_FAULT_WIRE_TYPE_6:
        return "wire type 6 is not accepted";
    case AUTHZ_FAULT_WIRE_TYPE_7:
        return "wire type 7 is not accepted";
    case AUTHZ_FAULT_FIELD_TYPE:
        return "field has another wire type than its definition";
    case AUTHZ_FAULT_MESSAGE_TWICE:
        return "a singular message comes twice";
    case AUTHZ_FAULT_FIELD_TWICE:
        return "a singular field comes twice";
    case AUTHZ_FAULT_EXTENSION_TWICE:
        return "a context extension comes twice";
    case AUTHZ_FAULT_SIZE:
        return "request size is not one number";
    case AUTHZ_FAULT_HEADER_KINDS:
        return "a header has two kinds of value";
    case AUTHZ_FAULT_METADATA_TWICE:
        return "metadata of one filter comes twice";
    case AUTHZ_FAULT_METADATA_DEPTH:
        return "metadata is nested too deeply";
    case AUTHZ_FAULT_METADATA_STRUCT:
        return "metadata is no Struct";
    case AUTHZ_FAULT_METADATA_ENTRY:
        return "metadata has an entry that is none";
    case AUTHZ_FAULT_METADATA_KEY_TWICE:
        return "metadata has a key twice";
    case AUTHZ_FAULT_METADATA_VALUE:
        return "metadata has a value that is not exactly one";
    case AUTHZ_FAULT_METADATA_LIST:
        return "metadata has a list that is none";
    case AUTHZ_FAULT_METADATA_NUMBER:
        return "metadata has a number that JSON has not";
    case AUTHZ_FAULT_METADATA_TEXT:
        return "metadata has text that is not UTF-8";
    case AUTHZ_FAULT_CLAIMS_KIND:
        return "the claims in the metadata are no object";
    case AUTHZ_FAULT_NOT_HTTP:
        return "CheckRequest has no HTTP request";
    case AUTHZ_FAULT_NONE:
        break;
    }
    return "nothing was refused";
}
