/* What a remembered decision must have been made under to answer now: the revision of
 * policy, identities and second lock, as the host last said.
 *
 * The host says it again and again, each time for a short while only. So nothing is
 * answered from memory any more soon after the host has stopped to look after it. */

#ifndef AUTHZ_CORE_STANDING_H
#define AUTHZ_CORE_STANDING_H

#include <pthread.h>
#include <stdbool.h>

#include "span.h"

/* Longer than any that the host makes; one that is not kept closes the standing. */
#define AUTHZ_MAX_REVISION_BYTES 1024

typedef struct authz_standing {
    pthread_mutex_t lock; /* guards the rest */
    size_t length;
    double until_s; /* steady */
    uint8_t revision[AUTHZ_MAX_REVISION_BYTES];
} authz_standing;

/* One caller's copy. */
typedef struct authz_revision_copy {
    size_t length;
    uint8_t bytes[AUTHZ_MAX_REVISION_BYTES];
} authz_revision_copy;

/* Makes a closed one; false: no memory. */
bool authz_standing_init(authz_standing *standing);
void authz_standing_destroy(authz_standing *standing);

/* From now on until `until_s` decisions that were made under `revision` answer. */
void authz_standing_set(authz_standing *standing, authz_span revision, double until_s);

/* From now on nothing is answered from memory. */
void authz_standing_close(authz_standing *standing);

/* Whether anything may be answered from memory at `steady_s`, and what then. */
bool authz_standing_get(authz_standing *standing, double steady_s,
                        authz_revision_copy *revision);

#endif
