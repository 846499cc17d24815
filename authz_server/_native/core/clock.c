#include "clock.h"

#include <time.h>

static double
seconds_of(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

authz_instant
authz_now(void)
{
    return (authz_instant){seconds_of(CLOCK_REALTIME), seconds_of(CLOCK_MONOTONIC)};
}

double
authz_now_steady_s(void)
{
    return seconds_of(CLOCK_MONOTONIC);
}
