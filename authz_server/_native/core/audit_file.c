#include "audit_file.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct authz_audit_file {
    authz_allocator allocator;
    pthread_mutex_t lock; /* guards all that follows but the path */
    int descriptor;       /* -1: closed */
    bool is_torn;         /* a failed write left part of a line */
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

static int
write_all(authz_audit_file *file, authz_span data)
{
    while (data.length > 0) {
        const ssize_t written = write(file->descriptor, data.data, data.length);
        if (written < 0 && errno == EINTR) {
            continue;
        }
        if (written < 0) {
            return errno;
        }
        data.data += written;
        data.length -= (size_t)written;
        if (written > 0) {
            file->is_torn = data.length > 0;
        }
    }
    return 0;
}

static int
append(authz_audit_file *file, authz_span events)
{
    if (file->descriptor < 0) {
        return EBADF;
    }
    int error = reopen_if_moved(file);
    if (error == 0 && file->is_torn) {
        error = write_all(file, AUTHZ_SPAN("\n"));
    }
    return error != 0 ? error : write_all(file, events);
}

int
authz_audit_file_write(authz_audit_file *file, authz_span events)
{
    pthread_mutex_lock(&file->lock);
    const int error = append(file, events);
    pthread_mutex_unlock(&file->lock);
    return error;
}

void
authz_audit_file_close(authz_audit_file *file)
{
    pthread_mutex_lock(&file->lock);
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
