/* A descriptor that is readable once a moment has come.
 *
 * Waiting for others could end by itself then, epoll_wait(2) has a timeout; but the kernel
 * would set a timer for every wait of a busy loop and take it back. */

#ifndef AUTHZ_CORE_ALARM_H
#define AUTHZ_CORE_ALARM_H

#include <stdbool.h>

typedef struct authz_alarm {
    int descriptor; /* a timerfd */
    double at_s;    /* of the steady clock; infinite: it is not set */
} authz_alarm;

/* Makes one that is not set; false: there is no descriptor. */
bool authz_alarm_open(authz_alarm *alarm);
void authz_alarm_close(authz_alarm *alarm);

/* From now on it goes off at `at_s` at the latest, but at once if that is over. */
void authz_alarm_set(authz_alarm *alarm, double at_s);

/* Notes that it went off: it is not set any more. */
void authz_alarm_hear(authz_alarm *alarm);

#endif
