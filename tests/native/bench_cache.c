/* What the decision cache costs, for benchmarks/cache_scale.py:
 *
 *   bench_cache lookup ENTRIES KEY_LEN LOOKUPS
 *   bench_cache threads THREADS CACHES MILLISECONDS
 *
 * Keys are made in one small buffer, so they are as warm as facts that were just
 * extracted; entries are asked for in random order, so theirs are not. Keys differ in
 * their last bytes only, so a comparison that finds them equal or not reads all. */

#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <time.h>

#include "cache_model.h"

enum { MAX_KEY = 4096, RESPONSE = 200, RECORD = 500, MAX_THREADS = 64 };

static const authz_instant NOW = {0, 0};

static uint64_t
nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static authz_span
key_of(unsigned char *buffer, size_t len, uint64_t number)
{
    uint64_t mixed = number;
    mixed = next_random(&mixed);
    memcpy(buffer + len - sizeof mixed, &mixed, sizeof mixed);
    return (authz_span){buffer, len};
}

static void
put(authz_cache *cache, authz_span key)
{
    static const unsigned char value[RECORD];
    const authz_decision decision = {.response = {value, RESPONSE},
                                  .record = {value, RECORD},
                                  .expires_s = 1,
                                  .valid_until_s = 1};
    CHECK(authz_cache_put(cache, key, bytes_of("revision"), &decision) == AUTHZ_CACHE_OK);
}

static int
compare(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void
print_quantiles(const char *name, uint32_t *times, size_t count, uint32_t clock_cost)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < count; i++) {
        times[i] = times[i] > clock_cost ? times[i] - clock_cost : 0;
        sum += times[i];
    }
    qsort(times, count, sizeof *times, compare);
    printf("\"%s\": {\"mean\": %.1f, \"p50\": %u, \"p99\": %u, \"p999\": %u, \"max\": %u}",
           name, (double)sum / (double)count, times[count / 2], times[count * 99 / 100],
           times[count * 999 / 1000], times[count - 1]);
}

static authz_cache *
cache_for(size_t entries)
{
    const authz_allocator allocator = authz_system_allocator();
    authz_cache *cache = authz_cache_create(entries, SIZE_MAX / 2, SEED, &allocator);
    CHECK(cache != NULL);
    return cache;
}

static void
time_lookups(size_t entries, size_t key_len, size_t lookups)
{
    static unsigned char buffer[MAX_KEY], answer_buffer[1024];
    authz_cache *cache = cache_for(entries);
    uint32_t *times = malloc((lookups > entries ? lookups : entries) * sizeof *times);
    CHECK(times != NULL && key_len >= 8 && key_len <= MAX_KEY);
    uint32_t clock_cost = UINT32_MAX;
    for (unsigned i = 0; i < 10000; i++) {
        const uint64_t begin = nanoseconds();
        const uint32_t took = (uint32_t)(nanoseconds() - begin);
        clock_cost = took < clock_cost ? took : clock_cost;
    }
    for (size_t i = 0; i < entries; i++) {
        const authz_span key = key_of(buffer, key_len, i);
        const uint64_t begin = nanoseconds();
        put(cache, key);
        times[i] = (uint32_t)(nanoseconds() - begin);
    }
    printf("{");
    print_quantiles("put", times, entries, clock_cost);
    uint64_t random = 1;
    for (unsigned is_miss = 0; is_miss < 2; is_miss++) {
        for (size_t i = 0; i < lookups; i++) {
            const uint64_t number =
                next_random(&random) % entries + (is_miss ? entries : 0);
            const authz_span key = key_of(buffer, key_len, number);
            authz_answer answer;
            const uint64_t begin = nanoseconds();
            const authz_cache_status status =
                authz_cache_get(cache, key, bytes_of("revision"), NOW, answer_buffer,
                             sizeof answer_buffer, &answer);
            times[i] = (uint32_t)(nanoseconds() - begin);
            CHECK(status == (is_miss ? AUTHZ_CACHE_MISS : AUTHZ_CACHE_OK));
        }
        printf(", ");
        print_quantiles(is_miss ? "miss" : "hit", times, lookups, clock_cost);
    }
    const uint64_t begin = nanoseconds();
    authz_keys *keys;
    CHECK(authz_cache_latest(cache, 512, &keys) == AUTHZ_CACHE_OK);
    printf(", \"latest_ms\": %.2f}\n", (double)(nanoseconds() - begin) / 1e6);
    authz_keys_free(cache, keys);
    free(times);
    authz_cache_destroy(cache);
}

typedef struct {
    authz_cache **caches;
    unsigned cache_count, number;
    uint64_t end;
    uint64_t count;
} task;

enum { THREADED_ENTRIES = 20000, THREADED_KEY = 1024 };

static void *
ask(void *argument)
{
    task *self = argument;
    unsigned char buffer[THREADED_KEY] = {0}, answer_buffer[1024];
    uint64_t random = self->number;
    while (nanoseconds() < self->end) {
        for (unsigned i = 0; i < 100; i++) {
            const uint64_t number = next_random(&random) % THREADED_ENTRIES;
            const authz_span key = key_of(buffer, sizeof buffer, number);
            authz_answer answer;
            CHECK(authz_cache_get(self->caches[number % self->cache_count], key,
                               bytes_of("revision"), NOW, answer_buffer,
                               sizeof answer_buffer, &answer) == AUTHZ_CACHE_OK);
        }
        self->count += 100;
    }
    return NULL;
}

/* Several caches are what a cache with that many locks could do at best. */
static void
time_threads(unsigned threads, unsigned cache_count, uint64_t milliseconds)
{
    authz_cache *caches[MAX_THREADS];
    unsigned char buffer[THREADED_KEY] = {0};
    CHECK(threads <= MAX_THREADS && cache_count <= MAX_THREADS && cache_count > 0);
    for (unsigned i = 0; i < cache_count; i++) {
        caches[i] = cache_for(THREADED_ENTRIES);
    }
    for (uint64_t i = 0; i < THREADED_ENTRIES; i++) {
        put(caches[i % cache_count], key_of(buffer, sizeof buffer, i));
    }
    pthread_t workers[MAX_THREADS];
    task tasks[MAX_THREADS];
    const uint64_t begin = nanoseconds();
    for (unsigned i = 0; i < threads; i++) {
        tasks[i] = (task){caches, cache_count, i, begin + milliseconds * 1000000u, 0};
        CHECK(pthread_create(&workers[i], NULL, ask, &tasks[i]) == 0);
    }
    uint64_t count = 0;
    for (unsigned i = 0; i < threads; i++) {
        CHECK(pthread_join(workers[i], NULL) == 0);
        count += tasks[i].count;
    }
    const double seconds = (double)(nanoseconds() - begin) / 1e9;
    printf("{\"lookups_per_s\": %.0f}\n", (double)count / seconds);
    for (unsigned i = 0; i < cache_count; i++) {
        authz_cache_destroy(caches[i]);
    }
}

static size_t
number_of(const char *text)
{
    char *end;
    const unsigned long long number = strtoull(text, &end, 10);
    CHECK(*text != 0 && *end == 0);
    return (size_t)number;
}

int
main(int argc, char **argv)
{
    CHECK(argc == 5);
    const size_t a = number_of(argv[2]), b = number_of(argv[3]), c = number_of(argv[4]);
    if (strcmp(argv[1], "lookup") == 0) {
        time_lookups(a, b, c);
    } else {
        time_threads((unsigned)a, (unsigned)b, c);
    }
    return 0;
}
