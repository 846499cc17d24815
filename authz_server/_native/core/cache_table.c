#include "cache_table.h"

#define CACHE_LINE 64
#define SEGMENT_ENTRIES 256
#define MAX_SEGMENTS 65536u
#define MAX_BUCKETS 65536u /* as many as 16 bits of hash tell apart */
#define FULL_PER_BUCKET 6  /* a segment grows when its buckets hold more on average */
#define STUCK 255
#define PREFETCHED_KEY 2048   /* what is behind, the processor sees coming */
#define PREFETCHED_VALUES 512

#if defined(__GNUC__)
#define PREFETCH(address) __builtin_prefetch(address)
#else
#define PREFETCH(address) ((void)(address))
#endif

static uint8_t
tag_of(uint64_t hash)
{
    const uint8_t tag = (uint8_t)(hash >> 56);
    return tag != 0 ? tag : 1;
}

static authz_cache_segment *
segment_of(const authz_cache_table *table, uint64_t hash)
{
    return &table->segments[hash & (table->segment_count - 1)];
}

static uint32_t
home_of(uint32_t bucket_count, uint32_t hash)
{
    return (uint32_t)(((uint64_t)(hash >> 16) * bucket_count) >> 16);
}

static uint32_t
next_to(const authz_cache_segment *segment, uint32_t bucket)
{
    return bucket + 1 < segment->bucket_count ? bucket + 1 : 0;
}

bool
authz_cache_table_open(authz_cache_table *table, size_t entries, const authz_allocator *allocator)
{
    table->allocator = *allocator;
    table->segment_count = 1;
    while (table->segment_count < MAX_SEGMENTS &&
           table->segment_count < entries / SEGMENT_ENTRIES) {
        table->segment_count *= 2;
    }
    const size_t size = table->segment_count * sizeof *table->segments;
    table->segments = allocator->allocate(allocator->context, size);
    if (table->segments == NULL) {
        return false;
    }
    for (size_t i = 0; i < table->segment_count; i++) {
        table->segments[i] = (authz_cache_segment){NULL, NULL, 0, 0};
    }
    return true;
}

void
authz_cache_table_close(authz_cache_table *table)
{
    authz_cache_table_release(table, authz_cache_table_empty(table));
    table->allocator.release(table->allocator.context, table->segments);
    table->segments = NULL;
}

void
authz_cache_table_prefetch(const authz_cache_table *table, uint64_t hash)
{
    PREFETCH(segment_of(table, hash));
}

/* Asks for all that a hit is going to read of an entry: header, key, and the begin of its
 * values, whose place is known from the asked key. Memory answers these together; asked
 * for one after the other, as they are read, each would take as long as all. Addresses
 * may lie beyond the entry: a prefetch reads nothing. */
static void
prefetch_entry(const authz_entry *entry, size_t key_len)
{
    const uintptr_t begin = (uintptr_t)entry;
    const uintptr_t values = begin + offsetof(authz_entry, bytes) + key_len;
    uintptr_t at = begin;
    for (; at < values && at < begin + PREFETCHED_KEY; at += CACHE_LINE) {
        PREFETCH((const void *)at);
    }
    for (at = values; at < values + PREFETCHED_VALUES; at += CACHE_LINE) {
        PREFETCH((const void *)at);
    }
}

static bool
has_key(const authz_entry *entry, uint64_t hash, authz_span key)
{
    return entry->hash == (uint32_t)hash && entry->key_len == key.length &&
           authz_is_equal(entry->bytes, key.data, key.length);
}

authz_entry *
authz_cache_table_find(const authz_cache_table *table, uint64_t hash, authz_span key)
{
    const authz_cache_segment *segment = segment_of(table, hash);
    const uint8_t tag = tag_of(hash);
    uint32_t at = home_of(segment->bucket_count, (uint32_t)hash);
    for (uint32_t i = 0; i < segment->bucket_count; i++) {
        const authz_cache_bucket *bucket = &segment->buckets[at];
        for (size_t slot = 0; slot < AUTHZ_BUCKET_SLOTS; slot++) {
            if (bucket->tags[slot] != tag) {
                continue;
            }
            authz_entry *entry = bucket->entries[slot];
            prefetch_entry(entry, key.length);
            if (has_key(entry, hash, key)) {
                return entry;
            }
        }
        if (bucket->passed == 0) {
            break;
        }
        at = next_to(segment, at);
    }
    return NULL;
}

const authz_entry *
authz_cache_table_find_used(const authz_cache_table *table, uint32_t hash, uint32_t used, uint32_t now)
{
    const authz_cache_segment *segment = segment_of(table, hash);
    uint32_t at = home_of(segment->bucket_count, hash);
    for (uint32_t i = 0; i < segment->bucket_count; i++) {
        for (size_t slot = 0; slot < AUTHZ_BUCKET_SLOTS; slot++) {
            const authz_entry *entry = segment->buckets[at].entries[slot];
            if (entry != NULL && entry->hash == hash &&
                (entry->used == used || (int32_t)(entry->used - now) > 0)) {
                return entry;
            }
        }
        at = next_to(segment, at);
    }
    return NULL;
}

/* Puts the entry into the first free slot from its home on: there is one. */
static void
place(authz_cache_segment *segment, uint8_t tag, authz_entry *entry)
{
    uint32_t at = home_of(segment->bucket_count, entry->hash);
    for (;;) {
        authz_cache_bucket *bucket = &segment->buckets[at];
        for (size_t slot = 0; slot < AUTHZ_BUCKET_SLOTS; slot++) {
            if (bucket->tags[slot] == 0) {
                bucket->tags[slot] = tag;
                bucket->entries[slot] = entry;
                segment->entry_count++;
                return;
            }
        }
        if (bucket->passed != STUCK) {
            bucket->passed++;
        }
        at = next_to(segment, at);
    }
}

/* Moves the segment to more buckets. False: no memory, and nothing has changed. */
static bool
grow(authz_cache_table *table, authz_cache_segment *segment)
{
    const uint32_t old = segment->bucket_count;
    const uint32_t count = old + old / 4 + 1;
    if (count > MAX_BUCKETS) {
        return false;
    }
    const size_t size = count * sizeof(authz_cache_bucket);
    void *memory =
        table->allocator.allocate(table->allocator.context, size + CACHE_LINE - 1);
    if (memory == NULL) {
        return false;
    }
    const size_t beyond = (uintptr_t)memory % CACHE_LINE;
    char *begin = (char *)memory + (beyond != 0 ? CACHE_LINE - beyond : 0);
    memset(begin, 0, size);
    authz_cache_segment larger = {(authz_cache_bucket *)(void *)begin, memory, count, 0};
    for (uint32_t i = 0; i < old; i++) {
        for (size_t slot = 0; slot < AUTHZ_BUCKET_SLOTS; slot++) {
            if (segment->buckets[i].tags[slot] != 0) {
                place(&larger, segment->buckets[i].tags[slot],
                      segment->buckets[i].entries[slot]);
            }
        }
    }
    table->allocator.release(table->allocator.context, segment->memory);
    *segment = larger;
    return true;
}

bool
authz_cache_table_insert(authz_cache_table *table, uint64_t hash, authz_entry *entry)
{
    authz_cache_segment *segment = segment_of(table, hash);
    const uint64_t buckets = segment->bucket_count;
    if (segment->entry_count + 1 > buckets * FULL_PER_BUCKET &&
        !grow(table, segment) && segment->entry_count >= buckets * AUTHZ_BUCKET_SLOTS) {
        return false;
    }
    entry->hash = (uint32_t)hash;
    place(segment, tag_of(hash), entry);
    return true;
}

void
authz_cache_table_remove(authz_cache_table *table, const authz_entry *entry)
{
    authz_cache_segment *segment = segment_of(table, entry->hash);
    uint32_t at = home_of(segment->bucket_count, entry->hash);
    for (;;) {
        authz_cache_bucket *bucket = &segment->buckets[at];
        for (size_t slot = 0; slot < AUTHZ_BUCKET_SLOTS; slot++) {
            if (bucket->entries[slot] == entry) {
                bucket->tags[slot] = 0;
                bucket->entries[slot] = NULL;
                segment->entry_count--;
                return;
            }
        }
        if (bucket->passed != STUCK) {
            bucket->passed--;
        }
        at = next_to(segment, at);
    }
}

void *
authz_cache_table_empty(authz_cache_table *table)
{
    void *chain = NULL;
    for (size_t i = 0; i < table->segment_count; i++) {
        authz_cache_segment *segment = &table->segments[i];
        if (segment->memory != NULL) {
            memcpy(segment->memory, &chain, sizeof chain);
            chain = segment->memory;
            *segment = (authz_cache_segment){NULL, NULL, 0, 0};
        }
    }
    return chain;
}

void
authz_cache_table_release(const authz_cache_table *table, void *memory)
{
    while (memory != NULL) {
        void *next;
        memcpy(&next, memory, sizeof next);
        table->allocator.release(table->allocator.context, memory);
        memory = next;
    }
}

/* How many entries should have passed the bucket `passed` on the way from their home. */
static uint32_t
count_passed(const authz_cache_segment *segment, uint32_t passed)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < segment->bucket_count; i++) {
        for (size_t slot = 0; slot < AUTHZ_BUCKET_SLOTS; slot++) {
            const authz_entry *entry = segment->buckets[i].entries[slot];
            if (entry == NULL) {
                continue;
            }
            const uint32_t home = home_of(segment->bucket_count, entry->hash);
            const uint32_t way = (i + segment->bucket_count - home);
            const uint32_t here = (passed + segment->bucket_count - home);
            count += here % segment->bucket_count < way % segment->bucket_count;
        }
    }
    return count;
}

bool
authz_cache_table_is_whole(const authz_cache_table *table, size_t entries)
{
    size_t total = 0;
    for (size_t i = 0; i < table->segment_count; i++) {
        const authz_cache_segment *segment = &table->segments[i];
        size_t used = 0;
        for (uint32_t at = 0; at < segment->bucket_count; at++) {
            const authz_cache_bucket *bucket = &segment->buckets[at];
            for (size_t slot = 0; slot < AUTHZ_BUCKET_SLOTS; slot++) {
                const authz_entry *entry = bucket->entries[slot];
                if ((bucket->tags[slot] != 0) != (entry != NULL)) {
                    return false;
                }
                if (entry != NULL && segment_of(table, entry->hash) != segment) {
                    return false;
                }
                used += entry != NULL;
            }
            if (bucket->passed != STUCK && bucket->passed != count_passed(segment, at)) {
                return false;
            }
        }
        if (used != segment->entry_count) {
            return false;
        }
        total += used;
    }
    return total == entries;
}
