/* What Python's UTF-8 decoder takes (RFC 3629): no surrogates, nothing overlong. */

#ifndef AUTHZ_CORE_UTF8_H
#define AUTHZ_CORE_UTF8_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline int
authz_utf8_is_tail(const uint8_t *at)
{
    return (*at & 0xC0) == 0x80;
}

/* Returns how many bytes the character at `at` has, which is before `end`; 0 if there
 * is none. */
static inline size_t
authz_utf8_length(const uint8_t *at, const uint8_t *end)
{
    uint8_t first = at[0];
    size_t room = (size_t)(end - at);
    if (first < 0x80) {
        return 1;
    }
    if (first < 0xC2 || first > 0xF4) {
        return 0;
    }
    if (first < 0xE0) {
        return room >= 2 && authz_utf8_is_tail(at + 1) ? 2 : 0;
    }
    if (first < 0xF0) {
        if (room < 3 || !authz_utf8_is_tail(at + 1) || !authz_utf8_is_tail(at + 2)
            || (first == 0xE0 && at[1] < 0xA0) || (first == 0xED && at[1] > 0x9F)) {
            return 0;
        }
        return 3;
    }
    if (room < 4 || !authz_utf8_is_tail(at + 1) || !authz_utf8_is_tail(at + 2)
        || !authz_utf8_is_tail(at + 3) || (first == 0xF0 && at[1] < 0x90)
        || (first == 0xF4 && at[1] > 0x8F)) {
        return 0;
    }
    return 4;
}

/* Returns where the first byte is that is of no character; `end` if there is none. */
static inline const uint8_t *
authz_utf8_end(const uint8_t *at, const uint8_t *end)
{
    for (;;) {
        uint64_t word;
        while ((size_t)(end - at) >= sizeof word
               && (memcpy(&word, at, sizeof word), (word & 0x8080808080808080) == 0)) {
            at += sizeof word;
        }
        const size_t length = at < end ? authz_utf8_length(at, end) : 0;
        if (length == 0) {
            return at;
        }
        at += length;
    }
}

#endif
