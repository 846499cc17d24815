#include "audit_event.h"

#include <math.h>
#include <stdio.h>
#include <time.h>

static bool
put(authz_buffer *buffer, const char *text, size_t length)
{
    return authz_buffer_bytes(buffer, (authz_span){(const uint8_t *)text, length});
}

#define PUT(buffer, literal) put(buffer, literal, sizeof(literal) - 1)

/* The length of the UTF-8 sequence that begins with `lead`, and its code point. The text
 * is known to be UTF-8 (extract.h). */
static size_t
decode(const uint8_t *at, uint32_t *point)
{
    if (at[0] < 0x80) {
        *point = at[0];
        return 1;
    }
    if (at[0] < 0xe0) {
        *point = (uint32_t)(at[0] & 0x1f) << 6 | (at[1] & 0x3f);
        return 2;
    }
    if (at[0] < 0xf0) {
        *point = (uint32_t)(at[0] & 0x0f) << 12 | (uint32_t)(at[1] & 0x3f) << 6 |
                 (at[2] & 0x3f);
        return 3;
    }
    *point = (uint32_t)(at[0] & 0x07) << 18 | (uint32_t)(at[1] & 0x3f) << 12 |
             (uint32_t)(at[2] & 0x3f) << 6 | (at[3] & 0x3f);
    return 4;
}

static bool
put_unit(authz_buffer *buffer, uint32_t unit)
{
    char text[7];
    (void)snprintf(text, sizeof text, "\\u%04x", unit & 0xffff);
    return put(buffer, text, 6);
}

static bool
put_escaped(authz_buffer *buffer, uint32_t point)
{
    switch (point) {
    case '"':
        return PUT(buffer, "\\\"");
    case '\\':
        return PUT(buffer, "\\\\");
    case '\b':
        return PUT(buffer, "\\b");
    case '\f':
        return PUT(buffer, "\\f");
    case '\n':
        return PUT(buffer, "\\n");
    case '\r':
        return PUT(buffer, "\\r");
    case '\t':
        return PUT(buffer, "\\t");
    default:
        break;
    }
    if (point < 0x10000) {
        return put_unit(buffer, point);
    }
    point -= 0x10000;
    return put_unit(buffer, 0xd800 | point >> 10) &&
           put_unit(buffer, 0xdc00 | (point & 0x3ff));
}

static bool
is_plain(uint8_t byte)
{
    return byte >= 0x20 && byte <= 0x7e && byte != '"' && byte != '\\';
}

/* How many bytes at `at`, of `room`, are plain. Eight at a time: a byte that is zero once
 * what it is not to be is taken away borrows from its highest bit ("Hacker's Delight",
 * 6-1). */
static size_t
plain_run(const uint8_t *at, size_t room)
{
    const uint64_t ones = 0x0101010101010101, highs = 0x8080808080808080;
    size_t length = 0;
    for (uint64_t word; room - length >= sizeof word; length += sizeof word) {
        memcpy(&word, at + length, sizeof word);
        const uint64_t quote = word ^ ones * '"', backslash = word ^ ones * '\\';
        const uint64_t high = word | (word + ones);
        const uint64_t low = (word - ones * ' ') & ~word;
        const uint64_t either = ((quote - ones) & ~quote) | ((backslash - ones) & ~backslash);
        if (((high | low | either) & highs) != 0) {
            break;
        }
    }
    while (length < room && is_plain(at[length])) {
        length++;
    }
    return length;
}

/* A JSON string in ASCII. */
static bool
put_text(authz_buffer *buffer, authz_span text)
{
    if (!PUT(buffer, "\"")) {
        return false;
    }
    size_t at = 0;
    for (size_t left = AUTHZ_MAX_TEXT_CHARACTERS; at < text.length && left > 0;) {
        const size_t room = text.length - at < left ? text.length - at : left;
        const size_t length = plain_run(text.data + at, room);
        if (!authz_buffer_bytes(buffer, (authz_span){text.data + at, length})) {
            return false;
        }
        at += length;
        left -= length;
        if (at < text.length && left > 0) {
            uint32_t point;
            at += decode(text.data + at, &point);
            left--;
            if (!put_escaped(buffer, point)) {
                return false;
            }
        }
    }
    return PUT(buffer, "\"");
}

/* Writes `number` in decimal, with zeros in front up to `width` digits, which it may
 * exceed. Returns the length. */
static size_t
write_number(char *text, uint64_t number, size_t width)
{
    char digits[20];
    size_t length = 0;
    do {
        digits[length++] = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    while (length < width) {
        digits[length++] = '0';
    }
    for (size_t i = 0; i < length; i++) {
        text[i] = digits[length - 1 - i];
    }
    return length;
}

/* As datetime.isoformat(timespec="seconds") in UTC. False: no such date. */
static bool
write_date(authz_date *date, double second)
{
    if (date->text[0] != '\0' && (double)date->second == second) {
        return true;
    }
    /* The years 1 to 9999; also false for what is no number. */
    if (!(second >= -62135596800.0 && second < 253402300800.0)) {
        return false;
    }
    const time_t time = (time_t)second;
    struct tm parts;
    if (gmtime_r(&time, &parts) == NULL) {
        return false;
    }
    const int numbers[] = {parts.tm_year + 1900, parts.tm_mon + 1, parts.tm_mday,
                           parts.tm_hour,        parts.tm_min,     parts.tm_sec};
    static const char before[] = "\"--T::";
    char *at = date->text;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        *at++ = before[i];
        at += write_number(at, (uint64_t)numbers[i], i == 0 ? 4 : 2);
    }
    *at = '\0';
    date->second = (int64_t)time;
    return true;
}

/* As datetime.isoformat(timespec="microseconds") in UTC, rounded half to even. */
static bool
put_time(authz_buffer *buffer, authz_date *date, double wall_s)
{
    double whole = floor(wall_s);
    double micro = nearbyint((wall_s - whole) * 1e6);
    if (micro >= 1e6) {
        whole += 1;
        micro = 0;
    }
    if (!write_date(date, whole)) {
        return false;
    }
    char rest[sizeof ".000000"];
    rest[0] = '.';
    return put(buffer, date->text, sizeof date->text - 1) &&
           put(buffer, rest, 1 + write_number(rest + 1, (uint64_t)micro, 6)) &&
           PUT(buffer, "+00:00\"");
}

static bool
put_latency(authz_buffer *buffer, double latency_s)
{
    char text[20];
    const double micro = nearbyint(latency_s * 1e6);
    if (!(micro > -1e15 && micro < 1e15)) {
        return false;
    }
    if (micro < 0 && !PUT(buffer, "-")) {
        return false;
    }
    return put(buffer, text, write_number(text, (uint64_t)fabs(micro), 1));
}

static bool
put_event(authz_buffer *buffer, authz_date *date, authz_span record,
          const authz_occurrence *occurrence)
{
    return authz_buffer_bytes(buffer, record) && PUT(buffer, ",\"time\":") &&
           put_time(buffer, date, occurrence->wall_s) &&
           (occurrence->cache_hit ? PUT(buffer, ",\"cache_hit\":true,\"latency_us\":")
                                  : PUT(buffer, ",\"cache_hit\":false,\"latency_us\":")) &&
           put_latency(buffer, occurrence->latency_s) &&
           PUT(buffer, ",\"request_id\":") && put_text(buffer, occurrence->request_id) &&
           PUT(buffer, ",\"source\":") && put_text(buffer, occurrence->source) &&
           PUT(buffer, "}\n");
}

bool
authz_audit_event(authz_buffer *buffer, authz_date *date, authz_span record,
                  const authz_occurrence *occurrence)
{
    const size_t before = buffer->length;
    if (put_event(buffer, date, record, occurrence)) {
        return true;
    }
    buffer->length = before;
    return false;
}
