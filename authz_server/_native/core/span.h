/* Bytes that somebody else owns. */

#ifndef AUTHZ_CORE_SPAN_H
#define AUTHZ_CORE_SPAN_H

#include <stddef.h>
#include <stdint.h>

typedef struct authz_span {
    const uint8_t *data; /* not NULL, unless stated, or length is 0 */
    size_t length;
} authz_span;

#define AUTHZ_SPAN(literal) \
    ((authz_span){(const uint8_t *)(literal), sizeof(literal) - 1})

#endif
