#include "http2_memory.h"

#include <stdalign.h>
#include <stdint.h>
#include <string.h>

/* Sizes are multiples of that, each with the block's own head. */
#define STEP_BYTES 64

/* Some hundred calls under way at a time need no more. */
#define MAX_KEPT_BYTES ((size_t)1 << 18)

struct authz_http2_block {
    size_t size; /* of what follows, as it was allocated */
    alignas(max_align_t) union {
        authz_http2_block *next; /* of those that are free */
        uint8_t bytes[1];
    } content;
};

#define HEAD_BYTES offsetof(authz_http2_block, content)

static authz_http2_block *
block_of(void *content)
{
    void *block = (uint8_t *)content - HEAD_BYTES;
    return block;
}

/* Its place among the sizes; AUTHZ_HTTP2_SIZES or more: none that is kept. */
static size_t
place_of(size_t size)
{
    return (HEAD_BYTES + size - 1) / STEP_BYTES;
}

static void *
allocate(size_t size, void *context)
{
    authz_http2_memory *memory = context;
    if (size > SIZE_MAX - HEAD_BYTES - STEP_BYTES) {
        return NULL;
    }
    const size_t place = place_of(size);
    authz_http2_block *block = place < AUTHZ_HTTP2_SIZES ? memory->free[place] : NULL;
    if (block != NULL) {
        memory->free[place] = block->content.next;
        memory->kept_bytes -= HEAD_BYTES + block->size;
        return &block->content;
    }
    const size_t whole = (place + 1) * STEP_BYTES;
    block = memory->allocator->allocate(memory->allocator->context, whole);
    if (block == NULL) {
        return NULL;
    }
    block->size = whole - HEAD_BYTES;
    return &block->content;
}

static void
release(void *content, void *context)
{
    authz_http2_memory *memory = context;
    if (content == NULL) {
        return;
    }
    authz_http2_block *block = block_of(content);
    const size_t place = place_of(block->size);
    const size_t whole = HEAD_BYTES + block->size;
    if (place >= AUTHZ_HTTP2_SIZES || whole > MAX_KEPT_BYTES - memory->kept_bytes) {
        memory->allocator->release(memory->allocator->context, block);
        return;
    }
    block->content.next = memory->free[place];
    memory->free[place] = block;
    memory->kept_bytes += whole;
}

static void *
allocate_zeroed(size_t count, size_t size, void *context)
{
    if (size != 0 && count > SIZE_MAX / size) {
        return NULL;
    }
    void *content = allocate(count * size, context);
    return content != NULL ? memset(content, 0, count * size) : NULL;
}

static void *
reallocate(void *content, size_t size, void *context)
{
    if (content == NULL) {
        return allocate(size, context);
    }
    const size_t before = block_of(content)->size;
    if (size <= before) {
        return content;
    }
    void *moved = allocate(size, context);
    if (moved != NULL) {
        memcpy(moved, content, before);
        release(content, context);
    }
    return moved;
}

void
authz_http2_memory_init(authz_http2_memory *memory, const authz_allocator *allocator)
{
    *memory = (authz_http2_memory){
        .functions = {memory, allocate, release, allocate_zeroed, reallocate},
        .allocator = allocator,
    };
}

void
authz_http2_memory_release(authz_http2_memory *memory)
{
    for (size_t place = 0; place < AUTHZ_HTTP2_SIZES; place++) {
        while (memory->free[place] != NULL) {
            authz_http2_block *block = memory->free[place];
            memory->free[place] = block->content.next;
            memory->allocator->release(memory->allocator->context, block);
        }
    }
    memory->kept_bytes = 0;
}
