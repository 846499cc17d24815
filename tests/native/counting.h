/* An allocator that counts, and fails. */

#ifndef AUTHZ_TESTS_COUNTING_H
#define AUTHZ_TESTS_COUNTING_H

#include <string.h>

#include "allocator.h"
#include "testing.h"

typedef struct counting {
    size_t calls;
    size_t live;
    size_t every; /* each call whose number it divides fails; 0: none does */
} counting;

static inline void *
count_allocate(void *context, size_t size)
{
    counting *counts = context;
    counts->calls++;
    if (counts->every > 0 && counts->calls % counts->every == 0) {
        return NULL;
    }
    void *memory = malloc(size > 0 ? size : 1);
    CHECK(memory != NULL);
    /* Nothing may rely on what it holds. */
    memset(memory, 0xA5, size);
    counts->live++;
    return memory;
}

static inline void
count_release(void *context, void *memory)
{
    counting *counts = context;
    if (memory != NULL) {
        CHECK(counts->live > 0);
        counts->live--;
        free(memory);
    }
}

static inline authz_allocator
counting_allocator(counting *counts)
{
    return (authz_allocator){counts, count_allocate, count_release};
}

#endif
