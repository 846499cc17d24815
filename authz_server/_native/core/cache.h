/* The decision cache: whole canonical facts in, a remembered decision out.
 *
 * What an answer of `dc_cache_get` has proved, under the lock and at once:
 *   - its key is the asked key, compared byte by byte (a hash only finds candidates);
 *   - it was made under the asked revision: revisions are interned, so an entry holds a
 *     pointer, and two different revisions can't be the same pointer. A changed revision
 *     ends every older entry at once, with nothing to sweep;
 *   - the steady clock is before its end, and the wall clock within its dates.
 *
 * C11 and POSIX threads; no globals, no clock, no random source, no Python. Safe to share
 * between threads: one mutex (why one, and for how long: cache.c). */

#ifndef AUTHZ_CORE_CACHE_H
#define AUTHZ_CORE_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "allocator.h"
#include "siphash.h"

/* What an entry is charged beside its key, response and record. A test measures what
 * 1,000,000 entries really take: 96 bytes each with glibc's own, 33 of them for what the
 * decision says beside (dates, revision, reason). */
#define DC_ENTRY_OVERHEAD 100

/* A longer response or record is not kept: nothing that Envoy would take is so long. */
#define DC_MAX_VALUE_BYTES ((1u << 24) - 1)

typedef enum {
    DC_OK = 0,        /* get: a hit; put: the entry is kept */
    DC_MISS,          /* get: there is no answer */
    DC_SMALL_BUFFER,  /* get: there is one, and it needs more room; nothing was counted */
    DC_NOT_KEPT,      /* put: the entry is larger than the cache, or a length limit */
    DC_NO_MEMORY,     /* put, latest: the allocator gave none; the cache is whole */
} dc_status;

typedef struct {
    const unsigned char *data;
    size_t len;
} dc_bytes;

typedef struct {
    double wall_s;
    double steady_s;
} dc_instant;

/* A decision as it is put. The cache copies what the pointers show. */
typedef struct {
    dc_bytes response;
    dc_bytes record;
    uint8_t reason;       /* a code of the caller's */
    double expires_s;     /* steady: the first moment at which it no longer answers */
    double valid_from_s;  /* wall, both inclusive (RFC 5280 4.1.2.5) */
    double valid_until_s;
} dc_decision;

/* A decision as it is got: response and record lie in the buffer that the caller gave,
 * so they are the caller's, whatever happens to the entry. */
typedef struct {
    size_t response_len; /* from the buffer's begin */
    size_t record_len;   /* right behind */
    uint8_t reason;
    double expires_s;
    double valid_from_s;
    double valid_until_s;
} dc_answer;

typedef struct {
    size_t entries;
    size_t bytes; /* charged: keys, values and DC_ENTRY_OVERHEAD each */
    uint64_t hits;
    uint64_t misses;
    uint64_t evictions;
} dc_stats;

/* Keys that `dc_cache_latest` gave, the last used first. */
typedef struct {
    size_t count;
    dc_bytes keys[];
} dc_keys;

typedef struct dc_cache dc_cache;

/* Makes a cache of at most `max_entries` entries (0: it keeps nothing) and `max_bytes`
 * charged bytes. `seed` keys the hash: random, one a process, never shown.
 * NULL: no memory. The caller ends it with dc_cache_destroy. */
dc_cache *dc_cache_create(size_t max_entries, size_t max_bytes,
                          const unsigned char seed[DC_SEED_BYTES],
                          const dc_allocator *allocator);

/* Frees everything. No other thread may use the cache any more. NULL does nothing. */
void dc_cache_destroy(dc_cache *cache);

/* Copies the answer to `key` into `buffer` and `*answer`.
 *
 * DC_OK           the answer is there, response first, record behind it.
 * DC_MISS         there is none. One that did not hold now never will again; it keeps its
 *                 place and bytes until a put of the key, or until the hand takes it.
 * DC_SMALL_BUFFER response_len and record_len say how much it needs; ask again. By then
 *                 the entry may be another, so ask in a loop. */
dc_status dc_cache_get(dc_cache *cache, dc_bytes key, dc_bytes revision, dc_instant now,
                       unsigned char *buffer, size_t capacity, dc_answer *answer);

/* Remembers `decision` for `key` under `revision`, and forgets what SIEVE picks if room
 * is short. An older entry of the key is gone afterwards, whatever comes back. It evicts
 * before it lets in, so it never evicts what it has just put. */
dc_status dc_cache_put(dc_cache *cache, dc_bytes key, dc_bytes revision,
                       const dc_decision *decision);

/* Gives up to `count` keys, the last used (put, or hit) first; the caller ends them with
 * dc_keys_free. It visits every entry, but holds the lock for a few hundred at a time:
 * what changes meanwhile may or may not show. */
dc_status dc_cache_latest(dc_cache *cache, size_t count, dc_keys **keys);
void dc_keys_free(dc_cache *cache, dc_keys *keys);

/* Forgets every entry. */
void dc_cache_clear(dc_cache *cache);

dc_stats dc_cache_stats(dc_cache *cache);

/* Walks the whole structure under the lock. NULL: every invariant holds; else the one
 * that does not. For tests: it takes as long as there are entries. */
const char *dc_cache_check(dc_cache *cache);

#endif
