/* What time it is. */

#ifndef AUTHZ_CORE_CLOCK_H
#define AUTHZ_CORE_CLOCK_H

/* One moment on two clocks: CLOCK_REALTIME and CLOCK_MONOTONIC, which Python's
 * time.time() and time.monotonic() tell too, so instants of both can be compared. */
typedef struct authz_instant {
    double wall_s;   /* since the Unix epoch; it can jump */
    double steady_s; /* of the monotonic clock */
} authz_instant;

authz_instant authz_now(void);

double authz_now_steady_s(void);

#endif
