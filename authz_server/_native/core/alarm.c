#include "alarm.h"

#include <math.h>
#include <stdint.h>
#include <sys/timerfd.h>
#include <unistd.h>

bool
authz_alarm_open(authz_alarm *alarm)
{
    alarm->at_s = INFINITY;
    alarm->descriptor = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    return alarm->descriptor >= 0;
}

void
authz_alarm_close(authz_alarm *alarm)
{
    close(alarm->descriptor);
}

void
authz_alarm_set(authz_alarm *alarm, double at_s)
{
    if (alarm->at_s <= at_s) {
        return;
    }
    const double whole_s = floor(at_s);
    const struct itimerspec when = {
        .it_value = {.tv_sec = (time_t)whole_s,
                     /* Zero would be never. */
                     .tv_nsec = (long)((at_s - whole_s) * 1e9) | 1},
    };
    alarm->at_s = at_s;
    (void)timerfd_settime(alarm->descriptor, TFD_TIMER_ABSTIME, &when, NULL);
}

void
authz_alarm_hear(authz_alarm *alarm)
{
    uint64_t times;
    (void)!read(alarm->descriptor, &times, sizeof times);
    alarm->at_s = INFINITY;
}
