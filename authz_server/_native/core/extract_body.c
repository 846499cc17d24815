#include "extract_walk.h"

/* facts.canonical.BodyState */
enum {
    BODY_UNREAD = 0,
    BODY_ABSENT = 1,
    BODY_PARTIAL = 2,
    BODY_COMPRESSED = 3,
    BODY_MALFORMED = 4,
    BODY_COMPLETE = 5
};

#define MAX_MESSAGE_FIELDS 4096
#define MAX_KEPT_FIELDS 16
#define FRAME_PREFIX_BYTES 5
#define JSON_VALUE_FIELD 1
#define SIZE_UNKNOWN UINT64_MAX

static bool
is_marked_partial(const authz_walk *at)
{
    const authz_header_slot *slot = &authz_walk_slots(at)[AUTHZ_PARTIAL_BODY];
    uint32_t index = slot->count > 0 ? slot->first : AUTHZ_NO_VALUE;
    while (index != AUTHZ_NO_VALUE) {
        const authz_header_value *value = &authz_walk_values(at)[index];
        if (!authz_span_equal((authz_span){value->data, value->length},
                              AUTHZ_SPAN("false"))) {
            return true;
        }
        index = value->next;
    }
    return false;
}

static uint8_t
lower(uint8_t byte)
{
    return byte >= 'A' && byte <= 'Z' ? (uint8_t)(byte | 0x20) : byte;
}

/* Whether a Content-Encoding changes what the bytes mean. */
static bool
is_coded(const authz_walk *at)
{
    static const char identity[] = "identity";
    const authz_header_slot *slot = &authz_walk_slots(at)[AUTHZ_CONTENT_ENCODING];
    uint32_t index = slot->count > 0 ? slot->first : AUTHZ_NO_VALUE;
    while (index != AUTHZ_NO_VALUE) {
        const authz_header_value *value = &authz_walk_values(at)[index];
        if (value->length != sizeof identity - 1) {
            return true;
        }
        for (size_t byte = 0; byte < value->length; byte++) {
            if (lower(value->data[byte]) != (uint8_t)identity[byte]) {
                return true;
            }
        }
        index = value->next;
    }
    return false;
}

/* Writes a body without fields. */
static bool
put_body(authz_walk *at, uint8_t state)
{
    const uint8_t bytes[3] = {state, 0, 0};
    return authz_buffer_bytes(&at->to->out, (authz_span){bytes, sizeof bytes})
           || authz_walk_stop(at, AUTHZ_EXTRACT_NO_MEMORY);
}

static bool
put_field(authz_walk *at, uint32_t number, authz_span value)
{
    return (authz_buffer_u32(&at->to->out, number)
            || authz_walk_stop(at, AUTHZ_EXTRACT_NO_MEMORY))
           && authz_put_scalar(at, value);
}

static const authz_kept_field *
find_kept(const authz_outline *outline, uint32_t number)
{
    for (size_t index = 0; index < outline->count; index++) {
        if (outline->fields[index].number == number) {
            return &outline->fields[index];
        }
    }
    return NULL;
}

/* Writes the kept fields of a plain message, behind the state and count of a body.
 * `*is_malformed` if it is none that everybody reads in the same way. */
static bool
put_message(authz_walk *at, const authz_outline *outline, authz_span message,
            uint16_t *kept_count, bool *is_malformed)
{
    authz_reader reader = authz_reader_of(message);
    authz_field field;
    uint64_t seen = 0;
    size_t count = 0;
    *kept_count = 0;
    *is_malformed = true;
    while (authz_reader_next(&reader, &field)) {
        if (++count > MAX_MESSAGE_FIELDS) {
            return true;
        }
        const authz_kept_field *kept = find_kept(outline, field.number);
        if (kept == NULL) {
            continue;
        }
        if (field.type != AUTHZ_WIRE_LEN) {
            return true;
        }
        uint64_t bit = (uint64_t)1 << (kept - outline->fields);
        bool is_first = (seen & bit) == 0;
        seen |= bit;
        if (kept->keep == AUTHZ_KEEP_PRESENCE) {
            if (is_first) {
                if (!put_field(at, field.number, AUTHZ_EMPTY)) {
                    return false;
                }
                ++*kept_count;
            }
            continue;
        }
        if (kept->keep == AUTHZ_KEEP_VALUE && !is_first) {
            return true;
        }
        if (field.span.length > AUTHZ_MAX_VALUE_BYTES
            || *kept_count == MAX_KEPT_FIELDS) {
            return true;
        }
        if (!put_field(at, field.number, field.span)) {
            return false;
        }
        ++*kept_count;
    }
    *is_malformed = reader.fault != AUTHZ_FAULT_NONE;
    return true;
}

/* Writes the outline of a unary call's body: of exactly one message. */
static bool
put_grpc_body(authz_walk *at, const authz_outline *outline, authz_span raw)
{
    if (raw.length == 0) {
        return put_body(at, BODY_ABSENT);
    }
    if (raw.length < FRAME_PREFIX_BYTES) {
        return put_body(at, BODY_MALFORMED);
    }
    uint64_t length = (uint64_t)raw.data[1] << 24 | (uint64_t)raw.data[2] << 16
                      | (uint64_t)raw.data[3] << 8 | raw.data[4];
    if (length != raw.length - FRAME_PREFIX_BYTES || raw.data[0] > 1) {
        return put_body(at, BODY_MALFORMED);
    }
    if (raw.data[0] == 1) {
        authz_span coding = authz_walk_value(at, AUTHZ_GRPC_ENCODING);
        if (coding.data != NULL
            && (authz_span_equal(coding, AUTHZ_SPAN("gzip"))
                || authz_span_equal(coding, AUTHZ_SPAN("deflate")))) {
            return authz_walk_stop(at, AUTHZ_EXTRACT_ASK_TWIN);
        }
        return put_body(at, BODY_COMPRESSED);
    }
    if (outline->count > AUTHZ_MAX_OUTLINE) {
        return authz_walk_stop(at, AUTHZ_EXTRACT_ASK_TWIN);
    }
    authz_buffer *out = &at->to->out;
    size_t begin = out->length;
    uint16_t count;
    bool is_malformed;
    authz_span message = {raw.data + FRAME_PREFIX_BYTES, (size_t)length};
    if (!put_body(at, BODY_COMPLETE)
        || !put_message(at, outline, message, &count, &is_malformed)) {
        return false;
    }
    if (is_malformed) {
        out->length = begin;
        return put_body(at, BODY_MALFORMED);
    }
    out->data[begin + 1] = (uint8_t)(count >> 8);
    out->data[begin + 2] = (uint8_t)count;
    return true;
}

static bool
put_json_body(authz_walk *at, authz_span key, authz_span raw)
{
    authz_buffer *out = &at->to->out;
    size_t begin = out->length;
    if (is_coded(at)) {
        return put_body(at, BODY_COMPRESSED);
    }
    if (raw.length == 0) {
        return put_body(at, BODY_ABSENT);
    }
    if (!put_body(at, BODY_COMPLETE) || !put_field(at, JSON_VALUE_FIELD, AUTHZ_EMPTY)) {
        return false;
    }
    size_t text = out->length;
    switch (authz_json_text(raw, key, &at->to->json, out)) {
    case AUTHZ_JSON_FOUND: {
        size_t length = out->length - text;
        out->data[begin + 2] = 1;
        out->data[text - 2] = (uint8_t)(length >> 8);
        out->data[text - 1] = (uint8_t)length;
        return true;
    }
    case AUTHZ_JSON_MALFORMED:
        out->length = begin;
        return put_body(at, BODY_MALFORMED);
    case AUTHZ_JSON_ASK_TWIN:
        return authz_walk_stop(at, AUTHZ_EXTRACT_ASK_TWIN);
    default:
        return authz_walk_stop(at, AUTHZ_EXTRACT_NO_MEMORY);
    }
}

static authz_span
without_query(authz_span path)
{
    const uint8_t *mark = memchr(path.data, '?', path.length);
    return mark == NULL ? path : (authz_span){path.data, (size_t)(mark - path.data)};
}

bool
authz_put_body(authz_walk *at, authz_span path)
{
    const authz_plan *plan = at->plan;
    uint32_t outline = authz_table_find(&plan->outline_paths, path);
    uint32_t model = authz_table_find(&plan->json_paths, without_query(path));
    authz_span raw = authz_or_empty(at->http[AUTHZ_HTTP_RAW_BODY]);
    if (outline == AUTHZ_NOT_FOUND && model == AUTHZ_NOT_FOUND) {
        return put_body(at, BODY_UNREAD);
    }
    if (raw.length == 0 && authz_walk_is_gated(at)) {
        /* The gate gets it. */
        return put_body(at, BODY_UNREAD);
    }
    /* Envoy says how long the body really was, with -1 for "unknown". */
    bool is_short =
        at->has_size && at->size != raw.length && at->size != SIZE_UNKNOWN;
    if (raw.length > 0 && (is_short || is_marked_partial(at))) {
        return put_body(at, BODY_PARTIAL);
    }
    return outline != AUTHZ_NOT_FOUND
               ? put_grpc_body(at, &plan->outlines[outline], raw)
               : put_json_body(at, plan->json_keys[model], raw);
}
