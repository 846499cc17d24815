#include "call.h"

static bool
is_equal(authz_span a, authz_span b)
{
    return a.length == b.length && memcmp(a.data, b.data, a.length) == 0;
}

/* ---- headers ------------------------------------------------------------------------ */

static void
read_path(authz_call *call, const authz_paths *paths, authz_span path)
{
    if (is_equal(path, paths->check)) {
        call->kind = AUTHZ_CALL_CHECK;
        return;
    }
    for (uint32_t i = 0; i < paths->host_count; i++) {
        if (is_equal(path, paths->host[i])) {
            call->kind = AUTHZ_CALL_HOST;
            call->method = i;
        }
    }
}

/* "application/grpc", and that with a suffix or parameters; of the suffixes only proto's,
 * since nothing else is read here. */
static bool
is_grpc_type(authz_span value)
{
    const authz_span type = AUTHZ_SPAN("application/grpc"), proto = AUTHZ_SPAN("+proto");
    if (value.length < type.length || memcmp(value.data, type.data, type.length) != 0) {
        return false;
    }
    value.data += type.length;
    value.length -= type.length;
    if (value.length >= proto.length &&
        memcmp(value.data, proto.data, proto.length) == 0) {
        value.data += proto.length;
        value.length -= proto.length;
    }
    return value.length == 0 || value.data[0] == ';';
}

void
authz_call_header(authz_call *call, const authz_paths *paths, authz_span name,
                  authz_span value)
{
    call->header_bytes += name.length + value.length + 32;
    switch (name.length) {
    case sizeof(":path") - 1:
        if (is_equal(name, AUTHZ_SPAN(":path"))) {
            read_path(call, paths, value);
        }
        break;
    case sizeof(":method") - 1:
        if (is_equal(name, AUTHZ_SPAN(":method"))) {
            call->is_post = is_equal(value, AUTHZ_SPAN("POST"));
        }
        break;
    case sizeof("content-type") - 1:
        if (is_equal(name, AUTHZ_SPAN("content-type"))) {
            call->is_grpc = is_grpc_type(value);
        }
        break;
    case sizeof("grpc-encoding") - 1:
        if (is_equal(name, AUTHZ_SPAN("grpc-encoding"))) {
            call->is_encoded = !is_equal(value, AUTHZ_SPAN("identity"));
        }
        break;
    default:
        break;
    }
}

static const authz_refusal all_is_well;

authz_refusal
authz_call_judge(const authz_call *call)
{
    if (call->header_bytes > AUTHZ_MAX_HEADER_BYTES) {
        return (authz_refusal){"200", AUTHZ_GRPC_RESOURCE_EXHAUSTED,
                               "the headers are too long"};
    }
    if (!call->is_post) {
        return (authz_refusal){"405", AUTHZ_GRPC_INTERNAL, "the method is not POST"};
    }
    if (!call->is_grpc) {
        return (authz_refusal){"415", AUTHZ_GRPC_INTERNAL,
                               "the content-type is not application/grpc"};
    }
    if (call->kind == AUTHZ_CALL_UNKNOWN) {
        return (authz_refusal){"200", AUTHZ_GRPC_UNIMPLEMENTED, "no such method"};
    }
    if (call->is_encoded) {
        return (authz_refusal){"200", AUTHZ_GRPC_UNIMPLEMENTED,
                               "compressed messages are not read"};
    }
    return all_is_well;
}

/* ---- messages ----------------------------------------------------------------------- */

static size_t
take_prefix(authz_call *call, authz_span data)
{
    size_t used = 0;
    while (used < data.length && call->prefix_length < sizeof call->prefix) {
        call->prefix[call->prefix_length++] = data.data[used++];
    }
    return used;
}

static size_t
length_of(const uint8_t prefix[5])
{
    return (size_t)prefix[1] << 24 | (size_t)prefix[2] << 16 | (size_t)prefix[3] << 8 |
           prefix[4];
}

/* The prefix is there: what is to come after it. */
static authz_refusal
begin_message(authz_call *call, size_t max_message_bytes)
{
    if (call->kind == AUTHZ_CALL_CHECK && call->has_message) {
        return (authz_refusal){"200", AUTHZ_GRPC_UNIMPLEMENTED,
                               "the method takes one message"};
    }
    if (call->prefix[0] != 0) {
        return (authz_refusal){"200", AUTHZ_GRPC_INTERNAL,
                               "a message is compressed, and no encoding was named"};
    }
    call->missing = length_of(call->prefix);
    if (call->missing > max_message_bytes) {
        return (authz_refusal){"200", AUTHZ_GRPC_RESOURCE_EXHAUSTED,
                               "the message is too long"};
    }
    call->check.raw.length = 0;
    return all_is_well;
}

/* Room for what is there, not for what was announced. False: no memory. */
static bool
take_part(authz_call *call, authz_span part, bool is_last)
{
    authz_buffer *raw = &call->check.raw;
    if (is_last && raw->length == 0 && part.length == call->missing) {
        call->check.message = part;
    } else if (authz_buffer_bytes(raw, part)) {
        call->check.message = (authz_span){raw->data, raw->length};
    } else {
        return false;
    }
    call->missing -= part.length;
    return true;
}

size_t
authz_call_data(authz_call *call, authz_span data, bool is_last, size_t max_message_bytes,
                authz_refusal *refusal)
{
    *refusal = all_is_well;
    size_t used = 0;
    if (call->prefix_length < sizeof call->prefix) {
        used = take_prefix(call, data);
        if (call->prefix_length < sizeof call->prefix) {
            return used;
        }
        *refusal = begin_message(call, max_message_bytes);
        if (refusal->http_status != NULL) {
            return data.length;
        }
    }
    const size_t left = data.length - used;
    const size_t part = left < call->missing ? left : call->missing;
    if (!take_part(call, (authz_span){data.data + used, part}, is_last)) {
        *refusal = (authz_refusal){"200", AUTHZ_GRPC_RESOURCE_EXHAUSTED, "no memory"};
        return data.length;
    }
    if (call->missing == 0) {
        call->prefix_length = 0;
        call->has_message = true;
    }
    return used + part;
}

authz_refusal
authz_call_end(const authz_call *call)
{
    if (call->prefix_length > 0) {
        return (authz_refusal){"200", AUTHZ_GRPC_INTERNAL,
                               "the request ends within a message"};
    }
    if (call->kind == AUTHZ_CALL_CHECK && !call->has_message) {
        return (authz_refusal){"200", AUTHZ_GRPC_UNIMPLEMENTED,
                               "the method takes one message"};
    }
    return all_is_well;
}

/* ---- the answer --------------------------------------------------------------------- */

bool
authz_call_say(authz_call *call, authz_span message)
{
    /* A peer that is always a little behind must not keep all that it ever got. */
    if (call->sent > call->output.length - call->sent) {
        call->output.length -= call->sent;
        memmove(call->output.data, call->output.data + call->sent, call->output.length);
        call->sent = 0;
    }
    return message.length <= UINT32_MAX &&
           authz_buffer_reserve(&call->output, sizeof call->prefix + message.length) &&
           authz_buffer_u8(&call->output, 0) &&
           authz_buffer_u32(&call->output, (uint32_t)message.length) &&
           authz_buffer_bytes(&call->output, message);
}

bool
authz_call_complete(authz_call *call, uint8_t status, authz_span text)
{
    static const char digits[] = "0123456789ABCDEF";
    call->is_complete = true;
    call->status = status;
    call->status_text.length = 0;
    for (size_t i = 0; i < text.length; i++) {
        const uint8_t byte = text.data[i];
        const bool is_plain = byte >= 0x20 && byte <= 0x7e && byte != '%';
        const uint8_t escaped[3] = {'%', (uint8_t)digits[byte >> 4],
                                    (uint8_t)digits[byte & 15]};
        if (!authz_buffer_bytes(&call->status_text,
                                is_plain ? (authz_span){&byte, 1}
                                         : (authz_span){escaped, sizeof escaped})) {
            return false;
        }
    }
    return true;
}
