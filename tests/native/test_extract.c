/* Mutations of the extractor's corpus, and plans without memory. */

#include "extract_corpus.h"
#include "extract_harness.h"

/* Of each input of the corpus. */
#define MUTATIONS 150

static uint64_t state = 1;

static size_t
choose(size_t below)
{
    return (size_t)(next_random(&state) % below);
}

/* Changes `from`, with `room` bytes at `to`, and returns how long it is then. */
static size_t
mutate(input from, input other, uint8_t *to, size_t room)
{
    size_t size = from.size;
    memcpy(to, from.data, size);
    for (size_t times = 1 + choose(4); times > 0 && size > 0; times--) {
        size_t at = choose(size);
        switch (choose(7)) {
        case 0:
            to[at] = (uint8_t)choose(256);
            break;
        case 1:
            to[at] ^= (uint8_t)(1u << choose(8));
            break;
        case 2:
            size = at;
            break;
        case 3:
            to[at] = 0xFF;
            break;
        case 4: /* without a piece */
        {
            size_t length = 1 + choose(size - at);
            memmove(to + at, to + at + length, size - at - length);
            size -= length;
            break;
        }
        case 5: /* a piece of itself twice */
        {
            size_t length = 1 + choose(size - at);
            if (size + length <= room) {
                memmove(to + at + length, to + at, size - at);
                size += length;
            }
            break;
        }
        default: /* ends like another one */
        {
            size_t begin = other.size > 0 ? choose(other.size) : 0;
            size_t length = other.size - begin;
            if (at + length <= room) {
                memcpy(to + at, other.data + begin, length);
                size = at + length;
            }
        }
        }
    }
    return size;
}

/* What making a plan does without memory, or from too large a source. */
static void
test_plan_without_memory(void)
{
    counting counts = {.every = 1};
    authz_allocator allocator = counting_allocator(&counts);
    authz_plan_source source = plan_source(0);
    authz_plan *plan = NULL;
    CHECK(authz_plan_make(&source, &allocator, &plan) == AUTHZ_PLAN_NO_MEMORY);
    CHECK(plan == NULL);
    counts.every = 0;
    CHECK(authz_plan_make(&source, &allocator, &plan) == AUTHZ_PLAN_OK);
    CHECK(counts.live == 1);
    authz_plan_free(plan);
    authz_plan_free(NULL);
    CHECK(counts.live == 0);
    authz_span name = {headers[0].data, (size_t)1 << 40};
    source.lists[0].names = &name;
    source.lists[0].count = 1;
    CHECK(authz_plan_make(&source, &allocator, &plan) == AUTHZ_PLAN_TOO_LARGE);
    source.lists[0].count = SIZE_MAX;
    CHECK(authz_plan_make(&source, &allocator, &plan) == AUTHZ_PLAN_TOO_LARGE);
}


int
main(void)
{
    static corpus all;
    static uint8_t changed[2 * MAX_INPUT_BYTES];
    read_corpus(&all);
    test_plan_without_memory();
    for (size_t index = 0; index < all.count; index++) {
        for (size_t times = 0; times < MUTATIONS; times++) {
            input other = all.inputs[choose(all.count)];
            size_t size = mutate(all.inputs[index], other, changed, sizeof changed);
            harness_run(changed, size);
        }
    }
    free_corpus(&all);
    return 0;
}
