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

typedef struct dc_revision dc_revision;

typedef struct dc_entry {
    struct dc_entry *newer, *older;
    dc_revision *revision;
    double expires_s, valid_from_s, valid_until_s;
    uint32_t hash;
    uint32_t used;
    uint32_t key_len;
    uint32_t response;
    uint32_t record;
    unsigned char bytes[];
} dc_entry;

#define DC_LENGTH_BITS 24
#define DC_VISITED (1u << DC_LENGTH_BITS)

static inline size_t
dc_entry_response_len(const dc_entry *entry)
{
    return entry->response & DC_MAX_VALUE_BYTES;
}

static inline size_t
dc_entry_record_len(const dc_entry *entry)
{
    return entry->record & DC_MAX_VALUE_BYTES;
}

static inline uint8_t
dc_entry_reason(const dc_entry *entry)
{
    return (uint8_t)(entry->response >> DC_LENGTH_BITS);
}

static inline bool
dc_entry_is_visited(const dc_entry *entry)
{
    return (entry->record & DC_VISITED) != 0;
}

/* What the entry is charged. */
static inline size_t
dc_entry_cost(const dc_entry *entry)
{
    return entry->key_len + dc_entry_response_len(entry) + dc_entry_record_len(entry) +
           DC_ENTRY_OVERHEAD;
}

/* memcmp and memcpy for what may be empty, and then may be a null pointer. */
static inline bool
dc_is_equal(const void *a, const void *b, size_t len)
{
    return len == 0 || memcmp(a, b, len) == 0;
}

static inline void
dc_copy(void *to, const void *from, size_t len)
{
    if (len != 0) {
        memcpy(to, from, len);
    }
}

#endif
