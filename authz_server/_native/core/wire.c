#include "wire.h"

#define MAX_VARINT_BYTES 10
#define MAX_TAG 0xFFFFFFFFu

/* Reads the varint at the cursor, which is before the end. */
static bool
read_varint(authz_reader *reader, uint64_t *value)
{
    const uint8_t *at = reader->at;
    size_t room = (size_t)(reader->end - at);
    size_t count = room < MAX_VARINT_BYTES ? room : MAX_VARINT_BYTES;
    uint64_t read = 0;
    for (size_t index = 0; index < count; index++) {
        uint8_t byte = at[index];
        read |= (uint64_t)(byte & 0x7F) << (7 * index);
        if (byte < 0x80) {
            /* Of the tenth byte only one bit is left of 64. */
            if ((byte == 0 && index > 0)
                || (index == MAX_VARINT_BYTES - 1 && byte > 1)) {
                reader->fault = AUTHZ_FAULT_VARINT_VALUE;
                return false;
            }
            reader->at = at + index + 1;
            *value = read;
            return true;
        }
    }
    reader->fault = AUTHZ_FAULT_VARINT_CUT;
    return false;
}

static bool
take(authz_reader *reader, uint64_t length, authz_field *field)
{
    if (length > (uint64_t)(reader->end - reader->at)) {
        reader->fault = AUTHZ_FAULT_FIELD_LENGTH;
        return false;
    }
    field->span = (authz_span){reader->at, (size_t)length};
    reader->at += length;
    return true;
}

bool
authz_reader_next_of_any(authz_reader *reader, authz_field *field)
{
    uint64_t tag;
    if (!read_varint(reader, &tag)) {
        return false;
    }
    if (tag > MAX_TAG || tag >> 3 == 0) {
        reader->fault = AUTHZ_FAULT_FIELD_NUMBER;
        return false;
    }
    field->number = (uint32_t)(tag >> 3);
    field->type = (uint32_t)(tag & 7);
    uint64_t length;
    switch (field->type) {
    case AUTHZ_WIRE_LEN:
        return read_varint(reader, &length) && take(reader, length, field);
    case AUTHZ_WIRE_VARINT:
        return read_varint(reader, &field->value);
    case AUTHZ_WIRE_FIXED64:
        return take(reader, 8, field);
    case AUTHZ_WIRE_FIXED32:
        return take(reader, 4, field);
    /* Groups (3, 4) are read by some parsers and skipped by others. */
    case 3:
        reader->fault = AUTHZ_FAULT_WIRE_TYPE_3;
        return false;
    case 4:
        reader->fault = AUTHZ_FAULT_WIRE_TYPE_4;
        return false;
    case 6:
        reader->fault = AUTHZ_FAULT_WIRE_TYPE_6;
        return false;
    default:
        reader->fault = AUTHZ_FAULT_WIRE_TYPE_7;
        return false;
    }
}
