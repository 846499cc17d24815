#include "allocator.h"

#include <stdlib.h>

static void *
allocate(void *context, size_t size)
{
    (void)context;
    return malloc(size);
}

static void
release(void *context, void *memory)
{
    (void)context;
    free(memory);
}

authz_allocator
authz_system_allocator(void)
{
    return (authz_allocator){.context = NULL, .allocate = allocate, .release = release};
}
