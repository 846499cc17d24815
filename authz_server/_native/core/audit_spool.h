/* Events that are on record but not in the audit file yet: memory that outlives the
 * process, since it is that of a file beside the audit file.
 *
 * Reader after a crash: authz_server/audit/spool.py. Not for several threads at a time. */

#ifndef AUTHZ_CORE_AUDIT_SPOOL_H
#define AUTHZ_CORE_AUDIT_SPOOL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "allocator.h"
#include "span.h"

#define AUTHZ_SPOOL_TEXT_BYTES 262144

/* What the file holds, in the byte order of the machine. */
typedef struct authz_spool_file {
    char magic[16];
    char boot[40];              /* the boot that its text is of, padded with zeros */
    atomic_uint_least64_t place; /* of what is pending: start << 32 | end */
    uint8_t text[AUTHZ_SPOOL_TEXT_BYTES];
} authz_spool_file;

typedef struct authz_audit_spool {
    authz_spool_file *file; /* NULL: there is none */
    int descriptor;
    char *path;
} authz_audit_spool;

/* Makes the spool of the audit file at `path`, hidden beside it, with room on the disk for all of it. Without
 * one, `file` is NULL: it can't be made there, is another's or in use, or holds what nobody
 * has put into the audit file yet. */
void authz_audit_spool_open(authz_audit_spool *spool, const char *path,
                            const authz_allocator *allocator);

/* Removes the file, if nothing is pending in it, and frees the rest. */
void authz_audit_spool_close(authz_audit_spool *spool, const authz_allocator *allocator);

/* Adds `text` to what is pending; false if there is no room. When it returns, the text is
 * kept, whatever happens to the process. */
bool authz_audit_spool_put(authz_audit_spool *spool, authz_span text);

/* What is pending. */
authz_span authz_audit_spool_pending(const authz_audit_spool *spool);

/* Leaves of what is pending what is from `start` to `end`. */
void authz_audit_spool_keep(authz_audit_spool *spool, size_t start, size_t end);

#endif
