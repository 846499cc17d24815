/* One entry of the decision cache: a single allocation.
 *
 *   offset  0  newer, older     its neighbours in the order of insertion
 *          16  revision         interned, so equality of pointers is equality
 *          24  expires, valid_from, valid_until
 *          48  hash             32 bits: finds its place again without its key
 *          52  used             when it was last put or hit, in uses of the cache
 *          56  key_len
 *          60  response         length in 24 bits, reason in the upper 8
 *          64  record           length in 24 bits, SIEVE's visited bit in bit 24
 *          68  key, response, record
 *
 * Of the 68 bytes, 33 are what the decision itself says (dates, revision, reason). */

#ifndef AUTHZ_CORE_CACHE_ENTRY_H
#define AUTHZ_CORE_CACHE_ENTRY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "cache.h"

typedef struct authz_revision authz_revision;

typedef struct authz_entry {
    struct authz_entry *newer, *older;
    authz_revision *revision;
    double expires_s, valid_from_s, valid_until_s;
    uint32_t hash;
    uint32_t used;
    uint32_t key_len;
    uint32_t response;
    uint32_t record;
    unsigned char bytes[];
} authz_entry;

#define AUTHZ_LENGTH_BITS 24
#define AUTHZ_VISITED (1u << AUTHZ_LENGTH_BITS)

static inline size_t
authz_entry_response_len(const authz_entry *entry)
{
    return entry->response & AUTHZ_CACHE_MAX_VALUE_BYTES;
}

static inline size_t
authz_entry_record_len(const authz_entry *entry)
{
    return entry->record & AUTHZ_CACHE_MAX_VALUE_BYTES;
}

static inline uint8_t
authz_entry_reason(const authz_entry *entry)
{
    return (uint8_t)(entry->response >> AUTHZ_LENGTH_BITS);
}

static inline bool
authz_entry_is_visited(const authz_entry *entry)
{
    return (entry->record & AUTHZ_VISITED) != 0;
}

/* What the entry is charged. */
static inline size_t
authz_entry_cost(const authz_entry *entry)
{
    return entry->key_len + authz_entry_response_len(entry) + authz_entry_record_len(entry) +
           AUTHZ_ENTRY_OVERHEAD;
}

/* memcmp and memcpy for what may be empty, and then may be a null pointer. */
static inline bool
authz_is_equal(const void *a, const void *b, size_t len)
{
    return len == 0 || memcmp(a, b, len) == 0;
}

static inline void
authz_copy(void *to, const void *from, size_t len)
{
    if (len != 0) {
        memcpy(to, from, len);
    }
}

#endif
