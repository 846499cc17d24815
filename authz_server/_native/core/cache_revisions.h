/* Revisions that entries were made under, each once: equal bytes, equal pointer. */

#ifndef AUTHZ_CORE_CACHE_REVISIONS_H
#define AUTHZ_CORE_CACHE_REVISIONS_H

#include "cache_entry.h"

struct authz_revision {
    struct authz_revision *next; /* in its chain */
    uint64_t hash;
    size_t entries; /* that were made under it; at 0 it is freed */
    size_t len;
    unsigned char bytes[];
};

/* Usually one, for a moment after a change two or three. The chains are there so that
 * even a caller with a revision for each entry does not make a search long. */
#define AUTHZ_REVISION_CHAINS 64

typedef struct {
    authz_revision *chains[AUTHZ_REVISION_CHAINS];
    authz_revision *last; /* found or made last: nearly always the one that is asked for */
    authz_siphash_key key;
} authz_revisions;

/* NULL: no entry was made under it. */
authz_revision *authz_revisions_find(authz_revisions *revisions, authz_span name);

/* The revision, with one entry more; NULL: no memory. */
authz_revision *authz_revisions_hold(authz_revisions *revisions, authz_span name,
                               const authz_allocator *allocator);

/* One entry less; the last one frees it. */
void authz_revisions_drop(authz_revisions *revisions, authz_revision *revision,
                       const authz_allocator *allocator);

/* Frees all, whatever was made under them. */
void authz_revisions_release(authz_revisions *revisions, const authz_allocator *allocator);

/* Whether they hold `entries` entries in all, and each is where it is searched for. */
bool authz_revisions_are_whole(const authz_revisions *revisions, size_t entries);

#endif
