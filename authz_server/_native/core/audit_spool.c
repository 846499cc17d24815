#include "audit_spool.h"

#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define BOOT_ID "/proc/sys/kernel/random/boot_id"
#define BOOT_ID_LENGTH 36
#define SUFFIX ".spool"

static const char magic[16] = "authz-spool 1\n";

static uint32_t
start_of(uint64_t place)
{
    return (uint32_t)(place >> 32);
}

static uint32_t
end_of(uint64_t place)
{
    return (uint32_t)place;
}

static uint64_t
place_of(const authz_audit_spool *spool)
{
    return atomic_load_explicit(&spool->file->place, memory_order_relaxed);
}

/* Nothing before this can come after it: whoever sees the place sees the text. */
static void
set_place(authz_audit_spool *spool, size_t start, size_t end)
{
    atomic_store_explicit(&spool->file->place, (uint64_t)start << 32 | (uint64_t)end,
                          memory_order_release);
}

/* After a crash of the machine, parts of the file may be older than others. */
static bool
read_boot(char boot[40])
{
    memset(boot, 0, 40);
    const int file = open(BOOT_ID, O_RDONLY | O_CLOEXEC);
    if (file < 0) {
        return false;
    }
    const ssize_t length = read(file, boot, BOOT_ID_LENGTH);
    close(file);
    return length == BOOT_ID_LENGTH;
}

/* Writing it is what takes the room: a store into a hole of a full disk is a SIGBUS. */
static bool
fill(int descriptor)
{
    static const uint8_t zeros[4096];
    for (size_t at = 0; at < sizeof(authz_spool_file); at += sizeof zeros) {
        if (pwrite(descriptor, zeros, sizeof zeros, (off_t)at) != (ssize_t)sizeof zeros) {
            return false;
        }
    }
    return true;
}

/* Whether the file is of our user alone, nobody uses it, and it still is the one at the
 * path: what others can truncate must not be mapped. Kubernetes lets a pod's group write
 * what is on its volumes (fsGroup). */
static bool
claim(int descriptor, const char *path)
{
    struct stat ours, there;
    return fstat(descriptor, &ours) == 0 && S_ISREG(ours.st_mode) &&
           ours.st_uid == geteuid() && ours.st_nlink == 1 &&
           (ours.st_mode & S_IWOTH) == 0 &&
           flock(descriptor, LOCK_EX | LOCK_NB) == 0 && lstat(path, &there) == 0 &&
           ours.st_ino == there.st_ino && ours.st_dev == there.st_dev;
}

/* Whether it holds nothing that anybody has still to read. */
static bool
is_free(int descriptor)
{
    uint64_t place = 0;
    const ssize_t length =
        pread(descriptor, &place, sizeof place, offsetof(authz_spool_file, place));
    return length < (ssize_t)sizeof place || start_of(place) >= end_of(place);
}

static authz_spool_file *
map(int descriptor, const char *path)
{
    char boot[40];
    if (!read_boot(boot) || !claim(descriptor, path) || !is_free(descriptor)) {
        return NULL;
    }
    authz_spool_file *file = fill(descriptor)
                                 ? mmap(NULL, sizeof *file, PROT_READ | PROT_WRITE,
                                        MAP_SHARED, descriptor, 0)
                                 : MAP_FAILED;
    if (file == MAP_FAILED) {
        unlink(path);
        return NULL;
    }
    memcpy(file->magic, magic, sizeof magic);
    memcpy(file->boot, boot, sizeof boot);
    return file;
}

static void
release(authz_audit_spool *spool, const authz_allocator *allocator)
{
    if (spool->descriptor >= 0) {
        close(spool->descriptor);
    }
    allocator->release(allocator->context, spool->path);
    *spool = (authz_audit_spool){NULL, -1, NULL};
}

/* FOLDER/.NAME.spool: hidden from whoever rotates or ships all files of the folder. */
static char *
path_beside(const char *path, const authz_allocator *allocator)
{
    const char *slash = strrchr(path, '/');
    const size_t folder = slash != NULL ? (size_t)(slash - path) + 1 : 0;
    const size_t name = strlen(path) - folder;
    char *beside =
        allocator->allocate(allocator->context, folder + 1 + name + sizeof SUFFIX);
    if (beside != NULL) {
        memcpy(beside, path, folder);
        beside[folder] = '.';
        memcpy(beside + folder + 1, path + folder, name);
        memcpy(beside + folder + 1 + name, SUFFIX, sizeof SUFFIX);
    }
    return beside;
}

void
authz_audit_spool_open(authz_audit_spool *spool, const char *path,
                       const authz_allocator *allocator)
{
    *spool = (authz_audit_spool){NULL, -1, NULL};
    spool->path = path_beside(path, allocator);
    if (spool->path == NULL) {
        return;
    }
    spool->descriptor =
        open(spool->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
    if (spool->descriptor >= 0) {
        spool->file = map(spool->descriptor, spool->path);
    }
    if (spool->file == NULL) {
        release(spool, allocator);
    }
}

void
authz_audit_spool_close(authz_audit_spool *spool, const authz_allocator *allocator)
{
    if (spool->file == NULL) {
        return;
    }
    if (authz_audit_spool_pending(spool).length == 0) {
        unlink(spool->path);
    }
    munmap(spool->file, sizeof *spool->file);
    release(spool, allocator);
}

bool
authz_audit_spool_put(authz_audit_spool *spool, authz_span text)
{
    if (spool->file == NULL) {
        return false;
    }
    const uint64_t place = place_of(spool);
    const size_t start = start_of(place), end = end_of(place);
    if (text.length > AUTHZ_SPOOL_TEXT_BYTES - end) {
        return false;
    }
    if (text.length > 0) {
        memcpy(spool->file->text + end, text.data, text.length);
    }
    set_place(spool, start, end + text.length);
    return true;
}

authz_span
authz_audit_spool_pending(const authz_audit_spool *spool)
{
    if (spool->file == NULL) {
        return (authz_span){NULL, 0};
    }
    const uint64_t place = place_of(spool);
    return (authz_span){spool->file->text + start_of(place),
                        end_of(place) - start_of(place)};
}

void
authz_audit_spool_keep(authz_audit_spool *spool, size_t start, size_t end)
{
    if (spool->file == NULL) {
        return;
    }
    const size_t from = start_of(place_of(spool));
    if (start == end) {
        set_place(spool, 0, 0);
    } else {
        set_place(spool, from + start, from + end);
    }
}
