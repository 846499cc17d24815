#include "buffer.h"

#define LEAST_CAPACITY 256

void
authz_buffer_init(authz_buffer *buffer, const authz_allocator *allocator, size_t limit)
{
    *buffer = (authz_buffer){.allocator = allocator, .limit = limit};
}

void
authz_buffer_release(authz_buffer *buffer)
{
    if (buffer->data != NULL) {
        buffer->allocator->release(buffer->allocator->context, buffer->data);
    }
    buffer->data = NULL;
    buffer->length = buffer->capacity = 0;
}

bool
authz_buffer_grow(authz_buffer *buffer, size_t extra)
{
    if (extra > buffer->limit || buffer->length > buffer->limit - extra) {
        return false;
    }
    size_t needed = buffer->length + extra;
    size_t capacity =
        buffer->capacity > buffer->limit / 2 ? buffer->limit : buffer->capacity * 2;
    if (capacity < LEAST_CAPACITY && LEAST_CAPACITY <= buffer->limit) {
        capacity = LEAST_CAPACITY;
    }
    if (capacity < needed) {
        capacity = needed;
    }
    const authz_allocator *allocator = buffer->allocator;
    uint8_t *data = allocator->allocate(allocator->context, capacity);
    if (data == NULL) {
        return false;
    }
    if (buffer->data != NULL) {
        memcpy(data, buffer->data, buffer->length);
        allocator->release(allocator->context, buffer->data);
    }
    buffer->data = data;
    buffer->capacity = capacity;
    return true;
}
