/* The alarm of a loop: it goes off when it was set to, not before, and not again. */

#include <math.h>
#include <poll.h>

#include "alarm.h"
#include "clock.h"
#include "testing.h"

static bool
goes_off(const authz_alarm *alarm, int within_ms)
{
    struct pollfd one = {alarm->descriptor, POLLIN, 0};
    return poll(&one, 1, within_ms) == 1;
}

int
main(void)
{
    authz_alarm alarm;
    CHECK(authz_alarm_open(&alarm));
    CHECK(!goes_off(&alarm, 0));

    /* What is over, even at the begin of time. */
    authz_alarm_set(&alarm, 0);
    CHECK(goes_off(&alarm, 5000));
    authz_alarm_hear(&alarm);
    CHECK(!goes_off(&alarm, 0) && isinf(alarm.at_s));

    /* The earliest counts, whenever it was said. */
    const double begin_s = authz_now_steady_s();
    authz_alarm_set(&alarm, begin_s + 3600);
    CHECK(!goes_off(&alarm, 0));
    authz_alarm_set(&alarm, begin_s + 0.05);
    authz_alarm_set(&alarm, begin_s + 7200);
    CHECK(goes_off(&alarm, 5000));
    CHECK(authz_now_steady_s() >= begin_s + 0.049);

    /* Once heard, it can be set to later. */
    authz_alarm_hear(&alarm);
    authz_alarm_set(&alarm, begin_s + 3600);
    CHECK(!goes_off(&alarm, 0));
    authz_alarm_close(&alarm);
    return 0;
}
