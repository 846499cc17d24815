/* Private to the extractor: what the walk over a CheckRequest leaves to be written. */

#ifndef AUTHZ_CORE_EXTRACT_WALK_H
#define AUTHZ_CORE_EXTRACT_WALK_H

#include "claims.h"
#include "extract.h"

/* Numbers of fields: AttributeContext, its Peer and its HttpRequest. */
enum {
    AUTHZ_SOURCE = 1,
    AUTHZ_DESTINATION = 2,
    AUTHZ_PEER_ADDRESS = 1,
    AUTHZ_PEER_PRINCIPAL = 4,
    AUTHZ_PEER_CERTIFICATE = 5,
    AUTHZ_HTTP_ID = 1,
    AUTHZ_HTTP_METHOD = 2,
    AUTHZ_HTTP_PATH = 4,
    AUTHZ_HTTP_HOST = 5,
    AUTHZ_HTTP_RAW_BODY = 12
};

#define AUTHZ_MAX_EXTENSIONS 64

/* Ends the list of a header's values. */
#define AUTHZ_NO_VALUE UINT32_MAX

/* The values that came of one name of the plan: a list through the values of all. */
typedef struct authz_header_slot {
    uint32_t first;
    uint32_t last;
    uint32_t count;
} authz_header_slot;

typedef struct authz_header_value {
    const uint8_t *data;
    uint32_t length;
    uint32_t next;
} authz_header_value;

/* The walk, and what it has found. A span that did not come has no data. */
typedef struct authz_walk {
    const authz_plan *plan;
    authz_extraction *to;
    authz_extract_status status;
    authz_span peers[AUTHZ_DESTINATION + 1][AUTHZ_PEER_CERTIFICATE + 1];
    authz_span address_host;
    uint64_t address_port;
    bool has_address;
    bool has_http;
    bool has_size;
    uint64_t size;
    authz_span http[AUTHZ_HTTP_RAW_BODY + 1];
    authz_span upstream;
    authz_span gate;
    authz_span claims; /* a Struct that has been read */
    size_t extension_count;
    authz_span extensions[AUTHZ_MAX_EXTENSIONS];
} authz_walk;

#define AUTHZ_EMPTY ((authz_span){(const uint8_t *)"", 0})

/* Functions that return false have ended the walk; `status` then says how. */

static inline bool
authz_walk_stop(authz_walk *walk, authz_extract_status status)
{
    walk->status = status;
    return false;
}

static inline authz_span
authz_or_empty(authz_span span)
{
    return span.data != NULL ? span : AUTHZ_EMPTY;
}

static inline authz_header_slot *
authz_walk_slots(const authz_walk *walk)
{
    void *slots = walk->to->slots.data;
    return slots;
}

static inline authz_header_value *
authz_walk_values(const authz_walk *walk)
{
    void *values = walk->to->values.data;
    return values;
}

/* Returns the one value of a header; no data if none came, or several did. */
static inline authz_span
authz_walk_value(const authz_walk *walk, uint32_t name)
{
    const authz_header_slot *slot = &authz_walk_slots(walk)[name];
    if (slot->count != 1) {
        return (authz_span){NULL, 0};
    }
    const authz_header_value *value = &authz_walk_values(walk)[slot->first];
    return (authz_span){value->data, value->length};
}

static inline bool
authz_walk_is_gated(const authz_walk *walk)
{
    return walk->gate.data != NULL
           && authz_span_equal(walk->gate, AUTHZ_SPAN("ext_proc"));
}

/* Walks over the whole request. The walk has its plan and extraction, nothing else. */
bool authz_walk_request(authz_walk *walk, authz_span raw);

/* The next three append to the answer. */

static inline bool
authz_put(authz_walk *walk, authz_span bytes)
{
    return authz_buffer_bytes(&walk->to->out, bytes)
           || authz_walk_stop(walk, AUTHZ_EXTRACT_NO_MEMORY);
}

static inline bool
authz_put_scalar(authz_walk *walk, authz_span value)
{
    return (authz_buffer_u32(&walk->to->out, (uint32_t)value.length)
            || authz_walk_stop(walk, AUTHZ_EXTRACT_NO_MEMORY))
           && authz_put(walk, value);
}

/* The body of the request that has been walked over. */
bool authz_put_body(authz_walk *walk, authz_span path);

#endif
