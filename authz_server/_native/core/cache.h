/* The decision cache: whole canonical facts in, a remembered decision out.
 *
 * What an answer of `authz_cache_get` has proved, under the lock and at once:
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
#include "clock.h"
#include "siphash.h"
#include "span.h"

/* What an entry is charged beside its key, response and record. A test measures what
 * 1,000,000 entries really take: 96 bytes each with glibc's own, 33 of them for what the
 * decision says beside (dates, revision, reason). */
#define AUTHZ_ENTRY_OVERHEAD 100

/* A longer response or record is not kept: nothing that Envoy would take is so long. */
#define AUTHZ_CACHE_MAX_VALUE_BYTES ((1u << 24) - 1)

typedef enum {
    AUTHZ_CACHE_OK = 0,        /* get: a hit; put: the entry is kept */
    AUTHZ_CACHE_MISS,          /* get: there is no answer */
    AUTHZ_CACHE_SMALL_BUFFER,  /* get: there is one, and it needs more room; nothing was counted */
    AUTHZ_CACHE_NOT_KEPT,      /* put: the entry is larger than the cache, or a length limit */
    AUTHZ_CACHE_NO_MEMORY,     /* put, latest: the allocator gave none; the cache is whole */
} authz_cache_status;


/* A decision as it is put. The cache copies what the pointers show. */
typedef struct {
    authz_span response;
    authz_span record;
    uint8_t reason;       /* a code of the caller's */
    double expires_s;     /* steady: the first moment at which it no longer answers */
    double valid_from_s;  /* wall, both inclusive (RFC 5280 4.1.2.5) */
    double valid_until_s;
} authz_decision;

/* A decision as it is got: response and record lie in the buffer that the caller gave,
 * so they are the caller's, whatever happens to the entry. */
typedef struct {
    size_t response_len; /* from the buffer's begin */
    size_t record_len;   /* right behind */
    uint8_t reason;
    double expires_s;
    double valid_from_s;
    double valid_until_s;
} authz_answer;

typedef struct {
    size_t entries;
    size_t bytes; /* charged: keys, values and AUTHZ_ENTRY_OVERHEAD each */
    uint64_t hits;
    uint64_t misses;
    uint64_t evictions;
} authz_cache_counts;

/* Keys that `authz_cache_latest` gave, the last used first. */
typedef struct {
    size_t count;
    authz_span keys[];
} authz_keys;

typedef struct authz_cache authz_cache;

/* Makes a cache of at most `max_entries` entries (0: it keeps nothing) and `max_bytes`
 * charged bytes. `seed` keys the hash: random, one a process, never shown.
 * NULL: no memory. The caller ends it with authz_cache_destroy. */
authz_cache *authz_cache_create(size_t max_entries, size_t max_bytes,
                          const unsigned char seed[AUTHZ_SEED_BYTES],
                          const authz_allocator *allocator);

/* Frees everything. No other thread may use the cache any more. NULL does nothing. */
void authz_cache_destroy(authz_cache *cache);

/* Copies the answer to `key` into `buffer` and `*answer`.
 *
 * AUTHZ_CACHE_OK           the answer is there, response first, record behind it.
 * AUTHZ_CACHE_MISS         there is none. One that did not hold now never will again; it keeps its
 *                 place and bytes until a put of the key, or until the hand takes it.
 * AUTHZ_CACHE_SMALL_BUFFER response_len and record_len say how much it needs; ask again. By then
 *                 the entry may be another, so ask in a loop. */
authz_cache_status authz_cache_get(authz_cache *cache, authz_span key, authz_span revision, authz_instant now,
                       unsigned char *buffer, size_t capacity, authz_answer *answer);

/* Remembers `decision` for `key` under `revision`, and forgets what SIEVE picks if room
 * is short. An older entry of the key is gone afterwards, whatever comes back. It evicts
 * before it lets in, so it never evicts what it has just put. */
authz_cache_status authz_cache_put(authz_cache *cache, authz_span key, authz_span revision,
                       const authz_decision *decision);

/* Gives up to `count` keys, the last used (put, or hit) first; the caller ends them with
 * authz_keys_free. It visits every entry, but holds the lock for a few hundred at a time:
 * what changes meanwhile may or may not show. */
authz_cache_status authz_cache_latest(authz_cache *cache, size_t count, authz_keys **keys);
void authz_keys_free(authz_cache *cache, authz_keys *keys);

/* Forgets every entry. */
void authz_cache_clear(authz_cache *cache);

authz_cache_counts authz_cache_stats(authz_cache *cache);

/* Walks the whole structure under the lock. NULL: every invariant holds; else the one
 * that does not. For tests: it takes as long as there are entries. */
const char *authz_cache_check(authz_cache *cache);

#endif
