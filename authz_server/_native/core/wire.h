/* Strict, bounded reading of the Protocol Buffers wire format, without copies.
 *
 * Twin: authz_server/wire.py, which has the reasons. Encoding:
 * https://protobuf.dev/programming-guides/encoding/. Where readers may differ (a number
 * in more bytes than it needs, a group, a tag past 32 bits) this one refuses.
 *
 * Nothing here allocates, or keeps a pointer into anything but the bytes it was given.
 */

#ifndef AUTHZ_CORE_WIRE_H
#define AUTHZ_CORE_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "span.h"

/* Why bytes are refused. Each stands for one message of the twin's RequestError. */
typedef enum authz_fault {
    AUTHZ_FAULT_NONE = 0,
    AUTHZ_FAULT_VARINT_VALUE,
    AUTHZ_FAULT_VARINT_CUT,
    AUTHZ_FAULT_FIELD_NUMBER,
    AUTHZ_FAULT_FIELD_LENGTH,
    AUTHZ_FAULT_WIRE_TYPE_3,
    AUTHZ_FAULT_WIRE_TYPE_4,
    AUTHZ_FAULT_WIRE_TYPE_6,
    AUTHZ_FAULT_WIRE_TYPE_7,
    AUTHZ_FAULT_FIELD_TYPE,
    AUTHZ_FAULT_MESSAGE_TWICE,
    AUTHZ_FAULT_FIELD_TWICE,
    AUTHZ_FAULT_EXTENSION_TWICE,
    AUTHZ_FAULT_SIZE,
    AUTHZ_FAULT_HEADER_KINDS,
    AUTHZ_FAULT_METADATA_TWICE,
    AUTHZ_FAULT_METADATA_DEPTH,
    AUTHZ_FAULT_METADATA_STRUCT,
    AUTHZ_FAULT_METADATA_ENTRY,
    AUTHZ_FAULT_METADATA_KEY_TWICE,
    AUTHZ_FAULT_METADATA_VALUE,
    AUTHZ_FAULT_METADATA_LIST,
    AUTHZ_FAULT_METADATA_NUMBER,
    AUTHZ_FAULT_METADATA_TEXT,
    AUTHZ_FAULT_CLAIMS_KIND,
    AUTHZ_FAULT_NOT_HTTP
} authz_fault;

enum {
    AUTHZ_WIRE_VARINT = 0,
    AUTHZ_WIRE_FIXED64 = 1,
    AUTHZ_WIRE_LEN = 2,
    AUTHZ_WIRE_FIXED32 = 5
};

#define AUTHZ_MAX_FIELD_NUMBER 0x1FFFFFFFu

/* One field. `value` is that of a varint, `span` that of any other wire type. */
typedef struct authz_field {
    uint32_t number;
    uint32_t type;
    uint64_t value;
    authz_span span;
} authz_field;

/* A cursor over one message. */
typedef struct authz_reader {
    const uint8_t *at;
    const uint8_t *end;
    authz_fault fault;
} authz_reader;

static inline authz_reader
authz_reader_of(authz_span message)
{
    return (authz_reader){message.data, message.data + message.length,
                          AUTHZ_FAULT_NONE};
}

/* What authz_reader_next does with a field that is not of the usual form. */
bool authz_reader_next_of_any(authz_reader *reader, authz_field *field);

/* Reads the next field into `field` and returns true. Returns false at the end of the
 * message, or at its first fault, which is then in `reader->fault`: what was read
 * before must be thrown away.
 *
 * Nearly every field has a tag of one byte and is length-delimited, with a length of one
 * byte: these are read here, where the compiler sees what is asked of them. The others go
 * by way of copies, so that the caller's own two may stay in registers: a span that is
 * stored in two parts and loaded as one costs a dozen cycles. */
static inline bool
authz_reader_next(authz_reader *reader, authz_field *field)
{
    const uint8_t *at = reader->at;
    const size_t room = (size_t)(reader->end - at);
    if (room == 0) {
        return false;
    }
    if (room < 2 || (at[0] & 0x87) != AUTHZ_WIRE_LEN || at[0] < 0x08 || at[1] >= 0x80
        || at[1] > room - 2) {
        authz_reader rest = *reader;
        authz_field other = {0};
        const bool is_read = authz_reader_next_of_any(&rest, &other);
        *reader = rest;
        *field = other;
        return is_read;
    }
    *field = (authz_field){at[0] >> 3, AUTHZ_WIRE_LEN, 0, {at + 2, at[1]}};
    reader->at = at + 2 + at[1];
    return true;
}

static inline bool
authz_span_equal(authz_span one, authz_span other)
{
    return one.length == other.length && memcmp(one.data, other.data, one.length) == 0;
}

#endif
