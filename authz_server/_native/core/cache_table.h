/* Finds entries by key.
 *
 * The table is cut into segments of about 256 entries, and each segment grows alone, by
 * a quarter: with a million entries no growth moves more than a few hundred, and the
 * spare room is a seventh to a third and not a half.
 *
 *   hash (64 bits)  tag: bits 56..63 | ... | bucket: bits 16..31 | segment: bits 0..15
 *
 *   segments[n] --> buckets, one cache line each:
 *                   | 7 tags | passed | 7 pointers to entries |
 *
 * A search reads the tags of the home bucket, follows only pointers whose tag agrees (a
 * wrong one does 1 time in 255), compares 32 bits of hash and then the whole key. `passed`
 * counts the entries that found the bucket full and went on to the next: where it is 0,
 * the search ends. So one cache line decides most misses, nothing has to mark what was
 * removed, and a removed entry leaves no trace (F14 of folly does it like this). A count
 * that has reached 255 stays there until the segment grows. */

#ifndef AUTHZ_CORE_CACHE_TABLE_H
#define AUTHZ_CORE_CACHE_TABLE_H

#include "cache_entry.h"

#define AUTHZ_BUCKET_SLOTS 7

typedef struct {
    uint8_t tags[AUTHZ_BUCKET_SLOTS]; /* 0: free */
    uint8_t passed;
    authz_entry *entries[AUTHZ_BUCKET_SLOTS];
} authz_cache_bucket;

_Static_assert(sizeof(authz_cache_bucket) == 64, "a bucket is a cache line; 64-bit machines only");

typedef struct {
    authz_cache_bucket *buckets; /* on a cache line, within memory */
    void *memory;
    uint32_t bucket_count;
    uint32_t entry_count;
} authz_cache_segment;

typedef struct {
    authz_cache_segment *segments;
    size_t segment_count; /* a power of two, 65536 at most */
    authz_allocator allocator;
} authz_cache_table;

/* Makes a table that is meant for up to `entries` entries. False: no memory. */
bool authz_cache_table_open(authz_cache_table *table, size_t entries, const authz_allocator *allocator);

/* Frees the table, not the entries. */
void authz_cache_table_close(authz_cache_table *table);

/* Asks the memory for what a search for `hash` reads first. Needs no lock. */
void authz_cache_table_prefetch(const authz_cache_table *table, uint64_t hash);

/* NULL: there is none. */
authz_entry *authz_cache_table_find(const authz_cache_table *table, uint64_t hash, authz_span key);

/* An entry with that hash, last used at `used` or since `now`; NULL: it is gone. */
const authz_entry *authz_cache_table_find_used(const authz_cache_table *table, uint32_t hash, uint32_t used,
                                   uint32_t now);

/* Adds an entry whose key is not in the table, and sets its hash. False: no memory, and
 * nothing has changed. */
bool authz_cache_table_insert(authz_cache_table *table, uint64_t hash, authz_entry *entry);

/* Removes an entry that is in the table. */
void authz_cache_table_remove(authz_cache_table *table, const authz_entry *entry);

/* Forgets every entry. Returns memory that is to be released by authz_cache_table_release once the
 * lock is free. */
void *authz_cache_table_empty(authz_cache_table *table);
void authz_cache_table_release(const authz_cache_table *table, void *memory);

/* Whether tags, counts and places are what they should be, for `entries` entries. */
bool authz_cache_table_is_whole(const authz_cache_table *table, size_t entries);

#endif
