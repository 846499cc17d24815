/* What 1,000,000 entries take beside their keys and values, by the C library's own word.
 * Not under a sanitizer, whose allocator is another. */

#include <malloc.h>

#include "cache_entry.h"
#include "cache_model.h"

enum { ENTRIES = 1000000 };

static void *
allocate(void *context, size_t size)
{
    void *memory = malloc(size);
    if (memory != NULL) {
        /* A block of glibc has a word in front of what may be used. */
        *(size_t *)context += malloc_usable_size(memory) + sizeof(size_t);
    }
    return memory;
}

static void
release(void *context, void *memory)
{
    if (memory != NULL) {
        *(size_t *)context -= malloc_usable_size(memory) + sizeof(size_t);
    }
    free(memory);
}

int
main(void)
{
    size_t held = 0, content = 0;
    const authz_allocator allocator = {&held, allocate, release};
    authz_cache *cache = authz_cache_create(ENTRIES, SIZE_MAX / 2, SEED, &allocator);
    uint64_t random = 7;
    unsigned char bytes[256];
    memset(bytes, 'x', sizeof bytes);
    for (unsigned i = 0; i < ENTRIES; i++) {
        memcpy(bytes, &i, sizeof i);
        const authz_span key = {bytes, 40 + next_random(&random) % 100};
        const authz_decision decision = {
            .response = {bytes, next_random(&random) % 64},
            .record = {bytes, next_random(&random) % 128},
            .expires_s = i,
        };
        CHECK(authz_cache_put(cache, key, bytes_of("revision"), &decision) == AUTHZ_CACHE_OK);
        content += key.length + decision.response.length + decision.record.length;
    }
    CHECK(authz_cache_stats(cache).entries == ENTRIES);
    /* Of an entry these are the decision itself, as its response and record are. */
    const size_t said = 3 * sizeof(double) + sizeof(authz_revision *) + sizeof(uint8_t);
    const double whole = (double)(held - content) / ENTRIES;
    const double overhead = whole - (double)said;
    printf("1,000,000 entries: %.1f bytes each beside key, response and record; %zu of "
           "them are dates, revision and reason, so %.1f are overhead\n",
           whole, said, overhead);
    (void)fflush(stdout);
    CHECK(overhead <= 64);
    CHECK(whole <= AUTHZ_ENTRY_OVERHEAD);
    authz_cache_destroy(cache);
    CHECK(held == 0);
    return 0;
}
