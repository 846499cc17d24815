/* The file that audit events go to: whole lines, in the order of the answers.
 *
 * Twin: authz_server/audit/sink.py. Safe to share between threads: events of one write
 * stay together, and no other's come between them. */

#ifndef AUTHZ_CORE_AUDIT_FILE_H
#define AUTHZ_CORE_AUDIT_FILE_H

#include <stddef.h>

#include "allocator.h"
#include "span.h"

typedef struct authz_audit_file authz_audit_file;

/* Opens the file for appending, so that rotation by truncation works; `path` NULL is
 * standard output. NULL, with errno set: it cannot be opened. */
authz_audit_file *authz_audit_file_open(const char *path, const authz_allocator *allocator);

/* Appends `events`, one or more whole lines. A file that was renamed or removed is left,
 * and a new one made. 0, or the errno of what went wrong: then the events may be there in
 * part, and what is there of the last line will not swallow the next event. */
int authz_audit_file_write(authz_audit_file *file, authz_span events);

/* Closes the file, later writes fail with EBADF; standard output stays open. */
void authz_audit_file_close(authz_audit_file *file);

/* Frees what open returned, and closes it; NULL does nothing. */
void authz_audit_file_free(authz_audit_file *file);

#endif
