/* Memory for libnghttp2, from an allocator that wants to be told no sizes later. */

#ifndef AUTHZ_CORE_HTTP2_MEMORY_H
#define AUTHZ_CORE_HTTP2_MEMORY_H

#include <nghttp2/nghttp2.h>

#include "allocator.h"

/* What sessions are made with; `allocator` outlives them. */
nghttp2_mem authz_http2_memory(const authz_allocator *allocator);

#endif
