/* The memory of libnghttp2: blocks that are taken, changed and given back in any order. */

#include <stdalign.h>

#include "counting.h"
#include "http2_memory.h"

#define BLOCKS 400
#define STEPS 200000

typedef struct block {
    uint8_t *bytes;
    size_t size;
    uint8_t content; /* of all bytes */
} block;

static void
check_content(const block *it, size_t size)
{
    CHECK((uintptr_t)it->bytes % alignof(max_align_t) == 0);
    for (size_t i = 0; i < size; i++) {
        CHECK(it->bytes[i] == it->content);
    }
}

/* Most are small, as libnghttp2's are; some are of the sizes at which one ends. */
static size_t
any_size(uint64_t *state)
{
    const uint64_t random = next_random(state);
    switch (random % 8) {
    case 0:
        return random / 8 % 5000;
    case 1:
        return random / 8 % 17 * 64 + random / 256 % 3;
    default:
        return random / 8 % 300;
    }
}

static void
check_any_order(void)
{
    counting counts = {.every = 0};
    const authz_allocator allocator = counting_allocator(&counts);
    authz_http2_memory memory;
    authz_http2_memory_init(&memory, &allocator);
    const nghttp2_mem *mem = &memory.functions;
    static block blocks[BLOCKS];
    uint64_t state = 1;
    for (int step = 0; step < STEPS; step++) {
        block *it = &blocks[next_random(&state) % BLOCKS];
        const size_t size = any_size(&state);
        const uint64_t choice = next_random(&state) % 4;
        if (it->bytes != NULL) {
            check_content(it, it->size);
        }
        if (it->bytes != NULL && choice < 2) {
            mem->free(it->bytes, mem->mem_user_data);
            *it = (block){NULL, 0, 0};
            continue;
        }
        if (it->bytes == NULL && choice == 0) {
            it->bytes = mem->calloc(size, 1, mem->mem_user_data);
            it->content = 0;
            check_content(it, size);
        } else if (it->bytes == NULL && choice == 1) {
            it->bytes = mem->malloc(size, mem->mem_user_data);
        } else {
            const size_t kept = size < it->size ? size : it->size;
            it->bytes = mem->realloc(it->bytes, size, mem->mem_user_data);
            check_content(it, kept);
        }
        CHECK(it->bytes != NULL);
        it->size = size;
        it->content = (uint8_t)step;
        memset(it->bytes, it->content, size);
    }
    CHECK(counts.calls < STEPS / 8); /* most were kept ones */
    for (int i = 0; i < BLOCKS; i++) {
        mem->free(blocks[i].bytes, mem->mem_user_data);
    }
    authz_http2_memory_release(&memory);
    CHECK(counts.live == 0);
}

static void
check_that_it_keeps_little(void)
{
    counting counts = {.every = 0};
    const authz_allocator allocator = counting_allocator(&counts);
    authz_http2_memory memory;
    authz_http2_memory_init(&memory, &allocator);
    const nghttp2_mem *mem = &memory.functions;
    static void *blocks[2000];
    for (int i = 0; i < 2000; i++) {
        CHECK((blocks[i] = mem->malloc(500, mem->mem_user_data)) != NULL);
    }
    for (int i = 0; i < 2000; i++) {
        mem->free(blocks[i], mem->mem_user_data);
    }
    CHECK(counts.live > 400 && counts.live * 500 <= 1 << 18);
    authz_http2_memory_release(&memory);
    CHECK(counts.live == 0);
}

static void
check_without_memory(void)
{
    counting counts = {.every = 0};
    const authz_allocator allocator = counting_allocator(&counts);
    authz_http2_memory memory;
    authz_http2_memory_init(&memory, &allocator);
    const nghttp2_mem *mem = &memory.functions;
    uint8_t *kept = mem->malloc(100, mem->mem_user_data);
    CHECK(kept != NULL);
    memset(kept, 7, 100);
    counts.every = 1;
    CHECK(mem->malloc(100, mem->mem_user_data) == NULL);
    CHECK(mem->calloc(100, 1, mem->mem_user_data) == NULL);
    CHECK(mem->realloc(kept, 1000, mem->mem_user_data) == NULL);
    check_content(&(block){kept, 100, 7}, 100);
    mem->free(kept, mem->mem_user_data);
    CHECK(mem->malloc(90, mem->mem_user_data) == kept);
    mem->free(kept, mem->mem_user_data);
    mem->free(NULL, mem->mem_user_data);
    counts.every = 0;
    CHECK(mem->malloc(SIZE_MAX, mem->mem_user_data) == NULL);
    CHECK(mem->malloc(SIZE_MAX - 64, mem->mem_user_data) == NULL);
    CHECK(mem->calloc(SIZE_MAX / 2, 3, mem->mem_user_data) == NULL);
    authz_http2_memory_release(&memory);
    CHECK(counts.live == 0);
}

int
main(void)
{
    check_any_order();
    check_that_it_keeps_little();
    check_without_memory();
    return 0;
}
