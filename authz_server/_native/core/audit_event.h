/* The half of an audit event that is particular to one request.
 *
 * Twin: authz_server/audit/event.py, which has the reasons. To the last byte:
 *
 *     record,"time":…,"cache_hit":…,"latency_us":…,"request_id":…,"source":…}\n
 */

#ifndef AUTHZ_CORE_AUDIT_EVENT_H
#define AUTHZ_CORE_AUDIT_EVENT_H

#include "buffer.h"

/* Longer texts are cut, in characters. */
#define AUTHZ_MAX_TEXT_CHARACTERS 2048

/* The last second that was written as a date: the same for many events. */
typedef struct authz_date {
    int64_t second;
    char text[sizeof "\"2026-11-26T08:22:55"]; /* empty: none yet */
} authz_date;

typedef struct authz_occurrence {
    double wall_s;    /* arrival, since the Unix epoch; in the years 1 to 9999 */
    double latency_s; /* from the arrival to the answer */
    bool cache_hit;
    authz_span request_id; /* UTF-8 */
    authz_span source;     /* UTF-8 */
} authz_occurrence;

/* Appends the whole event: `record`, a JSON object without its closing brace, and the
 * occurrence. False, with nothing appended: no memory, or a time without a date. */
bool authz_audit_event(authz_buffer *buffer, authz_date *date, authz_span record,
                       const authz_occurrence *occurrence);

#endif
