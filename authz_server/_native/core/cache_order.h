/* Who has to go when room is short: SIEVE (Zhang et al., NSDI 2024).
 *
 *   newest  e7  e6  e5* e4  e3* e2* e1  oldest        * visited since the hand came by
 *                        ^ hand  <-- moves to the newer, round from newest to oldest
 *
 * Entries stay where they were inserted. A hit sets a bit, nothing else. The hand clears
 * the bits that it passes, and takes the first entry without one. */

#ifndef AUTHZ_CORE_CACHE_ORDER_H
#define AUTHZ_CORE_CACHE_ORDER_H

#include "cache_entry.h"

typedef struct {
    authz_entry *newest, *oldest;
    authz_entry *hand; /* NULL: begins at the oldest */
} authz_order;

static inline void
authz_order_push(authz_order *order, authz_entry *entry)
{
    entry->newer = NULL;
    entry->older = order->newest;
    if (order->newest != NULL) {
        order->newest->newer = entry;
    } else {
        order->oldest = entry;
    }
    order->newest = entry;
}

static inline void
authz_order_remove(authz_order *order, authz_entry *entry)
{
    if (order->hand == entry) {
        order->hand = entry->newer;
    }
    if (entry->newer != NULL) {
        entry->newer->older = entry->older;
    } else {
        order->newest = entry->older;
    }
    if (entry->older != NULL) {
        entry->older->newer = entry->newer;
    } else {
        order->oldest = entry->newer;
    }
}

static inline void
authz_order_visit(authz_entry *entry)
{
    entry->record |= AUTHZ_VISITED;
}

static inline void
authz_order_leave(authz_entry *entry)
{
    entry->record &= ~AUTHZ_VISITED;
}

/* Moves the hand to whom it takes next; NULL if there is nobody. Ends after one round at
 * most: by then every bit is cleared. */
static inline authz_entry *
authz_order_victim(authz_order *order)
{
    authz_entry *entry = order->hand != NULL ? order->hand : order->oldest;
    while (entry != NULL && authz_entry_is_visited(entry)) {
        authz_order_leave(entry);
        entry = entry->newer != NULL ? entry->newer : order->oldest;
    }
    order->hand = entry;
    return entry;
}

#endif
