/* The file that audit events go to: whole lines, in the order of the answers.
 *
 * Where events come faster than the file is written to, they are committed in groups: the
 * spool beside the file keeps them meanwhile, also from a process that is killed.
 *
 * Twin: authz_server/audit/file.py. Safe to share between threads: events of one write
 * stay together, and no other's come between them. */

#ifndef AUTHZ_CORE_AUDIT_FILE_H
#define AUTHZ_CORE_AUDIT_FILE_H

#include <stdbool.h>
#include <stddef.h>

#include "allocator.h"
#include "span.h"

typedef struct authz_audit_file authz_audit_file;

/* Opens the file for appending, so that rotation by truncation works; `path` NULL is
 * standard output. NULL, with errno set: it cannot be opened. */
authz_audit_file *authz_audit_file_open(const char *path, const authz_allocator *allocator);

/* How long events may be in the spool alone. */
#define AUTHZ_AUDIT_SPOOL_S 0.016

/* Appends `events`, one or more whole lines. A file that was renamed or removed is left,
 * and a new one made. 0, or the errno of what went wrong: then the events may be there in
 * part, and what is there of the last line will not swallow the next event. */
int authz_audit_file_write(authz_audit_file *file, authz_span events);

/* The same, or puts them into the spool if the file was written to often of late:
 * `*is_pending` then, and `authz_audit_file_flush` is due AUTHZ_AUDIT_SPOOL_S from now.
 * Either way they are on record when it returns 0.
 *
 * `now_s`: of the steady clock. */
int authz_audit_file_record(authz_audit_file *file, authz_span events, double now_s,
                            bool *is_pending);

/* Appends what is in the spool. 0, or an errno; what is not in the file then stays. */
int authz_audit_file_flush(authz_audit_file *file);

/* Closes the file, later writes fail with EBADF; standard output stays open. */
void authz_audit_file_close(authz_audit_file *file);

/* Frees what open returned, and closes it; NULL does nothing. */
void authz_audit_file_free(authz_audit_file *file);

#endif
