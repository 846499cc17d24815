#include "extract_walk.h"

/* envoy/service/auth/v3/attribute_context.proto and external_auth.proto; the names and
 * numbers are those of the twin. */
enum {
    /* CheckRequest */
    ATTRIBUTES = 1,
    /* AttributeContext */
    REQUEST = 4,
    CONTEXT_EXTENSIONS = 10,
    METADATA_CONTEXT = 11,
    /* AttributeContext.Request */
    HTTP = 2,
    /* AttributeContext.HttpRequest */
    HTTP_HEADERS = 3,
    HTTP_SIZE = 9,
    HTTP_HEADER_MAP = 13,
    /* config.core.v3: HeaderMap, HeaderValue, Address, SocketAddress, Metadata */
    HEADER_MAP_HEADERS = 1,
    HEADER_KEY = 1,
    HEADER_VALUE = 2,
    HEADER_RAW_VALUE = 3,
    SOCKET_ADDRESS = 1,
    SOCKET_HOST = 2,
    SOCKET_PORT = 3,
    FILTER_METADATA = 1,
    /* protobuf map entries */
    ENTRY_KEY = 1,
    ENTRY_VALUE = 2
};

#define BIT(number) (1u << (number))

static bool
refuse(authz_walk *at, authz_fault fault)
{
    at->to->fault = fault;
    return authz_walk_stop(at, AUTHZ_EXTRACT_REFUSED);
}

/* Whether a message was read to its end; if not, the walk is over. */
static bool
is_whole(authz_walk *at, const authz_reader *reader)
{
    return reader->fault == AUTHZ_FAULT_NONE || refuse(at, reader->fault);
}

static bool
is_len(authz_walk *at, const authz_field *field)
{
    return field->type == AUTHZ_WIRE_LEN || refuse(at, AUTHZ_FAULT_FIELD_TYPE);
}

/* Finds field `number`, a singular message; `found` has no data if it is not there. */
static bool
find_message(authz_walk *at, authz_span message, uint32_t number, authz_span *found)
{
    authz_reader reader = authz_reader_of(message);
    authz_field field;
    size_t count = 0;
    *found = (authz_span){NULL, 0};
    while (authz_reader_next(&reader, &field)) {
        if (field.number == number) {
            if (!is_len(at, &field)) {
                return false;
            }
            *found = field.span;
            count++;
        }
    }
    return is_whole(at, &reader)
           && (count < 2 || refuse(at, AUTHZ_FAULT_MESSAGE_TWICE));
}

/* Puts the singular length-delimited fields of `message` whose bit is in `wanted` where
 * their number points to; no data where none is. */
static bool
find_scalars(authz_walk *at, authz_span message, uint32_t wanted, authz_span *found)
{
    authz_reader reader = authz_reader_of(message);
    authz_field field;
    for (uint32_t number = 0; wanted >> number != 0; number++) {
        found[number] = (authz_span){NULL, 0};
    }
    while (authz_reader_next(&reader, &field)) {
        if (field.number >= 32 || (wanted & BIT(field.number)) == 0) {
            continue;
        }
        if (!is_len(at, &field)) {
            return false;
        }
        if (found[field.number].data != NULL) {
            return refuse(at, AUTHZ_FAULT_FIELD_TWICE);
        }
        found[field.number] = field.span;
    }
    return is_whole(at, &reader);
}

/* Reads one entry of a map<string, string> (or of messages). */
static bool
read_entry(authz_walk *at, authz_span message, authz_span *key, authz_span *value)
{
    authz_span found[ENTRY_VALUE + 1];
    if (!find_scalars(at, message, BIT(ENTRY_KEY) | BIT(ENTRY_VALUE), found)) {
        return false;
    }
    *key = authz_or_empty(found[ENTRY_KEY]);
    *value = authz_or_empty(found[ENTRY_VALUE]);
    return true;
}

static bool
add_header(authz_walk *at, uint32_t name, authz_span value)
{
    authz_buffer *values = &at->to->values;
    uint32_t index = (uint32_t)(values->length / sizeof(authz_header_value));
    authz_header_value added = {value.data, (uint32_t)value.length, AUTHZ_NO_VALUE};
    if (!authz_buffer_bytes(values,
                            (authz_span){(const uint8_t *)&added, sizeof added})) {
        return authz_walk_stop(at, AUTHZ_EXTRACT_NO_MEMORY);
    }
    authz_header_slot *slot = &authz_walk_slots(at)[name];
    if (slot->count++ == 0) {
        slot->first = index;
    } else {
        void *all = values->data;
        ((authz_header_value *)all)[slot->last].next = index;
    }
    slot->last = index;
    return true;
}

static bool
walk_header_map(authz_walk *at, authz_span message)
{
    authz_reader reader = authz_reader_of(message);
    authz_field field;
    while (authz_reader_next(&reader, &field)) {
        if (field.number != HEADER_MAP_HEADERS) {
            continue;
        }
        authz_span found[HEADER_RAW_VALUE + 1];
        if (!is_len(at, &field)
            || !find_scalars(at, field.span,
                             BIT(HEADER_KEY) | BIT(HEADER_VALUE)
                                 | BIT(HEADER_RAW_VALUE),
                             found)) {
            return false;
        }
        uint32_t name =
            authz_table_find(&at->plan->names, authz_or_empty(found[HEADER_KEY]));
        if (name == AUTHZ_NOT_FOUND) {
            continue;
        }
        authz_span value = found[HEADER_RAW_VALUE];
        if (value.data == NULL) {
            value = authz_or_empty(found[HEADER_VALUE]);
        } else if (found[HEADER_VALUE].data != NULL) {
            return refuse(at, AUTHZ_FAULT_HEADER_KINDS);
        }
        if (!add_header(at, name, value)) {
            return false;
        }
    }
    return is_whole(at, &reader);
}

static bool
walk_http(authz_walk *at, authz_span message)
{
    authz_reader reader = authz_reader_of(message);
    authz_field field;
    while (authz_reader_next(&reader, &field)) {
        switch (field.number) {
        case AUTHZ_HTTP_ID:
        case AUTHZ_HTTP_METHOD:
        case AUTHZ_HTTP_PATH:
        case AUTHZ_HTTP_HOST:
        case AUTHZ_HTTP_RAW_BODY:
            if (!is_len(at, &field)) {
                return false;
            }
            if (at->http[field.number].data != NULL) {
                return refuse(at, AUTHZ_FAULT_FIELD_TWICE);
            }
            at->http[field.number] = field.span;
            break;
        case HTTP_HEADERS: {
            authz_span key, value;
            if (!is_len(at, &field) || !read_entry(at, field.span, &key, &value)) {
                return false;
            }
            uint32_t name = authz_table_find(&at->plan->names, key);
            if (name != AUTHZ_NOT_FOUND && !add_header(at, name, value)) {
                return false;
            }
            break;
        }
        case HTTP_HEADER_MAP:
            if (!is_len(at, &field) || !walk_header_map(at, field.span)) {
                return false;
            }
            break;
        case HTTP_SIZE:
            if (field.type != AUTHZ_WIRE_VARINT || at->has_size) {
                return refuse(at, AUTHZ_FAULT_SIZE);
            }
            at->has_size = true;
            at->size = field.value;
            break;
        default:
            break;
        }
    }
    return is_whole(at, &reader);
}

/* Reads a core.v3.Address; anything but a socket is none. */
static bool
walk_address(authz_walk *at, authz_span message)
{
    authz_span socket;
    if (!find_message(at, message, SOCKET_ADDRESS, &socket)) {
        return false;
    }
    if (socket.data == NULL) {
        return true;
    }
    authz_reader reader = authz_reader_of(socket);
    authz_field field;
    at->has_address = true;
    while (authz_reader_next(&reader, &field)) {
        if (field.number == SOCKET_HOST) {
            if (!is_len(at, &field)) {
                return false;
            }
            at->address_host = field.span;
        } else if (field.number == SOCKET_PORT && field.type == AUTHZ_WIRE_VARINT) {
            at->address_port = field.value;
        }
    }
    return is_whole(at, &reader);
}

static bool
walk_extension(authz_walk *at, authz_span message)
{
    authz_span key, value;
    if (!read_entry(at, message, &key, &value)) {
        return false;
    }
    for (size_t index = 0; index < at->extension_count; index++) {
        if (authz_span_equal(at->extensions[index], key)) {
            return refuse(at, AUTHZ_FAULT_EXTENSION_TWICE);
        }
    }
    if (at->extension_count == AUTHZ_MAX_EXTENSIONS) {
        return authz_walk_stop(at, AUTHZ_EXTRACT_ASK_TWIN);
    }
    at->extensions[at->extension_count++] = key;
    if (authz_span_equal(key, AUTHZ_SPAN("upstream"))) {
        at->upstream = value;
    } else if (authz_span_equal(key, AUTHZ_SPAN("gate"))) {
        at->gate = value;
    }
    return true;
}

static bool
walk_peer(authz_walk *at, uint32_t number, authz_span message)
{
    const uint32_t wanted = BIT(AUTHZ_PEER_ADDRESS) | BIT(AUTHZ_PEER_PRINCIPAL)
                            | BIT(AUTHZ_PEER_CERTIFICATE);
    authz_span *peer = at->peers[number];
    if (!find_scalars(at, message, wanted, peer)) {
        return false;
    }
    return number != AUTHZ_SOURCE
           || walk_address(at, authz_or_empty(peer[AUTHZ_PEER_ADDRESS]));
}

static bool
walk_request(authz_walk *at, authz_span message)
{
    authz_span http;
    if (!find_message(at, message, HTTP, &http)) {
        return false;
    }
    if (http.data == NULL) {
        return true;
    }
    at->has_http = true;
    return walk_http(at, http);
}

static bool
walk_attributes(authz_walk *at, authz_span message)
{
    authz_reader reader = authz_reader_of(message);
    authz_field field;
    uint32_t seen = 0;
    while (authz_reader_next(&reader, &field)) {
        if (field.number == CONTEXT_EXTENSIONS) {
            if (!is_len(at, &field) || !walk_extension(at, field.span)) {
                return false;
            }
            continue;
        }
        if (field.number != AUTHZ_SOURCE && field.number != AUTHZ_DESTINATION
            && field.number != REQUEST) {
            continue;
        }
        if (!is_len(at, &field)) {
            return false;
        }
        if ((seen & BIT(field.number)) != 0) {
            return refuse(at, AUTHZ_FAULT_MESSAGE_TWICE);
        }
        seen |= BIT(field.number);
        if (field.number == REQUEST ? !walk_request(at, field.span)
                                    : !walk_peer(at, field.number, field.span)) {
            return false;
        }
    }
    return is_whole(at, &reader);
}

/* Reads what jwt_authn left. */
static bool
walk_claims(authz_walk *at, authz_span metadata)
{
    if (at->claims.data != NULL) {
        return refuse(at, AUTHZ_FAULT_METADATA_TWICE);
    }
    authz_fault fault;
    switch (
        authz_claims_find(metadata, at->plan->claims_name, &at->claims, &fault)) {
    case AUTHZ_CLAIMS_OK:
        return true;
    case AUTHZ_CLAIMS_REFUSED:
        return refuse(at, fault);
    default:
        return authz_walk_stop(at, AUTHZ_EXTRACT_ASK_TWIN);
    }
}

static bool
walk_metadata(authz_walk *at, authz_span attributes)
{
    authz_span metadata;
    if (!find_message(at, attributes, METADATA_CONTEXT, &metadata)) {
        return false;
    }
    if (metadata.data == NULL) {
        return true;
    }
    authz_reader reader = authz_reader_of(metadata);
    authz_field field;
    while (authz_reader_next(&reader, &field)) {
        if (field.number != FILTER_METADATA) {
            continue;
        }
        authz_span key, value;
        if (!is_len(at, &field) || !read_entry(at, field.span, &key, &value)) {
            return false;
        }
        if (authz_span_equal(key, AUTHZ_SPAN("envoy.filters.http.jwt_authn"))
            && !walk_claims(at, value)) {
            return false;
        }
    }
    return is_whole(at, &reader);
}

static bool
prepare(authz_walk *at)
{
    authz_extraction *to = at->to;
    size_t size = at->plan->names.count * sizeof(authz_header_slot);
    to->out.length = to->values.length = to->slots.length = 0;
    if (!authz_buffer_reserve(&to->slots, size)) {
        return authz_walk_stop(at, AUTHZ_EXTRACT_NO_MEMORY);
    }
    memset(to->slots.data, 0, size);
    to->slots.length = size;
    return true;
}

bool
authz_walk_request(authz_walk *at, authz_span raw)
{
    authz_span attributes;
    if (!prepare(at) || !find_message(at, raw, ATTRIBUTES, &attributes)) {
        return false;
    }
    if (attributes.data != NULL
        && (!walk_attributes(at, attributes)
            || (at->plan->claims_name.length > 0 && !walk_metadata(at, attributes)))) {
        return false;
    }
    return at->has_http || refuse(at, AUTHZ_FAULT_NOT_HTTP);
}
