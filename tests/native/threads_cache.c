/* 32 threads on one cache: nothing is lost, nobody gets another key's answer, and
 * ThreadSanitizer sees no race. */

#include <pthread.h>

#include "cache_model.h"

enum { THREADS = 32, KEYS = 96, STEPS = 4000, OWN = 64 };

typedef struct {
    dc_cache *cache;
    unsigned number;
} task;

/* A response that says for which key and under which revision it was made. */
typedef struct {
    unsigned key, revision;
} made_for;

static dc_status
put(dc_cache *cache, unsigned key, unsigned revision)
{
    const made_for statement = {key, revision};
    const dc_decision decision = {
        .response = {(const unsigned char *)&statement, sizeof statement},
        .record = {(const unsigned char *)&statement, key % sizeof(made_for)},
        .reason = (uint8_t)key,
        .expires_s = 1,
        .valid_until_s = 1,
    };
    return dc_cache_put(cache, (dc_bytes){(const unsigned char *)&key, sizeof key},
                        (dc_bytes){(const unsigned char *)&revision, sizeof revision},
                        &decision);
}

static dc_status
get(dc_cache *cache, unsigned key, unsigned revision)
{
    unsigned char buffer[64];
    dc_answer answer;
    const dc_status status = dc_cache_get(
        cache, (dc_bytes){(const unsigned char *)&key, sizeof key},
        (dc_bytes){(const unsigned char *)&revision, sizeof revision},
        (dc_instant){0, 0}, buffer, sizeof buffer, &answer);
    if (status == DC_OK) {
        made_for statement;
        CHECK(answer.response_len == sizeof statement);
        CHECK(answer.record_len == key % sizeof(made_for));
        CHECK(answer.reason == (uint8_t)key);
        memcpy(&statement, buffer, sizeof statement);
        CHECK(statement.key == key && statement.revision == revision);
    }
    return status;
}

/* Everything at once, on a cache that has room for a third. */
static void *
hammer(void *argument)
{
    const task *worker = argument;
    uint64_t random = worker->number;
    for (unsigned i = 0; i < STEPS; i++) {
        const unsigned key = (unsigned)(next_random(&random) % KEYS);
        const unsigned revision = next_random(&random) % 16 == 0;
        if (get(worker->cache, key, revision) == DC_MISS) {
            CHECK(put(worker->cache, key, revision) == DC_OK);
        }
        if (i % 500 == worker->number) {
            dc_keys *keys;
            CHECK(dc_cache_latest(worker->cache, 10, &keys) == DC_OK);
            dc_keys_free(worker->cache, keys);
            check_whole(worker->cache);
        }
        if (i == STEPS / 2 && worker->number == 0) {
            dc_cache_clear(worker->cache);
        }
    }
    return NULL;
}

/* Each its own keys, on a cache that has room for all. */
static void *
fill(void *argument)
{
    const task *worker = argument;
    for (unsigned i = 0; i < OWN; i++) {
        CHECK(put(worker->cache, worker->number * OWN + i, 0) == DC_OK);
        for (unsigned j = 0; j <= i; j++) {
            CHECK(get(worker->cache, worker->number * OWN + j, 0) == DC_OK);
        }
    }
    return NULL;
}

static void
run(dc_cache *cache, void *(*work)(void *))
{
    pthread_t threads[THREADS];
    task workers[THREADS];
    for (unsigned i = 0; i < THREADS; i++) {
        workers[i] = (task){cache, i};
        CHECK(pthread_create(&threads[i], NULL, work, &workers[i]) == 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    check_whole(cache);
}

int
main(void)
{
    const dc_allocator allocator = dc_system_allocator();
    dc_cache *small = dc_cache_create(KEYS / 3, 1u << 20, SEED, &allocator);
    run(small, hammer);
    const dc_stats stats = dc_cache_stats(small);
    CHECK(stats.hits + stats.misses == THREADS * STEPS);
    CHECK(stats.hits > 0 && stats.evictions > 0);
    dc_cache_destroy(small);

    dc_cache *large = dc_cache_create(THREADS * OWN, 1u << 20, SEED, &allocator);
    run(large, fill);
    CHECK(dc_cache_stats(large).entries == THREADS * OWN);
    CHECK(dc_cache_stats(large).misses == 0);
    for (unsigned i = 0; i < THREADS * OWN; i++) {
        CHECK(get(large, i, 0) == DC_OK);
    }
    dc_cache_destroy(large);
    return 0;
}
