/* Each block has its size in front, which a reallocation needs. */

#include "http2_memory.h"

#include <stdalign.h>
#include <stdint.h>
#include <string.h>

#define SIZE_ROOM alignof(max_align_t)

static void *
allocate(size_t size, void *context)
{
    const authz_allocator *allocator = context;
    if (size > SIZE_MAX - SIZE_ROOM) {
        return NULL;
    }
    uint8_t *block = allocator->allocate(allocator->context, SIZE_ROOM + size);
    if (block == NULL) {
        return NULL;
    }
    memcpy(block, &size, sizeof size);
    return block + SIZE_ROOM;
}

static void
release(void *memory, void *context)
{
    const authz_allocator *allocator = context;
    if (memory != NULL) {
        allocator->release(allocator->context, (uint8_t *)memory - SIZE_ROOM);
    }
}

static void *
allocate_zeroed(size_t count, size_t size, void *context)
{
    if (size != 0 && count > SIZE_MAX / size) {
        return NULL;
    }
    void *memory = allocate(count * size, context);
    return memory != NULL ? memset(memory, 0, count * size) : NULL;
}

static void *
reallocate(void *memory, size_t size, void *context)
{
    if (memory == NULL) {
        return allocate(size, context);
    }
    size_t before;
    memcpy(&before, (uint8_t *)memory - SIZE_ROOM, sizeof before);
    void *moved = allocate(size, context);
    if (moved != NULL) {
        memcpy(moved, memory, before < size ? before : size);
        release(memory, context);
    }
    return moved;
}

nghttp2_mem
authz_http2_memory(const authz_allocator *allocator)
{
    return (nghttp2_mem){(void *)(uintptr_t)allocator, allocate, release,
                         allocate_zeroed, reallocate};
}
