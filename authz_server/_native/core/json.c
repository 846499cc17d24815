#include "json.h"

#include "utf8.h"

#define MAX_JSON_BYTES (4u << 20)
#define MAX_JSON_MARKS 65536
/* Python bears about fifteen times that, depending on where it is called from. */
#define MAX_DEPTH 64
/* The least that sys.set_int_max_str_digits can be set to. */
#define MAX_INTEGER_DIGITS 640
/* The greatest double is 1.797...e308. */
#define MAX_EXPONENT 308
/* An exponent that no body has digits enough to make up for. */
#define MOST 1000000000
/* Names of one object up to which they are compared each with each. */
#define FEW_NAMES 8

/* A string as it stands between its quotes. */
typedef struct json_string {
    authz_span raw;
    bool has_escapes;
} json_string;

/* A name. If it had escapes `data` is NULL, and it lies at `offset` in the texts. */
typedef struct json_name {
    const uint8_t *data;
    size_t offset;
    size_t length;
} json_name;

/* An object or array that is open. */
typedef struct json_level {
    size_t names; /* where its names begin */
    size_t texts; /* and where their texts do */
    bool is_object;
} json_level;

typedef struct json_parser {
    const uint8_t *at;
    const uint8_t *end;
    authz_json_scratch *scratch;
    authz_json_status status;
    size_t depth;
    json_level levels[MAX_DEPTH];
} json_parser;

static bool
fail(json_parser *parser, authz_json_status status)
{
    parser->status = status;
    return false;
}

static void
skip_space(json_parser *parser)
{
    while (parser->at < parser->end
           && (*parser->at == ' ' || *parser->at == '\n' || *parser->at == '\r'
               || *parser->at == '\t')) {
        parser->at++;
    }
}

/* Passes over `byte`, behind any space. */
static bool
take(json_parser *parser, uint8_t byte)
{
    skip_space(parser);
    if (parser->at < parser->end && *parser->at == byte) {
        parser->at++;
        return true;
    }
    return false;
}

static int
hex_value(uint8_t byte)
{
    if (byte >= '0' && byte <= '9') {
        return byte - '0';
    }
    if (byte >= 'a' && byte <= 'f') {
        return byte - 'a' + 10;
    }
    return byte >= 'A' && byte <= 'F' ? byte - 'A' + 10 : -1;
}

/* Returns the number of the four hexadecimal digits at `at`, or -1. */
static int32_t
read_hex(const uint8_t *at, const uint8_t *end)
{
    if (end - at < 4) {
        return -1;
    }
    int32_t value = 0;
    for (int index = 0; index < 4; index++) {
        int digit = hex_value(at[index]);
        if (digit < 0) {
            return -1;
        }
        value = value * 16 + digit;
    }
    return value;
}

/* Reads a \u escape, and the one behind it if they are a pair; `*at` is behind the u.
 * Returns the character, or -1. */
static int32_t
read_escaped(const uint8_t **at, const uint8_t *end)
{
    int32_t high = read_hex(*at, end);
    if (high < 0 || (high >= 0xDC00 && high <= 0xDFFF)) {
        return -1;
    }
    *at += 4;
    if (high < 0xD800 || high > 0xDBFF) {
        return high;
    }
    if (end - *at < 6 || (*at)[0] != '\\' || (*at)[1] != 'u') {
        return -1;
    }
    int32_t low = read_hex(*at + 2, end);
    if (low < 0xDC00 || low > 0xDFFF) {
        return -1;
    }
    *at += 6;
    return 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
}

/* Reads a string; the cursor is behind its first quote. */
static bool
read_string(json_parser *parser, json_string *string)
{
    const uint8_t *begin = parser->at, *at = begin, *end = parser->end;
    string->has_escapes = false;
    while (at < end) {
        uint8_t byte = *at;
        if (byte == '"') {
            string->raw = (authz_span){begin, (size_t)(at - begin)};
            parser->at = at + 1;
            return true;
        }
        if (byte < 0x20) {
            break;
        }
        if (byte != '\\') {
            size_t length = authz_utf8_length(at, end);
            if (length == 0) {
                break;
            }
            at += length;
            continue;
        }
        string->has_escapes = true;
        if (++at == end) {
            break;
        }
        byte = *at++;
        if (byte == 'u') {
            if (read_escaped(&at, end) < 0) {
                break;
            }
        } else if (byte == 0 || strchr("\"\\/bfnrt", byte) == NULL) {
            break;
        }
    }
    return fail(parser, AUTHZ_JSON_MALFORMED);
}

static size_t
encode_utf8(uint32_t character, uint8_t *to)
{
    if (character < 0x80) {
        to[0] = (uint8_t)character;
        return 1;
    }
    if (character < 0x800) {
        to[0] = (uint8_t)(0xC0 | character >> 6);
        to[1] = (uint8_t)(0x80 | (character & 0x3F));
        return 2;
    }
    if (character < 0x10000) {
        to[0] = (uint8_t)(0xE0 | character >> 12);
        to[1] = (uint8_t)(0x80 | (character >> 6 & 0x3F));
        to[2] = (uint8_t)(0x80 | (character & 0x3F));
        return 3;
    }
    to[0] = (uint8_t)(0xF0 | character >> 18);
    to[1] = (uint8_t)(0x80 | (character >> 12 & 0x3F));
    to[2] = (uint8_t)(0x80 | (character >> 6 & 0x3F));
    to[3] = (uint8_t)(0x80 | (character & 0x3F));
    return 4;
}

/* Appends what a string that read_string accepted says. No escape is shorter than the
 * character that it stands for. */
static bool
append_decoded(authz_buffer *out, authz_span raw)
{
    if (!authz_buffer_reserve(out, raw.length)) {
        return false;
    }
    const uint8_t *at = raw.data, *end = at + raw.length;
    uint8_t *to = out->data + out->length;
    while (at < end) {
        if (*at != '\\') {
            *to++ = *at++;
            continue;
        }
        uint8_t kind = at[1];
        at += 2;
        switch (kind) {
        case 'b':
            *to++ = '\b';
            break;
        case 'f':
            *to++ = '\f';
            break;
        case 'n':
            *to++ = '\n';
            break;
        case 'r':
            *to++ = '\r';
            break;
        case 't':
            *to++ = '\t';
            break;
        case 'u':
            to += encode_utf8((uint32_t)read_escaped(&at, end), to);
            break;
        default:
            *to++ = kind;
        }
    }
    out->length = (size_t)(to - out->data);
    return true;
}

static size_t
read_digits(json_parser *parser)
{
    const uint8_t *begin = parser->at;
    while (parser->at < parser->end && *parser->at >= '0' && *parser->at <= '9') {
        parser->at++;
    }
    return (size_t)(parser->at - begin);
}

/* Reads what is behind the digits of a number that has a fraction or an exponent, and
 * finds whether it is finite. `magnitude` is the decimal exponent of the first digit
 * that is not 0, if there was one. */
static bool
read_real(json_parser *parser, bool is_zero, int64_t magnitude)
{
    if (parser->at < parser->end && *parser->at == '.') {
        parser->at++;
        const uint8_t *begin = parser->at;
        if (read_digits(parser) == 0) {
            return fail(parser, AUTHZ_JSON_MALFORMED);
        }
        for (const uint8_t *at = begin; is_zero && at < parser->at; at++) {
            if (*at != '0') {
                is_zero = false;
                magnitude = -1 - (int64_t)(at - begin);
            }
        }
    }
    if (parser->at < parser->end && (*parser->at | 0x20) == 'e') {
        parser->at++;
        bool is_negative = false;
        if (parser->at < parser->end && (*parser->at == '-' || *parser->at == '+')) {
            is_negative = *parser->at++ == '-';
        }
        const uint8_t *begin = parser->at;
        if (read_digits(parser) == 0) {
            return fail(parser, AUTHZ_JSON_MALFORMED);
        }
        int64_t exponent = 0;
        for (const uint8_t *at = begin; at < parser->at && exponent < MOST; at++) {
            exponent = exponent * 10 + (*at - '0');
        }
        magnitude += is_negative ? -exponent : exponent;
    }
    if (is_zero || magnitude < MAX_EXPONENT) {
        return true;
    }
    return fail(parser, magnitude > MAX_EXPONENT ? AUTHZ_JSON_MALFORMED
                                                 : AUTHZ_JSON_ASK_TWIN);
}

static bool
read_number(json_parser *parser)
{
    if (*parser->at == '-') {
        parser->at++;
    }
    if (parser->at == parser->end) {
        return fail(parser, AUTHZ_JSON_MALFORMED);
    }
    bool is_zero = *parser->at == '0';
    size_t digits = 1;
    if (is_zero) {
        parser->at++;
    } else {
        digits = read_digits(parser);
        if (digits == 0) {
            return fail(parser, AUTHZ_JSON_MALFORMED);
        }
    }
    if (parser->at < parser->end
        && (*parser->at == '.' || (*parser->at | 0x20) == 'e')) {
        return read_real(parser, is_zero, (int64_t)digits - 1);
    }
    return digits <= MAX_INTEGER_DIGITS || fail(parser, AUTHZ_JSON_ASK_TWIN);
}

static bool
read_literal(json_parser *parser, authz_span literal)
{
    if ((size_t)(parser->end - parser->at) < literal.length
        || memcmp(parser->at, literal.data, literal.length) != 0) {
        return fail(parser, AUTHZ_JSON_MALFORMED);
    }
    parser->at += literal.length;
    return true;
}

static authz_span
name_bytes(const json_parser *parser, const json_name *name)
{
    const uint8_t *data = name->data != NULL
                              ? name->data
                              : parser->scratch->texts.data + name->offset;
    return (authz_span){data, name->length};
}

static bool
add_name(json_parser *parser, const json_string *string, authz_span *decoded)
{
    authz_json_scratch *scratch = parser->scratch;
    json_name name = {string->raw.data, 0, string->raw.length};
    if (string->has_escapes) {
        name = (json_name){NULL, scratch->texts.length, 0};
        if (!append_decoded(&scratch->texts, string->raw)) {
            return fail(parser, AUTHZ_JSON_NO_MEMORY);
        }
        name.length = scratch->texts.length - name.offset;
    }
    authz_span bytes = {(const uint8_t *)&name, sizeof name};
    if (!authz_buffer_bytes(&scratch->names, bytes)) {
        return fail(parser, AUTHZ_JSON_NO_MEMORY);
    }
    *decoded = name_bytes(parser, &name);
    return true;
}

/* Any total order will do that puts equal names side by side. */
static int
compare_names(const json_parser *parser, const json_name *one, const json_name *other)
{
    if (one->length != other->length) {
        return one->length < other->length ? -1 : 1;
    }
    return memcmp(name_bytes(parser, one).data, name_bytes(parser, other).data,
                  one->length);
}

static void
sift(const json_parser *parser, json_name *names, size_t root, size_t count)
{
    json_name moved = names[root];
    for (;;) {
        size_t child = root * 2 + 1;
        if (child >= count) {
            break;
        }
        if (child + 1 < count
            && compare_names(parser, &names[child], &names[child + 1]) < 0) {
            child++;
        }
        if (compare_names(parser, &names[child], &moved) <= 0) {
            break;
        }
        names[root] = names[child];
        root = child;
    }
    names[root] = moved;
}

/* Returns whether no name comes twice. A heap sort, since a caller chooses the names:
 * nothing that he writes makes it slower, as it would a hash table. */
static bool
are_unique(const json_parser *parser, json_name *names, size_t count)
{
    if (count <= FEW_NAMES) {
        for (size_t one = 1; one < count; one++) {
            for (size_t other = 0; other < one; other++) {
                if (compare_names(parser, &names[one], &names[other]) == 0) {
                    return false;
                }
            }
        }
        return true;
    }
    for (size_t root = count / 2; root-- > 0;) {
        sift(parser, names, root, count);
    }
    for (size_t last = count - 1; last > 0; last--) {
        json_name greatest = names[0];
        names[0] = names[last];
        names[last] = greatest;
        sift(parser, names, 0, last);
    }
    for (size_t index = 1; index < count; index++) {
        if (compare_names(parser, &names[index - 1], &names[index]) == 0) {
            return false;
        }
    }
    return true;
}

static bool
open_level(json_parser *parser, bool is_object)
{
    if (parser->depth == MAX_DEPTH) {
        return fail(parser, AUTHZ_JSON_ASK_TWIN);
    }
    authz_json_scratch *scratch = parser->scratch;
    parser->at++;
    parser->levels[parser->depth++] =
        (json_level){scratch->names.length, scratch->texts.length, is_object};
    return true;
}

static bool
close_level(json_parser *parser)
{
    authz_json_scratch *scratch = parser->scratch;
    json_level level = parser->levels[--parser->depth];
    if (level.is_object && scratch->names.length > level.names) {
        void *names = scratch->names.data + level.names;
        size_t count = (scratch->names.length - level.names) / sizeof(json_name);
        if (!are_unique(parser, names, count)) {
            return fail(parser, AUTHZ_JSON_MALFORMED);
        }
        scratch->names.length = level.names;
        scratch->texts.length = level.texts;
    }
    return true;
}

/* What is to be found: the value under `key` at the top. */
typedef struct json_wanted {
    authz_span key;
    bool is_next; /* the next value is it */
    bool is_text;
    json_string text;
} json_wanted;

/* Reads a name and its colon. */
static bool
read_name(json_parser *parser, json_wanted *wanted)
{
    json_string name;
    authz_span decoded;
    if (!take(parser, '"')) {
        return fail(parser, AUTHZ_JSON_MALFORMED);
    }
    if (!read_string(parser, &name) || !add_name(parser, &name, &decoded)) {
        return false;
    }
    wanted->is_next = parser->depth == 1 && authz_span_equal(decoded, wanted->key);
    return take(parser, ':') || fail(parser, AUTHZ_JSON_MALFORMED);
}

/* Begins a value. `*is_open` says that it is an object or array with something in it:
 * the value that comes next is inside. */
static bool
begin_value(json_parser *parser, json_wanted *wanted, bool *is_open)
{
    bool is_wanted = wanted->is_next;
    wanted->is_next = false;
    *is_open = false;
    skip_space(parser);
    if (parser->at == parser->end) {
        return fail(parser, AUTHZ_JSON_MALFORMED);
    }
    json_string text;
    switch (*parser->at) {
    case '{':
        if (!open_level(parser, true)) {
            return false;
        }
        if (take(parser, '}')) {
            return close_level(parser);
        }
        *is_open = true;
        return read_name(parser, wanted);
    case '[':
        if (!open_level(parser, false)) {
            return false;
        }
        if (take(parser, ']')) {
            return close_level(parser);
        }
        *is_open = true;
        return true;
    case '"':
        parser->at++;
        if (!read_string(parser, &text)) {
            return false;
        }
        if (is_wanted) {
            wanted->is_text = true;
            wanted->text = text;
        }
        return true;
    case 't':
        return read_literal(parser, AUTHZ_SPAN("true"));
    case 'f':
        return read_literal(parser, AUTHZ_SPAN("false"));
    case 'n':
        return read_literal(parser, AUTHZ_SPAN("null"));
    default:
        return read_number(parser);
    }
}

/* Reads what is behind a value, up to where the next one begins or the object ends. */
static bool
end_value(json_parser *parser, json_wanted *wanted)
{
    while (parser->depth > 0) {
        bool is_object = parser->levels[parser->depth - 1].is_object;
        if (take(parser, ',')) {
            return !is_object || read_name(parser, wanted);
        }
        if (!take(parser, is_object ? '}' : ']')) {
            return fail(parser, AUTHZ_JSON_MALFORMED);
        }
        if (!close_level(parser)) {
            return false;
        }
    }
    return true;
}

static bool
has_many_marks(authz_span raw)
{
    if (raw.length <= MAX_JSON_MARKS) {
        return false;
    }
    size_t marks = 0;
    for (size_t index = 0; index < raw.length; index++) {
        uint8_t byte = raw.data[index];
        marks += (size_t)((byte == ',') | (byte == '[') | (byte == '{'));
    }
    return marks > MAX_JSON_MARKS;
}

authz_json_status
authz_json_text(authz_span raw, authz_span key, authz_json_scratch *scratch,
                authz_buffer *out)
{
    if (raw.length > MAX_JSON_BYTES || has_many_marks(raw)) {
        return AUTHZ_JSON_MALFORMED;
    }
    json_parser parser;
    parser.at = raw.data;
    parser.end = raw.data + raw.length;
    parser.scratch = scratch;
    parser.status = AUTHZ_JSON_FOUND;
    parser.depth = 0;
    json_wanted wanted = {.key = key};
    scratch->names.length = scratch->texts.length = 0;
    skip_space(&parser);
    if (parser.at == parser.end || *parser.at != '{') {
        return AUTHZ_JSON_MALFORMED;
    }
    do {
        bool is_open;
        if (!begin_value(&parser, &wanted, &is_open)) {
            return parser.status;
        }
        if (!is_open && !end_value(&parser, &wanted)) {
            return parser.status;
        }
    } while (parser.depth > 0);
    skip_space(&parser);
    if (parser.at != parser.end || !wanted.is_text) {
        return AUTHZ_JSON_MALFORMED;
    }
    size_t before = out->length;
    if (!append_decoded(out, wanted.text.raw)) {
        return AUTHZ_JSON_NO_MEMORY;
    }
    if (out->length - before > AUTHZ_MAX_VALUE_BYTES) {
        out->length = before;
        return AUTHZ_JSON_MALFORMED;
    }
    return AUTHZ_JSON_FOUND;
}
