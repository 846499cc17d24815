/* How many checks were answered from memory, by reason and by time. */

#ifndef AUTHZ_CORE_TALLY_H
#define AUTHZ_CORE_TALLY_H

#include <stddef.h>
#include <stdint.h>

#include <pthread.h>
#include <stdbool.h>

#define AUTHZ_REASONS 256
#define AUTHZ_MAX_BUCKETS 32

typedef struct authz_counts {
    uint64_t reasons[AUTHZ_REASONS];       /* by the caller's codes */
    uint64_t buckets[AUTHZ_MAX_BUCKETS + 1]; /* by upper bound, the last without one */
    double sum_s;
} authz_counts;

typedef struct authz_tally {
    /* Never change after authz_tally_init. */
    double bounds_s[AUTHZ_MAX_BUCKETS]; /* inclusive, ascending */
    size_t bound_count;

    pthread_mutex_t lock; /* guards the counts */
    authz_counts counts;
} authz_tally;

/* Makes one of zeros; false: no memory, or more bounds than buckets. */
bool authz_tally_init(authz_tally *tally, const double *bounds_s, size_t count);
void authz_tally_destroy(authz_tally *tally);

/* Counts one answer that took `latency_s` seconds. */
void authz_tally_add(authz_tally *tally, uint8_t reason, double latency_s);

/* Copies the counts as they are at one moment. */
void authz_tally_read(authz_tally *tally, authz_counts *counts);

#endif
