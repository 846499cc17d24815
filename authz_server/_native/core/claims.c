#include "claims.h"

#include "utf8.h"

enum {
    STRUCT_FIELDS = 1, /* a map */
    LIST_VALUES = 1,
    ENTRY_KEY = 1,
    ENTRY_VALUE = 2,
    /* Value.kind */
    VALUE_NULL = 1,
    VALUE_NUMBER = 2,
    VALUE_STRING = 3,
    VALUE_BOOL = 4,
    VALUE_STRUCT = 5,
    VALUE_LIST = 6
};

#define MAX_DEPTH 16
/* Names of one object. An array of them is on the stack for each level. */
#define MAX_NAMES 64
#define MAX_EXACT 9007199254740992.0 /* 2^53 */

/* ---- reading -------------------------------------------------------------------- */

typedef struct checker {
    authz_fault fault;
    authz_claims_status status;
} checker;

static bool
refuse(checker *check, authz_fault fault)
{
    check->fault = fault;
    check->status = AUTHZ_CLAIMS_REFUSED;
    return false;
}

static bool
is_whole(checker *check, const authz_reader *reader)
{
    return reader->fault == AUTHZ_FAULT_NONE || refuse(check, reader->fault);
}

static bool
check_text(checker *check, authz_span text)
{
    const uint8_t *end = text.data + text.length;
    return authz_utf8_end(text.data, end) == end
           || refuse(check, AUTHZ_FAULT_METADATA_TEXT);
}

/* Reads a number, whose bits are in little-endian order. */
static double
number_of(authz_span bytes)
{
    uint64_t bits = 0;
    for (size_t index = 8; index-- > 0;) {
        bits = bits << 8 | bytes.data[index];
    }
    double number;
    memcpy(&number, &bits, sizeof number);
    return number;
}

static bool
is_finite(double number)
{
    return number - number == 0.0;
}

/* Reads a Value into its one field, without what is in that. */
static bool
read_value(checker *check, authz_span message, authz_field *value)
{
    authz_reader reader = authz_reader_of(message);
    authz_field field;
    size_t count = 0;
    while (authz_reader_next(&reader, &field)) {
        *value = field;
        count++;
    }
    if (!is_whole(check, &reader)) {
        return false;
    }
    /* A oneof: the last of several would win, which nobody writes on purpose. */
    static const uint32_t types[] = {
        [VALUE_NULL] = AUTHZ_WIRE_VARINT, [VALUE_NUMBER] = AUTHZ_WIRE_FIXED64,
        [VALUE_STRING] = AUTHZ_WIRE_LEN,  [VALUE_BOOL] = AUTHZ_WIRE_VARINT,
        [VALUE_STRUCT] = AUTHZ_WIRE_LEN,  [VALUE_LIST] = AUTHZ_WIRE_LEN,
    };
    if (count != 1 || value->number > VALUE_LIST
        || types[value->number] != value->type) {
        return refuse(check, AUTHZ_FAULT_METADATA_VALUE);
    }
    return true;
}

static bool check_object(checker *check, authz_span message, size_t depth,
                         authz_span name, authz_span *found);
static bool check_list(checker *check, authz_span message, size_t depth);

static bool
check_value(checker *check, authz_span message, size_t depth)
{
    authz_field value = {0};
    if (!read_value(check, message, &value)) {
        return false;
    }
    switch (value.number) {
    case VALUE_NUMBER:
        return is_finite(number_of(value.span))
               || refuse(check, AUTHZ_FAULT_METADATA_NUMBER);
    case VALUE_STRING:
        return check_text(check, value.span);
    case VALUE_STRUCT:
        return check_object(check, value.span, depth + 1, (authz_span){NULL, 0}, NULL);
    case VALUE_LIST:
        return check_list(check, value.span, depth + 1);
    default:
        return true;
    }
}

static bool
check_list(checker *check, authz_span message, size_t depth)
{
    if (depth > MAX_DEPTH) {
        return refuse(check, AUTHZ_FAULT_METADATA_DEPTH);
    }
    authz_reader reader = authz_reader_of(message);
    authz_field field;
    while (authz_reader_next(&reader, &field)) {
        if (field.number != LIST_VALUES || field.type != AUTHZ_WIRE_LEN) {
            return refuse(check, AUTHZ_FAULT_METADATA_LIST);
        }
        if (!check_value(check, field.span, depth)) {
            return false;
        }
    }
    return is_whole(check, &reader);
}

/* Reads an entry of a Struct. A value that did not come has no data: it is null. */
static bool
check_entry(checker *check, authz_span message, size_t depth, authz_span *key,
            authz_span *value)
{
    authz_reader reader = authz_reader_of(message);
    authz_field field;
    bool has_key = false;
    *key = (authz_span){(const uint8_t *)"", 0};
    *value = (authz_span){NULL, 0};
    while (authz_reader_next(&reader, &field)) {
        if (field.type != AUTHZ_WIRE_LEN) {
            return refuse(check, AUTHZ_FAULT_METADATA_ENTRY);
        }
        if (field.number == ENTRY_KEY && !has_key) {
            has_key = true;
            *key = field.span;
            if (!check_text(check, field.span)) {
                return false;
            }
        } else if (field.number == ENTRY_VALUE && value->data == NULL) {
            *value = field.span;
            if (!check_value(check, field.span, depth)) {
                return false;
            }
        } else {
            return refuse(check, AUTHZ_FAULT_METADATA_ENTRY);
        }
    }
    return is_whole(check, &reader);
}

/* Reads a whole Struct. If `found` is given, it gets the Value under `name`. */
static bool
check_object(checker *check, authz_span message, size_t depth, authz_span name,
             authz_span *found)
{
    if (depth > MAX_DEPTH) {
        return refuse(check, AUTHZ_FAULT_METADATA_DEPTH);
    }
    authz_span names[MAX_NAMES];
    size_t count = 0;
    authz_reader reader = authz_reader_of(message);
    authz_field field;
    while (authz_reader_next(&reader, &field)) {
        if (field.number != STRUCT_FIELDS || field.type != AUTHZ_WIRE_LEN) {
            return refuse(check, AUTHZ_FAULT_METADATA_STRUCT);
        }
        authz_span key, value;
        if (!check_entry(check, field.span, depth, &key, &value)) {
            return false;
        }
        for (size_t index = 0; index < count; index++) {
            if (authz_span_equal(names[index], key)) {
                return refuse(check, AUTHZ_FAULT_METADATA_KEY_TWICE);
            }
        }
        if (count == MAX_NAMES) {
            check->status = AUTHZ_CLAIMS_ASK_TWIN;
            return false;
        }
        names[count++] = key;
        if (found != NULL && authz_span_equal(key, name)) {
            *found = value;
        }
    }
    return is_whole(check, &reader);
}

authz_claims_status
authz_claims_find(authz_span raw, authz_span name, authz_span *object,
                  authz_fault *fault)
{
    checker check = {AUTHZ_FAULT_NONE, AUTHZ_CLAIMS_OK};
    authz_span found = {NULL, 0};
    authz_field value = {0};
    *object = (authz_span){NULL, 0};
    if (check_object(&check, raw, 0, name, &found) && found.data != NULL
        && read_value(&check, found, &value)) {
        if (value.number == VALUE_STRUCT) {
            *object = value.span;
        } else if (value.number != VALUE_NULL) {
            refuse(&check, AUTHZ_FAULT_CLAIMS_KIND);
        }
    }
    *fault = check.fault;
    return check.status;
}

/* ---- writing -------------------------------------------------------------------- */

static authz_claims_status put_object(authz_span message, authz_buffer *out);
static authz_claims_status put_list(authz_span message, authz_buffer *out);

static authz_claims_status
put(authz_buffer *out, authz_span bytes)
{
    return authz_buffer_bytes(out, bytes) ? AUTHZ_CLAIMS_OK : AUTHZ_CLAIMS_NO_MEMORY;
}

/* Writes \uNNNN. */
static bool
put_unit(authz_buffer *out, uint32_t unit)
{
    static const char digits[] = "0123456789abcdef";
    const uint8_t escape[6] = {'\\',
                               'u',
                               (uint8_t)digits[unit >> 12 & 15],
                               (uint8_t)digits[unit >> 8 & 15],
                               (uint8_t)digits[unit >> 4 & 15],
                               (uint8_t)digits[unit & 15]};
    return authz_buffer_bytes(out, (authz_span){escape, sizeof escape});
}

/* Writes a character as json.dumps does. */
static bool
put_character(authz_buffer *out, const uint8_t *at, size_t length)
{
    static const char short_escapes[] = "\"\"\\\\\bb\ff\nn\rr\tt";
    uint32_t character = at[0];
    if (length == 2) {
        character = (at[0] & 0x1Fu) << 6 | (at[1] & 0x3Fu);
    } else if (length == 3) {
        character = (at[0] & 0xFu) << 12 | (at[1] & 0x3Fu) << 6 | (at[2] & 0x3Fu);
    } else if (length == 4) {
        character = (at[0] & 7u) << 18 | (at[1] & 0x3Fu) << 12 | (at[2] & 0x3Fu) << 6
                    | (at[3] & 0x3Fu);
    }
    if (character > 0xFFFF) {
        character -= 0x10000;
        return put_unit(out, 0xD800 + (character >> 10))
               && put_unit(out, 0xDC00 + (character & 0x3FF));
    }
    for (const char *pair = short_escapes; *pair != 0; pair += 2) {
        if (character == (uint8_t)pair[0]) {
            const uint8_t escape[2] = {'\\', (uint8_t)pair[1]};
            return authz_buffer_bytes(out, (authz_span){escape, sizeof escape});
        }
    }
    return character < 0x20 || character > 0x7E
               ? put_unit(out, character)
               : authz_buffer_u8(out, (uint8_t)character);
}

static authz_claims_status
put_text(authz_span text, authz_buffer *out)
{
    const uint8_t *at = text.data, *end = at + text.length;
    bool is_put = authz_buffer_u8(out, '"');
    while (is_put && at < end) {
        size_t length = authz_utf8_length(at, end);
        is_put = put_character(out, at, length);
        at += length;
    }
    return is_put ? put(out, AUTHZ_SPAN("\"")) : AUTHZ_CLAIMS_NO_MEMORY;
}

static authz_claims_status
put_number(double number, authz_buffer *out)
{
    if (!(number >= -MAX_EXACT && number <= MAX_EXACT)) {
        return AUTHZ_CLAIMS_ASK_TWIN;
    }
    int64_t whole = (int64_t)number;
    if (!((double)whole >= number && (double)whole <= number)) {
        return AUTHZ_CLAIMS_ASK_TWIN;
    }
    uint8_t digits[20];
    size_t begin = sizeof digits;
    uint64_t left = whole < 0 ? (uint64_t)-whole : (uint64_t)whole;
    do {
        digits[--begin] = (uint8_t)('0' + left % 10);
        left /= 10;
    } while (left > 0);
    if (whole < 0) {
        digits[--begin] = '-';
    }
    return put(out, (authz_span){digits + begin, sizeof digits - begin});
}

/* Writes a Value that has been read before; one without data is null. */
static authz_claims_status
put_value(authz_span message, authz_buffer *out)
{
    checker check = {AUTHZ_FAULT_NONE, AUTHZ_CLAIMS_OK};
    authz_field value = {.number = VALUE_NULL};
    if (message.data != NULL && !read_value(&check, message, &value)) {
        return check.status;
    }
    switch (value.number) {
    case VALUE_NUMBER:
        return put_number(number_of(value.span), out);
    case VALUE_STRING:
        return put_text(value.span, out);
    case VALUE_BOOL:
        return put(out, value.value != 0 ? AUTHZ_SPAN("true") : AUTHZ_SPAN("false"));
    case VALUE_STRUCT:
        return put_object(value.span, out);
    case VALUE_LIST:
        return put_list(value.span, out);
    default:
        return put(out, AUTHZ_SPAN("null"));
    }
}

static authz_claims_status
put_list(authz_span message, authz_buffer *out)
{
    authz_reader reader = authz_reader_of(message);
    authz_field field;
    authz_claims_status status = put(out, AUTHZ_SPAN("["));
    bool is_first = true;
    while (status == AUTHZ_CLAIMS_OK && authz_reader_next(&reader, &field)) {
        if (!is_first) {
            status = put(out, AUTHZ_SPAN(","));
        }
        is_first = false;
        if (status == AUTHZ_CLAIMS_OK) {
            status = put_value(field.span, out);
        }
    }
    return status == AUTHZ_CLAIMS_OK ? put(out, AUTHZ_SPAN("]")) : status;
}

typedef struct entry {
    authz_span key;
    authz_span value;
} entry;

/* In the order of characters, which UTF-8 keeps. */
static bool
is_before(authz_span one, authz_span other)
{
    size_t shorter = one.length < other.length ? one.length : other.length;
    int order = memcmp(one.data, other.data, shorter);
    return order != 0 ? order < 0 : one.length < other.length;
}

/* Splits an entry that has been read before. */
static entry
split_entry(authz_span message)
{
    entry split = {{(const uint8_t *)"", 0}, {NULL, 0}};
    authz_reader reader = authz_reader_of(message);
    authz_field field;
    while (authz_reader_next(&reader, &field)) {
        *(field.number == ENTRY_KEY ? &split.key : &split.value) = field.span;
    }
    return split;
}

/* Writes a Struct that has been read before: it has no more than MAX_NAMES names. */
static authz_claims_status
put_object(authz_span message, authz_buffer *out)
{
    entry entries[MAX_NAMES];
    size_t count = 0;
    authz_reader reader = authz_reader_of(message);
    authz_field field;
    while (count < MAX_NAMES && authz_reader_next(&reader, &field)) {
        entry added = split_entry(field.span);
        size_t place = count++;
        for (; place > 0 && is_before(added.key, entries[place - 1].key); place--) {
            entries[place] = entries[place - 1];
        }
        entries[place] = added;
    }
    authz_claims_status status = put(out, AUTHZ_SPAN("{"));
    for (size_t index = 0; status == AUTHZ_CLAIMS_OK && index < count; index++) {
        if (index > 0) {
            status = put(out, AUTHZ_SPAN(","));
        }
        if (status == AUTHZ_CLAIMS_OK) {
            status = put_text(entries[index].key, out);
        }
        if (status == AUTHZ_CLAIMS_OK) {
            status = put(out, AUTHZ_SPAN(":"));
        }
        if (status == AUTHZ_CLAIMS_OK) {
            status = put_value(entries[index].value, out);
        }
    }
    return status == AUTHZ_CLAIMS_OK ? put(out, AUTHZ_SPAN("}")) : status;
}

authz_claims_status
authz_claims_put(authz_span object, authz_buffer *out)
{
    return put_object(object, out);
}
