/* Memory for libnghttp2, which takes and gives back blocks of the same few sizes for every
 * call: a loop keeps those for the next one.
 *
 * Not for several threads at a time. */

#ifndef AUTHZ_CORE_HTTP2_MEMORY_H
#define AUTHZ_CORE_HTTP2_MEMORY_H

#include <nghttp2/nghttp2.h>
#include <stddef.h>

#include "allocator.h"

#define AUTHZ_HTTP2_SIZES 16

typedef struct authz_http2_block authz_http2_block;

typedef struct authz_http2_memory {
    nghttp2_mem functions; /* what sessions are made with; it points back to this */
    const authz_allocator *allocator;
    authz_http2_block *free[AUTHZ_HTTP2_SIZES]; /* by size, the last used first */
    size_t kept_bytes;
} authz_http2_memory;

/* Makes one that keeps nothing yet and must not be moved. `allocator` outlives it. */
void authz_http2_memory_init(authz_http2_memory *memory, const authz_allocator *allocator);

/* Gives back what is kept. No session may be left. */
void authz_http2_memory_release(authz_http2_memory *memory);

#endif
