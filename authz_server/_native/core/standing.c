#include "standing.h"

#include <math.h>
#include <string.h>

bool
authz_standing_init(authz_standing *standing)
{
    standing->length = 0;
    standing->until_s = -INFINITY;
    return pthread_mutex_init(&standing->lock, NULL) == 0;
}

void
authz_standing_destroy(authz_standing *standing)
{
    pthread_mutex_destroy(&standing->lock);
}

void
authz_standing_set(authz_standing *standing, authz_span revision, double until_s)
{
    const bool is_kept = revision.length <= sizeof standing->revision;
    pthread_mutex_lock(&standing->lock);
    standing->until_s = is_kept ? until_s : -INFINITY;
    standing->length = is_kept ? revision.length : 0;
    if (standing->length > 0) {
        memcpy(standing->revision, revision.data, standing->length);
    }
    pthread_mutex_unlock(&standing->lock);
}

void
authz_standing_close(authz_standing *standing)
{
    authz_standing_set(standing, (authz_span){NULL, 0}, -INFINITY);
}

bool
authz_standing_get(authz_standing *standing, double steady_s, authz_revision_copy *revision)
{
    pthread_mutex_lock(&standing->lock);
    const bool holds = steady_s < standing->until_s;
    if (holds) {
        revision->length = standing->length;
        memcpy(revision->bytes, standing->revision, standing->length);
    }
    pthread_mutex_unlock(&standing->lock);
    return holds;
}
