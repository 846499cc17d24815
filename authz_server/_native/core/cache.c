/* The lock and what is done under it.
 *
 * One mutex, which spins for a moment before it sleeps. A get hashes outside and holds it
 * to find, compare and copy: 0.1 to 0.4 us while the entries are in the processor's cache,
 * about 1 us when they are not. Measured on 2 shared cores, threads that do nothing else,
 * 20,000 entries, keys of 1,024 bytes, million lookups a second (three runs):
 *
 *   threads   a plain mutex   one that spins   sixteen caches, a lock each
 *   1          1.4 to 1.9      1.7 to 1.9       1.6 to 1.7
 *   2          1.0 to 1.5      1.7 to 1.9       2.6 to 3.1
 *   8          1.3 to 1.5      1.2 to 1.8       2.0 to 2.9
 *
 * So locks by shard would be 1.5 to 2 times as fast where threads do nothing but look up.
 * They do more: a listener spends about 12 us on a check, so a core asks some 80,000 times
 * a second, and one lock is enough for a dozen or so. What it buys is one order of eviction
 * for all keys, which the Python twin can be compared with step by step. Where there are
 * more cores than that, this is to be measured again.
 *
 * Nothing holds the lock for long: a segment that grows moves some 300 entries (a put at
 * 1,000,000 entries: p99 10 to 18 us, p99.9 25 to 39 us), the hand passes a few hundred,
 * `latest` goes segment by segment, `clear` touches and frees the entries after the lock.
 * Two exceptions: an entry of megabytes evicts as many small ones as it takes, and `check`
 * is for tests.
 *
 * Memory, not the table, is what a million entries cost: figures in benchmarks/cache_scale.py.
 */

#include "cache.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>

#include "cache_entry.h"
#include "cache_order.h"
#include "cache_revisions.h"
#include "cache_table.h"
#include "keyed_hash.h"

struct authz_cache {
    /* Never change after authz_cache_create. */
    authz_allocator allocator;
    authz_hash_key key;
    size_t max_entries, max_bytes;

    pthread_mutex_t lock; /* guards all that follows */
    authz_cache_table table;
    authz_order order;
    authz_revisions revisions;
    uint32_t uses; /* puts and hits so far; may run over */
    authz_cache_counts stats;
};

static void *
allocate(authz_cache *cache, size_t size)
{
    return cache->allocator.allocate(cache->allocator.context, size);
}

static void
release(authz_cache *cache, void *memory)
{
    cache->allocator.release(cache->allocator.context, memory);
}

/* Frees entries that are linked by `older`; needs no lock. */
static void
release_entries(authz_cache *cache, authz_entry *entry)
{
    while (entry != NULL) {
        authz_entry *older = entry->older;
        release(cache, entry);
        entry = older;
    }
}

/* One that spins for a moment before it sleeps, where there is such a one. */
static bool
make_lock(pthread_mutex_t *lock)
{
    pthread_mutexattr_t attributes;
    if (pthread_mutexattr_init(&attributes) != 0) {
        return false;
    }
#if defined(__GLIBC__)
    (void)pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ADAPTIVE_NP);
#endif
    const bool is_made = pthread_mutex_init(lock, &attributes) == 0;
    pthread_mutexattr_destroy(&attributes);
    return is_made;
}

authz_cache *
authz_cache_create(size_t max_entries, size_t max_bytes,
                const unsigned char seed[AUTHZ_SEED_BYTES], const authz_allocator *allocator)
{
    authz_cache *cache = allocator->allocate(allocator->context, sizeof *cache);
    if (cache == NULL) {
        return NULL;
    }
    memset(cache, 0, sizeof *cache);
    cache->allocator = *allocator;
    cache->key = authz_hash_key_of(seed);
    cache->revisions.key = cache->key.siphash;
    cache->max_entries = max_entries;
    cache->max_bytes = max_bytes;
    const size_t by_bytes = max_bytes / AUTHZ_ENTRY_OVERHEAD;
    if (!authz_cache_table_open(&cache->table, by_bytes < max_entries ? by_bytes : max_entries,
                       allocator)) {
        release(cache, cache);
        return NULL;
    }
    if (!make_lock(&cache->lock)) {
        authz_cache_table_close(&cache->table);
        release(cache, cache);
        return NULL;
    }
    return cache;
}

void
authz_cache_destroy(authz_cache *cache)
{
    if (cache == NULL) {
        return;
    }
    authz_cache_clear(cache);
    authz_cache_table_close(&cache->table);
    pthread_mutex_destroy(&cache->lock);
    const authz_allocator allocator = cache->allocator;
    allocator.release(allocator.context, cache);
}

/* Takes an entry out of everything. The caller frees it, once the lock is free. */
static void
forget(authz_cache *cache, authz_entry *entry)
{
    authz_cache_table_remove(&cache->table, entry);
    authz_order_remove(&cache->order, entry);
    authz_revisions_drop(&cache->revisions, entry->revision, &cache->allocator);
    cache->stats.entries--;
    cache->stats.bytes -= authz_entry_cost(entry);
}

static bool
answers(const authz_entry *entry, const authz_revision *revision, authz_instant now)
{
    return entry->revision == revision && now.steady_s < entry->expires_s &&
           entry->valid_from_s <= now.wall_s && now.wall_s <= entry->valid_until_s;
}

/* Ends an entry for good, whatever the clocks will say or the revision will be. It stays
 * where it is: the decision that is made now instead takes over from it (see admit). */
static void
end(authz_entry *entry)
{
    entry->expires_s = -INFINITY;
    authz_order_leave(entry);
}

/* Under the lock. */
static authz_cache_status
recall(authz_cache *cache, uint64_t hash, authz_span key, authz_span revision, authz_instant now,
       unsigned char *buffer, size_t capacity, authz_answer *answer)
{
    authz_entry *entry = authz_cache_table_find(&cache->table, hash, key);
    if (entry == NULL) {
        cache->stats.misses++;
        return AUTHZ_CACHE_MISS;
    }
    if (!answers(entry, authz_revisions_find(&cache->revisions, revision), now)) {
        end(entry);
        cache->stats.misses++;
        return AUTHZ_CACHE_MISS;
    }
    *answer = (authz_answer){
        .response_len = authz_entry_response_len(entry),
        .record_len = authz_entry_record_len(entry),
        .reason = authz_entry_reason(entry),
        .expires_s = entry->expires_s,
        .valid_from_s = entry->valid_from_s,
        .valid_until_s = entry->valid_until_s,
    };
    const size_t len = answer->response_len + answer->record_len;
    if (len > capacity) {
        return AUTHZ_CACHE_SMALL_BUFFER;
    }
    authz_copy(buffer, entry->bytes + entry->key_len, len);
    authz_order_visit(entry);
    entry->used = ++cache->uses;
    cache->stats.hits++;
    return AUTHZ_CACHE_OK;
}

authz_cache_status
authz_cache_get(authz_cache *cache, authz_span key, authz_span revision, authz_instant now,
             unsigned char *buffer, size_t capacity, authz_answer *answer)
{
    const uint64_t hash = authz_keyed_hash(&cache->key, key.data, key.length);
    authz_cache_table_prefetch(&cache->table, hash);
    pthread_mutex_lock(&cache->lock);
    const authz_cache_status status =
        recall(cache, hash, key, revision, now, buffer, capacity, answer);
    pthread_mutex_unlock(&cache->lock);
    return status;
}

/* Makes an entry of `decision`; NULL: no memory. */
static authz_entry *
compose(authz_cache *cache, authz_span key, const authz_decision *decision)
{
    const size_t len = key.length + decision->response.length + decision->record.length;
    const size_t size = offsetof(authz_entry, bytes) + len;
    authz_entry *entry = allocate(cache, size > sizeof *entry ? size : sizeof *entry);
    if (entry == NULL) {
        return NULL;
    }
    entry->newer = entry->older = NULL;
    entry->revision = NULL;
    entry->expires_s = decision->expires_s;
    entry->valid_from_s = decision->valid_from_s;
    entry->valid_until_s = decision->valid_until_s;
    entry->hash = entry->used = 0;
    entry->key_len = (uint32_t)key.length;
    entry->response = (uint32_t)decision->response.length |
                      (uint32_t)decision->reason << AUTHZ_LENGTH_BITS;
    entry->record = (uint32_t)decision->record.length;
    unsigned char *at = entry->bytes;
    authz_copy(at, key.data, key.length);
    at += key.length;
    authz_copy(at, decision->response.data, decision->response.length);
    at += decision->response.length;
    authz_copy(at, decision->record.data, decision->record.length);
    return entry;
}

/* Under the lock: makes room for `entry` and lets it in. What has to go is put before
 * `*gone`, which is the older entry of the key if there was one: then the key has been
 * asked for again, and the new entry begins as a visited one. False: no memory, and
 * `entry` is nowhere. */
static bool
admit(authz_cache *cache, uint64_t hash, authz_span revision, authz_entry *entry,
      authz_entry **gone)
{
    const size_t cost = authz_entry_cost(entry);
    if (*gone != NULL) {
        authz_order_visit(entry);
    }
    entry->revision = authz_revisions_hold(&cache->revisions, revision, &cache->allocator);
    if (entry->revision == NULL) {
        return false;
    }
    while (cache->stats.entries >= cache->max_entries ||
           cache->stats.bytes > cache->max_bytes - cost) {
        authz_entry *victim = authz_order_victim(&cache->order);
        forget(cache, victim);
        victim->older = *gone;
        *gone = victim;
        cache->stats.evictions++;
    }
    if (!authz_cache_table_insert(&cache->table, hash, entry)) {
        authz_revisions_drop(&cache->revisions, entry->revision, &cache->allocator);
        return false;
    }
    authz_order_push(&cache->order, entry);
    entry->used = ++cache->uses;
    cache->stats.entries++;
    cache->stats.bytes += cost;
    return true;
}

authz_cache_status
authz_cache_put(authz_cache *cache, authz_span key, authz_span revision,
             const authz_decision *decision)
{
    const uint64_t hash = authz_keyed_hash(&cache->key, key.data, key.length);
    const bool has_room =
        cache->max_entries > 0 && key.length <= UINT32_MAX &&
        decision->response.length <= AUTHZ_CACHE_MAX_VALUE_BYTES &&
        decision->record.length <= AUTHZ_CACHE_MAX_VALUE_BYTES &&
        key.length + decision->response.length + decision->record.length + AUTHZ_ENTRY_OVERHEAD <=
            cache->max_bytes;
    authz_entry *entry = has_room ? compose(cache, key, decision) : NULL;
    authz_cache_status status = entry != NULL ? AUTHZ_CACHE_OK : has_room ? AUTHZ_CACHE_NO_MEMORY : AUTHZ_CACHE_NOT_KEPT;

    pthread_mutex_lock(&cache->lock);
    authz_entry *gone = authz_cache_table_find(&cache->table, hash, key);
    if (gone != NULL) {
        forget(cache, gone);
        gone->older = NULL;
    }
    if (entry != NULL && !admit(cache, hash, revision, entry, &gone)) {
        entry->older = gone;
        gone = entry;
        status = AUTHZ_CACHE_NO_MEMORY;
    }
    pthread_mutex_unlock(&cache->lock);
    release_entries(cache, gone);
    return status;
}

void
authz_cache_clear(authz_cache *cache)
{
    pthread_mutex_lock(&cache->lock);
    authz_entry *entries = cache->order.newest;
    authz_revisions revisions = cache->revisions;
    cache->revisions = (authz_revisions){.key = cache->key.siphash};
    cache->order = (authz_order){0};
    void *memory = authz_cache_table_empty(&cache->table);
    cache->stats.entries = cache->stats.bytes = 0;
    pthread_mutex_unlock(&cache->lock);
    release_entries(cache, entries);
    authz_revisions_release(&revisions, &cache->allocator);
    authz_cache_table_release(&cache->table, memory);
}

authz_cache_counts
authz_cache_stats(authz_cache *cache)
{
    pthread_mutex_lock(&cache->lock);
    const authz_cache_counts stats = cache->stats;
    pthread_mutex_unlock(&cache->lock);
    return stats;
}

/* A key that is perhaps among the last used. */
typedef struct {
    int32_t age; /* in uses, from when the walk began; after 2^31 uses a lie, no harm */
    uint32_t hash;
} candidate;

static int
compare_ages(const void *a, const void *b)
{
    const int32_t x = ((const candidate *)a)->age, y = ((const candidate *)b)->age;
    return (x > y) - (x < y);
}

/* Replaces the oldest of a heap, and lets the new one sink to its place. */
static void
replace_oldest(candidate *heap, size_t count, candidate new)
{
    size_t at = 0;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= count) {
            break;
        }
        if (child + 1 < count && heap[child + 1].age > heap[child].age) {
            child++;
        }
        if (heap[child].age <= new.age) {
            break;
        }
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = new;
}

/* Adds one at the end of a heap, and lets it rise. */
static void
add_candidate(candidate *heap, size_t count, candidate new)
{
    size_t at = count;
    while (at > 0 && heap[(at - 1) / 2].age < new.age) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = new;
}

/* Under the lock: offers every entry of one segment to the heap. */
static void
offer(const authz_cache_segment *segment, uint32_t now, candidate *heap, size_t *count,
      size_t wanted)
{
    for (uint32_t i = 0; i < segment->bucket_count; i++) {
        for (size_t slot = 0; slot < AUTHZ_BUCKET_SLOTS; slot++) {
            const authz_entry *entry = segment->buckets[i].entries[slot];
            if (entry == NULL) {
                continue;
            }
            const candidate new = {(int32_t)(now - entry->used), entry->hash};
            if (*count < wanted) {
                add_candidate(heap, *count, new);
                ++*count;
            } else if (new.age < heap[0].age) {
                replace_oldest(heap, *count, new);
            }
        }
    }
}

/* Copies the key of a candidate. AUTHZ_CACHE_MISS: its entry is gone meanwhile. */
static authz_cache_status
copy_key(authz_cache *cache, candidate wanted, uint32_t now, authz_span *key)
{
    authz_cache_status status = AUTHZ_CACHE_MISS;
    pthread_mutex_lock(&cache->lock);
    const authz_entry *entry = authz_cache_table_find_used(&cache->table, wanted.hash,
                                               now - (uint32_t)wanted.age, now);
    if (entry != NULL) {
        unsigned char *copy = allocate(cache, (size_t)entry->key_len + 1);
        status = copy != NULL ? AUTHZ_CACHE_OK : AUTHZ_CACHE_NO_MEMORY;
        if (copy != NULL) {
            authz_copy(copy, entry->bytes, entry->key_len);
            *key = (authz_span){copy, entry->key_len};
        }
    }
    pthread_mutex_unlock(&cache->lock);
    return status;
}

authz_cache_status
authz_cache_latest(authz_cache *cache, size_t count, authz_keys **keys)
{
    pthread_mutex_lock(&cache->lock);
    const uint32_t now = cache->uses;
    const size_t wanted = count < cache->stats.entries ? count : cache->stats.entries;
    pthread_mutex_unlock(&cache->lock);

    candidate *heap = allocate(cache, (wanted + 1) * sizeof *heap);
    authz_keys *found = allocate(cache, sizeof *found + wanted * sizeof found->keys[0]);
    if (heap == NULL || found == NULL) {
        release(cache, heap);
        release(cache, found);
        return AUTHZ_CACHE_NO_MEMORY;
    }
    size_t filled = 0;
    for (size_t i = 0; wanted > 0 && i < cache->table.segment_count; i++) {
        pthread_mutex_lock(&cache->lock);
        offer(&cache->table.segments[i], now, heap, &filled, wanted);
        pthread_mutex_unlock(&cache->lock);
    }
    qsort(heap, filled, sizeof *heap, compare_ages);
    authz_cache_status status = AUTHZ_CACHE_OK;
    found->count = 0;
    for (size_t i = 0; i < filled && status != AUTHZ_CACHE_NO_MEMORY; i++) {
        status = copy_key(cache, heap[i], now, &found->keys[found->count]);
        found->count += status == AUTHZ_CACHE_OK;
    }
    release(cache, heap);
    if (status == AUTHZ_CACHE_NO_MEMORY) {
        authz_keys_free(cache, found);
        return AUTHZ_CACHE_NO_MEMORY;
    }
    *keys = found;
    return AUTHZ_CACHE_OK;
}

void
authz_keys_free(authz_cache *cache, authz_keys *keys)
{
    for (size_t i = 0; keys != NULL && i < keys->count; i++) {
        release(cache, (void *)(uintptr_t)keys->keys[i].data);
    }
    release(cache, keys);
}

/* The first invariant of the order and the entries in it that does not hold. */
static const char *
check_entries(authz_cache *cache)
{
    size_t entries = 0, bytes = 0;
    const authz_entry *newer = NULL;
    bool has_hand = cache->order.hand == NULL;
    for (authz_entry *at = cache->order.newest; at != NULL; newer = at, at = at->older) {
        if (at->newer != newer || ++entries > cache->stats.entries) {
            return "the order of entries is not one chain";
        }
        const authz_span key = {at->bytes, at->key_len};
        const uint64_t hash = authz_keyed_hash(&cache->key, key.data, key.length);
        if (at->hash != (uint32_t)hash || authz_cache_table_find(&cache->table, hash, key) != at) {
            return "an entry is not found by its key";
        }
        bytes += authz_entry_cost(at);
        has_hand = has_hand || at == cache->order.hand;
    }
    if (cache->order.oldest != newer || entries != cache->stats.entries) {
        return "the order of entries does not end at the oldest";
    }
    if (!has_hand) {
        return "the hand points at no entry";
    }
    if (bytes != cache->stats.bytes) {
        return "the bytes are not those of the entries";
    }
    return NULL;
}

const char *
authz_cache_check(authz_cache *cache)
{
    pthread_mutex_lock(&cache->lock);
    const char *fault = check_entries(cache);
    if (fault == NULL && !authz_cache_table_is_whole(&cache->table, cache->stats.entries)) {
        fault = "the table is not whole";
    }
    if (fault == NULL &&
        !authz_revisions_are_whole(&cache->revisions, cache->stats.entries)) {
        fault = "the revisions do not hold the entries";
    }
    if (fault == NULL && (cache->stats.entries > cache->max_entries ||
                          cache->stats.bytes > cache->max_bytes)) {
        fault = "the cache is larger than it may be";
    }
    pthread_mutex_unlock(&cache->lock);
    return fault;
}
