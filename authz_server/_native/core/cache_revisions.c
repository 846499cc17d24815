#include "cache_revisions.h"

static bool
is_named(const dc_revision *revision, dc_bytes name)
{
    return revision->len == name.len &&
           dc_is_equal(revision->bytes, name.data, name.len);
}

dc_revision *
dc_revisions_find(dc_revisions *revisions, dc_bytes name)
{
    if (revisions->last != NULL && is_named(revisions->last, name)) {
        return revisions->last;
    }
    const uint64_t hash = dc_siphash_1_3(revisions->key, name.data, name.len);
    dc_revision *revision = revisions->chains[hash % DC_REVISION_CHAINS];
    while (revision != NULL && !(revision->hash == hash && is_named(revision, name))) {
        revision = revision->next;
    }
    if (revision != NULL) {
        revisions->last = revision;
    }
    return revision;
}

dc_revision *
dc_revisions_hold(dc_revisions *revisions, dc_bytes name, const dc_allocator *allocator)
{
    dc_revision *revision = dc_revisions_find(revisions, name);
    if (revision == NULL) {
        if (name.len > SIZE_MAX - sizeof *revision) {
            return NULL;
        }
        revision = allocator->allocate(allocator->context, sizeof *revision + name.len);
        if (revision == NULL) {
            return NULL;
        }
        revision->hash = dc_siphash_1_3(revisions->key, name.data, name.len);
        revision->entries = 0;
        revision->len = name.len;
        dc_copy(revision->bytes, name.data, name.len);
        dc_revision **chain = &revisions->chains[revision->hash % DC_REVISION_CHAINS];
        revision->next = *chain;
        *chain = revision;
        revisions->last = revision;
    }
    revision->entries++;
    return revision;
}

void
dc_revisions_drop(dc_revisions *revisions, dc_revision *revision,
                  const dc_allocator *allocator)
{
    if (--revision->entries != 0) {
        return;
    }
    dc_revision **link = &revisions->chains[revision->hash % DC_REVISION_CHAINS];
    while (*link != revision) {
        link = &(*link)->next;
    }
    *link = revision->next;
    if (revisions->last == revision) {
        revisions->last = NULL;
    }
    allocator->release(allocator->context, revision);
}

bool
dc_revisions_are_whole(const dc_revisions *revisions, size_t entries)
{
    size_t held = 0;
    bool has_last = revisions->last == NULL;
    for (size_t i = 0; i < DC_REVISION_CHAINS; i++) {
        for (const dc_revision *at = revisions->chains[i]; at != NULL; at = at->next) {
            const dc_bytes name = {at->bytes, at->len};
            if (at->entries == 0 || at->hash % DC_REVISION_CHAINS != i ||
                at->hash != dc_siphash_1_3(revisions->key, at->bytes, at->len)) {
                return false;
            }
            for (const dc_revision *other = at->next; other; other = other->next) {
                if (is_named(other, name)) {
                    return false;
                }
            }
            held += at->entries;
            has_last = has_last || revisions->last == at;
        }
    }
    return has_last && held == entries;
}
