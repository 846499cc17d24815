/* Revisions that entries were made under, each once: equal bytes, equal pointer. */

#ifndef AUTHZ_CORE_CACHE_REVISIONS_H
#define AUTHZ_CORE_CACHE_REVISIONS_H

#include "cache_entry.h"

struct dc_revision {
    struct dc_revision *next; /* in its chain */
    uint64_t hash;
    size_t entries; /* that were made under it; at 0 it is freed */
    size_t len;
    unsigned char bytes[];
};

/* Usually one, for a moment after a change two or three. The chains are there so that
 * even a caller with a revision for each entry does not make a search long. */
#define DC_REVISION_CHAINS 64

typedef struct {
    dc_revision *chains[DC_REVISION_CHAINS];
    dc_revision *last; /* found or made last: nearly always the one that is asked for */
    dc_siphash_key key;
} dc_revisions;

/* NULL: no entry was made under it. */
dc_revision *dc_revisions_find(dc_revisions *revisions, dc_bytes name);

/* The revision, with one entry more; NULL: no memory. */
dc_revision *dc_revisions_hold(dc_revisions *revisions, dc_bytes name,
                               const dc_allocator *allocator);

/* One entry less; the last one frees it. */
void dc_revisions_drop(dc_revisions *revisions, dc_revision *revision,
                       const dc_allocator *allocator);

/* Whether they hold `entries` entries in all, and each is where it is searched for. */
bool dc_revisions_are_whole(const dc_revisions *revisions, size_t entries);

#endif
