/* A growing block of memory that is used again and again.
 *
 *     data ──► [ length bytes in use | room ]   capacity bytes, never more than limit
 */

#ifndef AUTHZ_CORE_BUFFER_H
#define AUTHZ_CORE_BUFFER_H

#include "allocator.h"
#include "wire.h"

typedef struct authz_buffer {
    const authz_allocator *allocator;
    uint8_t *data;
    size_t length;
    size_t capacity;
    size_t limit;
} authz_buffer;

/* Makes an empty buffer, without memory. `allocator` must outlive it. */
void authz_buffer_init(authz_buffer *buffer, const authz_allocator *allocator,
                       size_t limit);

/* Gives the memory back; the buffer may be used again. */
void authz_buffer_release(authz_buffer *buffer);

/* What authz_buffer_reserve does if there is no room. */
bool authz_buffer_grow(authz_buffer *buffer, size_t extra);

/* Makes room for `extra` more bytes. Returns false if there is no memory, or the limit
 * is in the way; the buffer is then as it was. */
static inline bool
authz_buffer_reserve(authz_buffer *buffer, size_t extra)
{
    return buffer->capacity - buffer->length >= extra
           || authz_buffer_grow(buffer, extra);
}

/* The next four append, or return false like authz_buffer_reserve. Integers are
 * big-endian. */
static inline bool
authz_buffer_bytes(authz_buffer *buffer, authz_span bytes)
{
    if (!authz_buffer_reserve(buffer, bytes.length)) {
        return false;
    }
    if (bytes.length > 0) {
        memcpy(buffer->data + buffer->length, bytes.data, bytes.length);
        buffer->length += bytes.length;
    }
    return true;
}

static inline bool
authz_buffer_u8(authz_buffer *buffer, uint8_t value)
{
    return authz_buffer_bytes(buffer, (authz_span){&value, 1});
}

static inline bool
authz_buffer_u16(authz_buffer *buffer, uint16_t value)
{
    uint8_t bytes[2] = {(uint8_t)(value >> 8), (uint8_t)value};
    return authz_buffer_bytes(buffer, (authz_span){bytes, sizeof bytes});
}

static inline bool
authz_buffer_u32(authz_buffer *buffer, uint32_t value)
{
    uint8_t bytes[4] = {(uint8_t)(value >> 24), (uint8_t)(value >> 16),
                        (uint8_t)(value >> 8), (uint8_t)value};
    return authz_buffer_bytes(buffer, (authz_span){bytes, sizeof bytes});
}

#endif
