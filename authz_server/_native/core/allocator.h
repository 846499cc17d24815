/* Where the core gets its memory: given from outside, so that a test can make any
 * allocation fail, and another host can bring its own. */

#ifndef AUTHZ_CORE_ALLOCATOR_H
#define AUTHZ_CORE_ALLOCATOR_H

#include <stddef.h>

/* Both functions may be called by several threads at once, and while a lock of the core
 * is held: they must not call back into the core, nor wait for what calls it. (So the
 * binding does not give PyMem_RawMalloc, which takes the GIL while tracemalloc runs.) */
typedef struct {
    void *context;
    void *(*allocate)(void *context, size_t size); /* NULL: there is none */
    void (*release)(void *context, void *memory);  /* memory may be NULL */
} authz_allocator;

/* malloc and free. */
authz_allocator authz_system_allocator(void);

#endif
