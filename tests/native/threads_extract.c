/* Threads that share plans, each with an extraction of its own. */

#include <pthread.h>

#include "extract_corpus.h"
#include "extract_harness.h"

#define THREADS 4
#define ROUNDS 20

static void *
run_thread(void *argument)
{
    const corpus *all = argument;
    authz_allocator allocator = authz_system_allocator();
    authz_extraction extraction;
    authz_extraction_init(&extraction, &allocator, 1u << 24);
    for (int round = 0; round < ROUNDS; round++) {
        for (size_t index = 0; index < all->count; index++) {
            input one = all->inputs[index];
            if (one.size > 0) {
                harness_extract(harness_plan(one.data[0]),
                             (authz_span){one.data + 1, one.size - 1}, &extraction);
            }
        }
    }
    authz_extraction_release(&extraction);
    return NULL;
}

static void
run_threads(corpus *all)
{
    pthread_t threads[THREADS];
    /* Before there are threads: the harness makes them when they are first used. */
    for (size_t number = 0; number < HARNESS_PLANS; number++) {
        harness_plan(number);
    }
    for (size_t index = 0; index < THREADS; index++) {
        CHECK(pthread_create(&threads[index], NULL, run_thread, all) == 0);
    }
    for (size_t index = 0; index < THREADS; index++) {
        CHECK(pthread_join(threads[index], NULL) == 0);
    }
}

int
main(void)
{
    static corpus all;
    read_corpus(&all);
    run_threads(&all);
    free_corpus(&all);
    return 0;
}
