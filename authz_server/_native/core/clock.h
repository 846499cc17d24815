/* The time, given from outside. */

#ifndef AUTHZ_CORE_CLOCK_H
#define AUTHZ_CORE_CLOCK_H

/* One moment on two clocks. */
typedef struct authz_instant {
    double wall_s;   /* since the Unix epoch; it can jump */
    double steady_s; /* of the monotonic clock */
} authz_instant;

/* Tells what time it is. Called by several threads at once. */
typedef authz_instant (*authz_clock)(void);

/* CLOCK_REALTIME and CLOCK_MONOTONIC: what Python's time.time() and time.monotonic()
 * tell too, so instants of both can be compared. */
authz_instant authz_system_clock(void);

#endif
