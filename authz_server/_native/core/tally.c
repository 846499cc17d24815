#include "tally.h"

#include <string.h>

bool
authz_tally_init(authz_tally *tally, const double *bounds_s, size_t count)
{
    if (count > AUTHZ_MAX_BUCKETS) {
        return false;
    }
    memset(tally, 0, sizeof *tally);
    for (size_t i = 0; i < count; i++) {
        tally->bounds_s[i] = bounds_s[i];
    }
    tally->bound_count = count;
    return pthread_mutex_init(&tally->lock, NULL) == 0;
}

void
authz_tally_destroy(authz_tally *tally)
{
    pthread_mutex_destroy(&tally->lock);
}

void
authz_tally_add(authz_tally *tally, uint8_t reason, double latency_s)
{
    size_t bucket = 0; /* a hit is nearly always in the first */
    while (bucket < tally->bound_count && latency_s > tally->bounds_s[bucket]) {
        bucket++;
    }
    pthread_mutex_lock(&tally->lock);
    tally->counts.reasons[reason]++;
    tally->counts.buckets[bucket]++;
    tally->counts.sum_s += latency_s;
    pthread_mutex_unlock(&tally->lock);
}

void
authz_tally_read(authz_tally *tally, authz_counts *counts)
{
    pthread_mutex_lock(&tally->lock);
    *counts = tally->counts;
    pthread_mutex_unlock(&tally->lock);
}
