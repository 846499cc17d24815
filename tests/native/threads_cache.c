/* 32 threads on one cache: nothing is lost, nobody gets another key's answer, and
 * ThreadSanitizer sees no race. */

#include <pthread.h>

#include "cache_model.h"

enum { THREADS = 32, KEYS = 96, STEPS = 4000, OWN = 64 };

typedef struct {
    authz_cache *cache;
    unsigned number;
} task;

/* A response that says for which key and under which revision it was made. */
typedef struct {
    unsigned key, revision;
} made_for;

static authz_cache_status
put(authz_cache *cache, unsigned key, unsigned revision)
{
    const made_for statement = {key, revision};
    const authz_decision decision = {
        .response = {(const unsigned char *)&statement, sizeof statement},
        .record = {(const unsigned char *)&statement, key % sizeof(made_for)},
        .reason = (uint8_t)key,
        .expires_s = 1,
        .valid_until_s = 1,
    };
    return authz_cache_put(cache, (authz_span){(const unsigned char *)&key, sizeof key},
                        (authz_span){(const unsigned char *)&revision, sizeof revision},
                        &decision);
}

static authz_cache_status
get(authz_cache *cache, unsigned key, unsigned revision)
{
    unsigned char buffer[64];
    authz_answer answer;
    const authz_cache_status status = authz_cache_get(
        cache, (authz_span){(const unsigned char *)&key, sizeof key},
        (authz_span){(const unsigned char *)&revision, sizeof revision},
        (authz_instant){0, 0}, buffer, sizeof buffer, &answer);
    if (status == AUTHZ_CACHE_OK) {
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
        if (get(worker->cache, key, revision) == AUTHZ_CACHE_MISS) {
            CHECK(put(worker->cache, key, revision) == AUTHZ_CACHE_OK);
        }
        if (i % 500 == worker->number) {
            authz_keys *keys;
            CHECK(authz_cache_latest(worker->cache, 10, &keys) == AUTHZ_CACHE_OK);
            authz_keys_free(worker->cache, keys);
            check_whole(worker->cache);
        }
        if (i == STEPS / 2 && worker->number == 0) {
            authz_cache_clear(worker->cache);
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
        CHECK(put(worker->cache, worker->number * OWN + i, 0) == AUTHZ_CACHE_OK);
        for (unsigned j = 0; j <= i; j++) {
            CHECK(get(worker->cache, worker->number * OWN + j, 0) == AUTHZ_CACHE_OK);
        }
    }
    return NULL;
}

static void
run(authz_cache *cache, void *(*work)(void *))
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
    const authz_allocator allocator = authz_system_allocator();
    authz_cache *small = authz_cache_create(KEYS / 3, 1u << 20, SEED, &allocator);
    run(small, hammer);
    const authz_cache_counts stats = authz_cache_stats(small);
    CHECK(stats.hits + stats.misses == THREADS * STEPS);
    CHECK(stats.hits > 0 && stats.evictions > 0);
    authz_cache_destroy(small);

    authz_cache *large = authz_cache_create(THREADS * OWN, 1u << 20, SEED, &allocator);
    run(large, fill);
    CHECK(authz_cache_stats(large).entries == THREADS * OWN);
    CHECK(authz_cache_stats(large).misses == 0);
    for (unsigned i = 0; i < THREADS * OWN; i++) {
        CHECK(get(large, i, 0) == AUTHZ_CACHE_OK);
    }
    authz_cache_destroy(large);
    return 0;
}
