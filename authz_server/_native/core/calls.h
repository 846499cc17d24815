/* The calls of one loop: those that are free, and those of the host, by their numbers.
 *
 * Not for several threads at a time. */

#ifndef AUTHZ_CORE_CALLS_H
#define AUTHZ_CORE_CALLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "allocator.h"
#include "call.h"

/* How many calls of the host one loop can have: those of all its connections. */
#define AUTHZ_MAX_HOST_CALLS 4096

typedef struct authz_calls {
    const authz_allocator *allocator;
    size_t max_message_bytes;
    uint8_t index; /* of the loop among all */
    authz_call *free;
    size_t free_count;
    struct {
        authz_call *call;
        uint32_t times; /* this place was used: part of a call's number */
    } of_host[AUTHZ_MAX_HOST_CALLS];
    uint32_t host_places; /* that were ever used */
} authz_calls;

void authz_calls_init(authz_calls *calls, const authz_allocator *allocator,
                      size_t max_message_bytes, uint8_t index);

/* Frees those that are free. */
void authz_calls_release(authz_calls *calls);

/* A call, from the free ones if there are; NULL: no memory. */
authz_call *authz_calls_take(authz_calls *calls);
void authz_calls_give_back(authz_calls *calls, authz_call *call);

/* Gives a call of the host its number; false: there are too many. */
bool authz_calls_name(authz_calls *calls, authz_call *call);
void authz_calls_forget(authz_calls *calls, const authz_call *call);

/* NULL: it is over. */
authz_call *authz_calls_find(const authz_calls *calls, uint64_t number);

#endif
