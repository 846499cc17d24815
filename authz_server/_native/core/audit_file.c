#include "audit_file.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "audit_spool.h"

struct authz_audit_file {
    authz_allocator allocator;
    pthread_mutex_t lock; /* guards all that follows but the path */
    int descriptor;       /* -1: closed */
    bool is_torn;         /* a failed write left part of a line */
    bool is_failing;      /* the last write failed: no answer relies on the spool then */
    unsigned attendants;
    double written_s; /* when it was last written to */
    _Atomic double due_s; /* written under the lock */
    authz_audit_spool spool;
    dev_t device;
    ino_t inode;
    bool is_standard_output;
    char path[];
};

/* 0, or an errno; what was open stays open then. */
static int
open_path(authz_audit_file *file)
{
    const int descriptor =
        open(file->path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640);
    if (descriptor < 0) {
        return errno;
    }
    struct stat status;
    if (fstat(descriptor, &status) < 0) {
        const int error = errno;
        close(descriptor);
        return error;
    }
    if (file->descriptor >= 0) {
        close(file->descriptor);
    }
    file->descriptor = descriptor;
    file->device = status.st_dev;
    file->inode = status.st_ino;
    return 0;
}

authz_audit_file *
authz_audit_file_open(const char *path, const authz_allocator *allocator)
{
    const size_t length = path != NULL ? strlen(path) : 0;
    authz_audit_file *file =
        allocator->allocate(allocator->context, sizeof *file + length + 1);
    if (file == NULL) {
        errno = ENOMEM;
        return NULL;
    }
    memset(file, 0, sizeof *file);
    file->allocator = *allocator;
    file->is_standard_output = path == NULL;
    file->descriptor = path == NULL ? STDOUT_FILENO : -1;
    if (path != NULL) {
        memcpy(file->path, path, length + 1);
    }
    const int error = path != NULL ? open_path(file) : 0;
    if (error != 0 || pthread_mutex_init(&file->lock, NULL) != 0) {
        if (path != NULL && file->descriptor >= 0) {
            close(file->descriptor);
        }
        allocator->release(allocator->context, file);
        errno = error != 0 ? error : ENOMEM;
        return NULL;
    }
    struct stat status;
    /* Devices and links have no place beside them. */
    if (path != NULL && lstat(path, &status) == 0 && S_ISREG(status.st_mode)) {
        authz_audit_spool_open(&file->spool, path, allocator);
    }
    return file;
}

static int
reopen_if_moved(authz_audit_file *file)
{
    if (file->is_standard_output) {
        return 0;
    }
    struct stat status;
    if (stat(file->path, &status) < 0) {
        return errno == ENOENT ? open_path(file) : errno;
    }
    const bool is_same = status.st_dev == file->device && status.st_ino == file->inode;
    return is_same ? 0 : open_path(file);
}

/* `*length` is how much of `data` was written in the end. */
static int
write_all(authz_audit_file *file, authz_span data, size_t *length)
{
    *length = 0;
    while (data.length > 0) {
        const ssize_t written = write(file->descriptor, data.data, data.length);
        if (written < 0 && errno == EINTR) {
            continue;
        }
        if (written < 0) {
            return errno;
        }
        if (written > 0) {
            file->is_torn = data.data[written - 1] != '\n';
        }
        data.data += written;
        data.length -= (size_t)written;
        *length += (size_t)written;
    }
    return 0;
}

/* Where the line begins that the byte at `at` is of. */
static size_t
line_of(authz_span lines, size_t at)
{
    while (at > 0 && lines.data[at - 1] != '\n') {
        at--;
    }
    return at;
}

/* Of what is pending, what is not wholly in the file stays pending. */
static int
write_pending(authz_audit_file *file, authz_span events)
{
    const size_t pending = authz_audit_spool_pending(&file->spool).length;
    /* In one write, if there is room. */
    const bool are_together =
        pending > 0 && authz_audit_spool_put(&file->spool, events);
    const authz_span all = authz_audit_spool_pending(&file->spool);
    size_t written;
    const int error = write_all(file, all, &written);
    const size_t kept = written < pending ? line_of(all, written) : pending;
    authz_audit_spool_keep(&file->spool, kept, pending);
    return error != 0 || are_together ? error : write_all(file, events, &written);
}

static int
append(authz_audit_file *file, authz_span events, double now_s)
{
    if (file->descriptor < 0) {
        return EBADF;
    }
    int error = reopen_if_moved(file);
    size_t written;
    if (error == 0 && file->is_torn) {
        error = write_all(file, AUTHZ_SPAN("\n"), &written);
    }
    if (error == 0) {
        error = write_pending(file, events);
    }
    file->is_failing = error != 0;
    file->written_s = now_s;
    const bool is_pending = authz_audit_spool_pending(&file->spool).length > 0;
    file->due_s = is_pending ? now_s + AUTHZ_AUDIT_SPOOL_S : 0;
    return error;
}

/* False: it has to be written. What comes alone is; what follows within
 * AUTHZ_AUDIT_SPOOL_S is spooled, and written once that is over. */
static bool
spool(authz_audit_file *file, authz_span events, double now_s)
{
    const bool is_alone = now_s - file->written_s >= AUTHZ_AUDIT_SPOOL_S;
    if (file->attendants == 0 || is_alone || file->is_failing ||
        !authz_audit_spool_put(&file->spool, events)) {
        return false;
    }
    if (file->due_s == 0) {
        file->due_s = file->written_s + AUTHZ_AUDIT_SPOOL_S;
    }
    return true;
}

int
authz_audit_file_write(authz_audit_file *file, authz_span events, double now_s)
{
    int error = 0;
    pthread_mutex_lock(&file->lock);
    if (!spool(file, events, now_s)) {
        error = append(file, events, now_s);
    }
    pthread_mutex_unlock(&file->lock);
    return error;
}

bool
authz_audit_file_spool(authz_audit_file *file, authz_span events, double now_s)
{
    if (pthread_mutex_trylock(&file->lock) != 0) {
        return false;
    }
    const bool is_done = spool(file, events, now_s);
    pthread_mutex_unlock(&file->lock);
    return is_done;
}

double
authz_audit_file_due_s(const authz_audit_file *file)
{
    return atomic_load_explicit(&file->due_s, memory_order_relaxed);
}

int
authz_audit_file_flush(authz_audit_file *file, double now_s)
{
    pthread_mutex_lock(&file->lock);
    const bool is_pending = authz_audit_spool_pending(&file->spool).length > 0;
    const int error = is_pending ? append(file, (authz_span){NULL, 0}, now_s) : 0;
    pthread_mutex_unlock(&file->lock);
    return error;
}

void
authz_audit_file_attend(authz_audit_file *file)
{
    pthread_mutex_lock(&file->lock);
    file->attendants++;
    pthread_mutex_unlock(&file->lock);
}

void
authz_audit_file_attend_no_more(authz_audit_file *file)
{
    (void)authz_audit_file_flush(file, file->due_s);
    pthread_mutex_lock(&file->lock);
    file->attendants--;
    pthread_mutex_unlock(&file->lock);
}

void
authz_audit_file_close(authz_audit_file *file)
{
    /* What cannot be written stays in the spool, for the next start. */
    (void)authz_audit_file_flush(file, file->due_s);
    pthread_mutex_lock(&file->lock);
    authz_audit_spool_close(&file->spool, &file->allocator);
    if (!file->is_standard_output && file->descriptor >= 0) {
        close(file->descriptor);
    }
    file->descriptor = -1;
    pthread_mutex_unlock(&file->lock);
}

void
authz_audit_file_free(authz_audit_file *file)
{
    if (file == NULL) {
        return;
    }
    authz_audit_file_close(file);
    pthread_mutex_destroy(&file->lock);
    const authz_allocator allocator = file->allocator;
    allocator.release(allocator.context, file);
}
