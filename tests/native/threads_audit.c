/* Threads that record, write and flush: every line is there once, whole, and those of one
 * thread in their order. */

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "audit_file.h"
#include "testing.h"

enum { THREADS = 8, STEPS = 4000, LINE = 16 };

typedef struct {
    authz_audit_file *file;
    unsigned number;
    unsigned pending; /* how often an event was spooled */
} task;

static void *
record(void *argument)
{
    task *worker = argument;
    char line[LINE + 1];
    for (unsigned step = 0; step < STEPS; step++) {
        snprintf(line, sizeof line, "%02u %011u\n", worker->number, step);
        const authz_span event = {(const uint8_t *)line, LINE - 1};
        const double now_s = 1e-5 * step;
        if (worker->number > 0 && authz_audit_file_spool(worker->file, event, now_s)) {
            worker->pending++;
        } else {
            CHECK(authz_audit_file_write(worker->file, event, now_s) == 0);
        }
        const double due_s = authz_audit_file_due_s(worker->file);
        if (step % 64 == worker->number && due_s != 0) {
            CHECK(authz_audit_file_flush(worker->file, now_s) == 0);
        }
    }
    return NULL;
}

static void
check_lines(const char *path)
{
    unsigned next[THREADS] = {0};
    FILE *file = fopen(path, "re");
    CHECK(file != NULL);
    char line[64];
    while (fgets(line, sizeof line, file) != NULL) {
        unsigned number, step;
        CHECK(strlen(line) == LINE - 1 && sscanf(line, "%u %u", &number, &step) == 2);
        CHECK(number < THREADS && next[number] == step);
        next[number]++;
    }
    fclose(file);
    for (unsigned i = 0; i < THREADS; i++) {
        CHECK(next[i] == STEPS);
    }
}

int
main(void)
{
    char folder[] = "/tmp/authz-audit-XXXXXX", path[64];
    CHECK(mkdtemp(folder) != NULL);
    snprintf(path, sizeof path, "%s/audit", folder);
    const authz_allocator allocator = authz_system_allocator();
    authz_audit_file *file = authz_audit_file_open(path, &allocator);
    CHECK(file != NULL);
    authz_audit_file_attend(file);
    pthread_t threads[THREADS];
    task workers[THREADS];
    for (unsigned i = 0; i < THREADS; i++) {
        workers[i] = (task){file, i, 0};
        CHECK(pthread_create(&threads[i], NULL, record, &workers[i]) == 0);
    }
    unsigned pending = 0;
    for (unsigned i = 0; i < THREADS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
        pending += workers[i].pending;
    }
    CHECK(pending > 0);
    authz_audit_file_free(file);
    check_lines(path);
    CHECK(unlink(path) == 0 && rmdir(folder) == 0);
    return 0;
}
