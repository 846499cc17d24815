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

/* Whoever calls this flushes the file whenever it is due, until it ends that; only
 * meanwhile the spool is used. */
void authz_audit_file_attend(authz_audit_file *file);
void authz_audit_file_attend_no_more(authz_audit_file *file);

/* How long events may be in the spool alone. */
#define AUTHZ_AUDIT_SPOOL_S 0.016

/* Appends `events`, one or more whole lines; or puts them into the spool, if the file was
 * written to often of late. Either way they are on record when it returns 0. A file that
 * was renamed or removed is left, and a new one made. Otherwise the errno of what went
 * wrong: then the events may be there in part, and what is there of the last line will not
 * swallow the next event.
 *
 * `now_s`: of the steady clock. */
int authz_audit_file_write(authz_audit_file *file, authz_span events, double now_s);

/* The same, if it is done at once: false, and nothing has happened, if the file has to be
 * written to or waited for. */
bool authz_audit_file_spool(authz_audit_file *file, authz_span events, double now_s);

/* When what is in the spool has to be flushed; 0: there is nothing. */
double authz_audit_file_due_s(const authz_audit_file *file);

/* Appends what is in the spool. 0, or an errno; what is not in the file then stays, and is
 * due again. */
int authz_audit_file_flush(authz_audit_file *file, double now_s);

/* Closes the file, later writes fail with EBADF; standard output stays open. */
void authz_audit_file_close(authz_audit_file *file);

/* Frees what open returned, and closes it; NULL does nothing. */
void authz_audit_file_free(authz_audit_file *file);

#endif
