#include "cache_revisions.h"

static bool
is_named(const authz_revision *revision, authz_span name)
{
    return revision->len == name.length &&
           authz_is_equal(revision->bytes, name.data, name.length);
}

authz_revision *
authz_revisions_find(authz_revisions *revisions, authz_span name)
{
    if (revisions->last != NULL && is_named(revisions->last, name)) {
        return revisions->last;
    }
    const uint64_t hash = authz_siphash_1_3(revisions->key, name.data, name.length);
    authz_revision *revision = revisions->chains[hash % AUTHZ_REVISION_CHAINS];
    while (revision != NULL && !(revision->hash == hash && is_named(revision, name))) {
        revision = revision->next;
    }
    if (revision != NULL) {
        revisions->last = revision;
    }
    return revision;
}

authz_revision *
authz_revisions_hold(authz_revisions *revisions, authz_span name, const authz_allocator *allocator)
{
    authz_revision *revision = authz_revisions_find(revisions, name);
    if (revision == NULL) {
        if (name.length > SIZE_MAX - sizeof *revision) {
            return NULL;
        }
        revision = allocator->allocate(allocator->context, sizeof *revision + name.length);
        if (revision == NULL) {
            return NULL;
        }
        revision->hash = authz_siphash_1_3(revisions->key, name.data, name.length);
        revision->entries = 0;
        revision->len = name.length;
        authz_copy(revision->bytes, name.data, name.length);
        authz_revision **chain = &revisions->chains[revision->hash % AUTHZ_REVISION_CHAINS];
        revision->next = *chain;
        *chain = revision;
        revisions->last = revision;
    }
    revision->entries++;
    return revision;
}

void
authz_revisions_drop(authz_revisions *revisions, authz_revision *revision,
                  const authz_allocator *allocator)
{
    if (--revision->entries != 0) {
        return;
    }
    authz_revision **link = &revisions->chains[revision->hash % AUTHZ_REVISION_CHAINS];
    while (*link != revision) {
        link = &(*link)->next;
    }
    *link = revision->next;
    if (revisions->last == revision) {
        revisions->last = NULL;
    }
    allocator->release(allocator->context, revision);
}

void
authz_revisions_release(authz_revisions *revisions, const authz_allocator *allocator)
{
    for (size_t i = 0; i < AUTHZ_REVISION_CHAINS; i++) {
        authz_revision *revision = revisions->chains[i];
        while (revision != NULL) {
            authz_revision *next = revision->next;
            allocator->release(allocator->context, revision);
            revision = next;
        }
        revisions->chains[i] = NULL;
    }
    revisions->last = NULL;
}

bool
authz_revisions_are_whole(const authz_revisions *revisions, size_t entries)
{
    size_t held = 0;
    bool has_last = revisions->last == NULL;
    for (size_t i = 0; i < AUTHZ_REVISION_CHAINS; i++) {
        for (const authz_revision *at = revisions->chains[i]; at != NULL; at = at->next) {
            const authz_span name = {at->bytes, at->len};
            if (at->entries == 0 || at->hash % AUTHZ_REVISION_CHAINS != i ||
                at->hash != authz_siphash_1_3(revisions->key, at->bytes, at->len)) {
                return false;
            }
            for (const authz_revision *other = at->next; other; other = other->next) {
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
