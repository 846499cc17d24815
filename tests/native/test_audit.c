/* Audit events to the last byte, and the file that they go to.
 *
 * That an event is what the Python twin writes of anything is for
 * tests/property/test_audit_twins.py. */

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "audit_event.h"
#include "audit_file.h"
#include "audit_spool.h"
#include "extract_harness.h"

#define TAIL(time, latency, id, source)                                                  \
    "{\"a\":1,\"time\":\"" time "\",\"cache_hit\":true,\"latency_us\":" latency           \
    ",\"request_id\":\"" id "\",\"source\":\"" source "\"}\n"

static void
check_event(double wall_s, double latency_s, authz_span id, authz_span source,
            const char *expected)
{
    const authz_allocator allocator = authz_system_allocator();
    authz_buffer buffer;
    authz_buffer_init(&buffer, &allocator, SIZE_MAX);
    const authz_occurrence occurrence = {wall_s, latency_s, true, id, source};
    authz_date date = {0};
    CHECK(authz_audit_event(&buffer, &date, AUTHZ_SPAN("{\"a\":1"), &occurrence) ==
          (expected != NULL));
    const size_t length = expected != NULL ? strlen(expected) : 0;
    if (buffer.length != length ||
        (length > 0 && memcmp(buffer.data, expected, length) != 0)) {
        fprintf(stderr, "%.*s%s", (int)buffer.length, (const char *)buffer.data, expected);
        abort();
    }
    authz_buffer_release(&buffer);
}

static void
check_times(void)
{
    static const struct {
        double wall_s, latency_s;
        const char *expected;
    } cases[] = {
        {0, 0, TAIL("1970-01-01T00:00:00.000000+00:00", "0", "", "")},
        {1767225600.5, 0.0000015, TAIL("2026-01-01T00:00:00.500000+00:00", "2", "", "")},
        {1767225599.9999998, 0.0000025, TAIL("2026-01-01T00:00:00.000000+00:00", "2", "", "")},
        {951782400.25, -0.0000015, TAIL("2000-02-29T00:00:00.250000+00:00", "-2", "", "")},
        {-0.25, 12.5, TAIL("1969-12-31T23:59:59.750000+00:00", "12500000", "", "")},
        {253402300799, 1, TAIL("9999-12-31T23:59:59.000000+00:00", "1000000", "", "")},
        {-62135596800.0, 1, TAIL("0001-01-01T00:00:00.000000+00:00", "1000000", "", "")},
        {253402300800, 0, NULL},
        {-62135596801.0, 0, NULL},
        {(double)NAN, 0, NULL},
        {(double)INFINITY, 0, NULL},
        {-(double)INFINITY, 0, NULL},
        {0, (double)NAN, NULL},
        {0, (double)INFINITY, NULL},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        check_event(cases[i].wall_s, cases[i].latency_s, (authz_span){NULL, 0},
                    (authz_span){NULL, 0}, cases[i].expected);
    }
}

static void
check_texts(void)
{
#define EPOCH "1970-01-01T00:00:00.000000+00:00"
    check_event(0, 0, AUTHZ_SPAN("a\"\\/\b\f\n\r\t\x01\x1f\x7f"), AUTHZ_SPAN("[::1]:1"),
                TAIL(EPOCH, "0", "a\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u001f\\u007f", "[::1]:1"));
    check_event(0, 0, AUTHZ_SPAN("\xc2\x80\xdf\xbf\xe0\xa0\x80\xef\xbf\xbf"),
                AUTHZ_SPAN("\xf0\x90\x80\x80\xf4\x8f\xbf\xbf"),
                TAIL(EPOCH, "0", "\\u0080\\u07ff\\u0800\\uffff",
                     "\\ud800\\udc00\\udbff\\udfff"));
}

/* Longer texts are cut, in characters. */
static void
check_cuts(const char *character, const char *written)
{
    const size_t n = AUTHZ_MAX_TEXT_CHARACTERS;
    static uint8_t text[4 * AUTHZ_MAX_TEXT_CHARACTERS + 8];
    static char expected[12 * AUTHZ_MAX_TEXT_CHARACTERS + 200];
    size_t length = 0, out;
    for (size_t i = 0; i <= n; i++) {
        memcpy(text + length, character, strlen(character));
        length += strlen(character);
    }
    out = (size_t)sprintf(expected, "{\"a\":1,\"time\":\"" EPOCH
                                    "\",\"cache_hit\":true,\"latency_us\":0,"
                                    "\"request_id\":\"");
    for (size_t i = 0; i < n; i++) {
        memcpy(expected + out, written, strlen(written));
        out += strlen(written);
    }
    sprintf(expected + out, "\",\"source\":\"\"}\n");
    check_event(0, 0, (authz_span){text, length}, (authz_span){NULL, 0}, expected);
}

/* Without memory nothing is appended, whatever part it fails in. */
static void
check_no_memory(void)
{
    const authz_occurrence occurrence = {0, 0, true, AUTHZ_SPAN("\xc3\xa9\""),
                                         AUTHZ_SPAN("x")};
    const authz_allocator allocator = authz_system_allocator();
    size_t limit = 1;
    bool is_whole = false;
    for (; !is_whole; limit++) {
        authz_buffer buffer;
        authz_buffer_init(&buffer, &allocator, limit);
        CHECK(authz_buffer_u8(&buffer, '#'));
        authz_date date = {0};
        is_whole =
            authz_audit_event(&buffer, &date, AUTHZ_SPAN("{\"a\":1"), &occurrence);
        CHECK(is_whole || buffer.length == 1);
        authz_buffer_release(&buffer);
    }
    CHECK(limit > 100);
}

/* ---- the file --------------------------------------------------------------------- */

static char folder[] = "/tmp/authz-audit-XXXXXX";

static const char *
in_folder(const char *name)
{
    static char paths[4][64];
    static unsigned turn;
    char *path = paths[turn++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

static void
check_holds(const char *path, const char *expected)
{
    char text[256];
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    CHECK(file >= 0);
    const ssize_t length = read(file, text, sizeof text);
    close(file);
    CHECK(length == (ssize_t)strlen(expected));
    CHECK(memcmp(text, expected, (size_t)length) == 0);
}

static void
check_lines(void)
{
    const authz_allocator allocator = authz_system_allocator();
    const char *path = in_folder("lines");
    authz_audit_file *file = authz_audit_file_open(path, &allocator);
    CHECK(file != NULL);
    struct stat status;
    CHECK(stat(path, &status) == 0 && (status.st_mode & 07) == 0);
    CHECK(authz_audit_file_write(file, AUTHZ_SPAN("one\ntwo\n"), 1.0) == 0);
    CHECK(authz_audit_file_write(file, (authz_span){NULL, 0}, 1.0) == 0);
    check_holds(path, "one\ntwo\n");

    /* Renamed away, removed, and cut to nothing. */
    CHECK(rename(path, in_folder("before")) == 0);
    CHECK(authz_audit_file_write(file, AUTHZ_SPAN("three\n"), 1.0) == 0);
    check_holds(in_folder("before"), "one\ntwo\n");
    check_holds(path, "three\n");
    CHECK(unlink(path) == 0);
    CHECK(authz_audit_file_write(file, AUTHZ_SPAN("four\n"), 1.0) == 0);
    CHECK(truncate(path, 0) == 0);
    CHECK(authz_audit_file_write(file, AUTHZ_SPAN("five\n"), 1.0) == 0);
    check_holds(path, "five\n");

    authz_audit_file_close(file);
    authz_audit_file_close(file);
    CHECK(authz_audit_file_write(file, AUTHZ_SPAN("six\n"), 1.0) == EBADF);
    check_holds(path, "five\n");
    authz_audit_file_free(file);
    CHECK(unlink(path) == 0 && unlink(in_folder("before")) == 0);
}

/* A disk with room for a few bytes: RLIMIT_FSIZE makes a write short, and then fail. */
static void
check_torn(void)
{
    const authz_allocator allocator = authz_system_allocator();
    const char *path = in_folder("torn");
    authz_audit_file *file = authz_audit_file_open(path, &allocator);
    CHECK(file != NULL);
    struct rlimit before, small;
    CHECK(getrlimit(RLIMIT_FSIZE, &before) == 0);
    CHECK(signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
    small = before;
    small.rlim_cur = 5;
    CHECK(setrlimit(RLIMIT_FSIZE, &small) == 0);
    CHECK(authz_audit_file_write(file, AUTHZ_SPAN("{\"a\":1}\n"), 1.0) == EFBIG);
    CHECK(authz_audit_file_write(file, AUTHZ_SPAN("{\"b\":2}\n"), 1.0) == EFBIG);
    small.rlim_cur = 9;
    CHECK(setrlimit(RLIMIT_FSIZE, &small) == 0);
    CHECK(authz_audit_file_write(file, AUTHZ_SPAN("{\"c\":3}\n"), 1.0) == EFBIG);
    CHECK(setrlimit(RLIMIT_FSIZE, &before) == 0);
    CHECK(authz_audit_file_write(file, AUTHZ_SPAN("{\"d\":4}\n"), 1.0) == 0);
    CHECK(authz_audit_file_write(file, AUTHZ_SPAN("{\"e\":5}\n"), 1.0) == 0);
    check_holds(path, "{\"a\":\n{\"c\n{\"d\":4}\n{\"e\":5}\n");
    authz_audit_file_free(file);
    CHECK(unlink(path) == 0);
}

static void
check_failures(void)
{
    const authz_allocator allocator = authz_system_allocator();
    errno = 0;
    CHECK(authz_audit_file_open(in_folder("no/such"), &allocator) == NULL);
    CHECK(errno == ENOENT);
    counting counts = {.every = 1};
    const authz_allocator none = counting_allocator(&counts);
    CHECK(authz_audit_file_open(in_folder("x"), &none) == NULL && errno == ENOMEM);
    authz_audit_file *full = authz_audit_file_open("/dev/full", &allocator);
    CHECK(full != NULL);
    CHECK(authz_audit_file_write(full, AUTHZ_SPAN("x\n"), 1.0) == ENOSPC);
    authz_audit_file_free(full);
    authz_audit_file_free(NULL);

    /* The folder is gone: what was open is not written to behind the operator's back. */
    CHECK(mkdir(in_folder("sub"), 0700) == 0);
    authz_audit_file *file = authz_audit_file_open(in_folder("sub/x"), &allocator);
    CHECK(file != NULL);
    CHECK(unlink(in_folder("sub/x")) == 0 && unlink(in_folder("sub/.x.spool")) == 0);
    CHECK(rmdir(in_folder("sub")) == 0);
    CHECK(authz_audit_file_write(file, AUTHZ_SPAN("x\n"), 1.0) == ENOENT);
    authz_audit_file_free(file);
}

static authz_audit_file *
open_spooled(const char *path)
{
    const authz_allocator allocator = authz_system_allocator();
    authz_audit_file *file = authz_audit_file_open(path, &allocator);
    CHECK(file != NULL);
    CHECK(access(in_folder(".spooled.spool"), F_OK) == 0);
    authz_audit_file_attend(file);
    return file;
}

/* Whether the event is in the spool alone afterwards. */
static bool
record(authz_audit_file *file, const char *line, double now_s)
{
    const authz_span event = {(const uint8_t *)line, strlen(line)};
    if (authz_audit_file_spool(file, event, now_s)) {
        return true;
    }
    CHECK(authz_audit_file_write(file, event, now_s) == 0);
    CHECK(authz_audit_file_due_s(file) == 0);
    return false;
}

/* Writes until the next event would be spooled. */
static void
use_up(authz_audit_file *file, const char *path, double now_s)
{
    while (!record(file, "0\n", now_s)) {
    }
    CHECK(authz_audit_file_flush(file, now_s) == 0);
    CHECK(truncate(path, 0) == 0);
}

static void
use_up_without_spool(authz_audit_file *file)
{
    CHECK(file != NULL);
    authz_audit_file_attend(file);
    for (int i = 0; i < 100; i++) {
        CHECK(!record(file, "2\n", 1.0));
    }
}

static void
check_groups(void)
{
    const char *path = in_folder("spooled");
    authz_audit_file *file = open_spooled(path);

    /* What comes alone is in the file at once. */
    for (int i = 1; i < 100; i++) {
        CHECK(!record(file, "1\n", 0.017 * i));
    }
    CHECK(truncate(path, 0) == 0);

    CHECK(!record(file, "1\n", 3.0) && record(file, "2\n", 3.0));
    check_holds(path, "1\n");
    CHECK(authz_audit_file_flush(file, 3.016) == 0);
    CHECK(record(file, "3\n", 3.031) && !record(file, "4\n", 3.033));
    check_holds(path, "1\n2\n3\n4\n");
    CHECK(truncate(path, 0) == 0);

    use_up(file, path, 4.0);
    CHECK(record(file, "1\n", 4.001) && record(file, "2\n2\n", 4.002));
    check_holds(path, "");
    CHECK(fabs(authz_audit_file_due_s(file) - 4.0 - AUTHZ_AUDIT_SPOOL_S) < 1e-9);
    /* Whoever writes next takes it along, in order. */
    CHECK(!record(file, "3\n", 4.020));
    check_holds(path, "1\n2\n2\n3\n");

    /* A renamed file, the flush, and the end. */
    use_up(file, path, 5.0);
    CHECK(record(file, "1\n", 5.001));
    CHECK(rename(path, in_folder("before")) == 0);
    CHECK(authz_audit_file_flush(file, 5.016) == 0);
    CHECK(authz_audit_file_flush(file, 5.032) == 0);
    check_holds(path, "1\n");
    CHECK(record(file, "2\n", 5.002));
    /* Nobody flushes any more: nothing is spooled. */
    authz_audit_file_attend_no_more(file);
    check_holds(path, "1\n2\n");
    CHECK(!record(file, "3\n", 5.003));
    authz_audit_file_attend(file);
    CHECK(record(file, "4\n", 5.004));
    authz_audit_file_free(file);
    check_holds(path, "1\n2\n3\n4\n");
    CHECK(access(in_folder(".spooled.spool"), F_OK) != 0);
    CHECK(unlink(path) == 0 && unlink(in_folder("before")) == 0);
}

/* More than there is room for, and one that is larger than all of it. */
static void
check_full_spool(void)
{
    const char *path = in_folder("spooled");
    static char line[AUTHZ_SPOOL_TEXT_BYTES + 2];
    memset(line, 'x', sizeof line - 2);
    line[sizeof line - 2] = '\n';
    authz_audit_file *file = open_spooled(path);
    use_up(file, path, 1.0);
    CHECK(!record(file, line, 1.001));
    CHECK(truncate(path, 0) == 0);
    const char *half = line + sizeof line / 2; /* a little less than half of the room */
    CHECK(record(file, half, 1.002) && !record(file, line, 1.003));
    struct stat status;
    CHECK(stat(path, &status) == 0);
    CHECK((size_t)status.st_size == strlen(half) + strlen(line));
    CHECK(record(file, half, 1.004));
    authz_audit_file_free(file);
    CHECK(unlink(path) == 0);
}

/* While the disk is full nobody gets an answer, and what is on record is lost nowhere. */
static void
check_full_disk(void)
{
    const char *path = in_folder("spooled");
    authz_audit_file *file = open_spooled(path);
    struct rlimit before, small;
    CHECK(getrlimit(RLIMIT_FSIZE, &before) == 0);
    small = before;
    use_up(file, path, 1.0);
    CHECK(record(file, "{\"a\":1}\n", 1.001) && record(file, "{\"b\":2}\n", 1.001));
    small.rlim_cur = 10; /* to the middle of the second */
    CHECK(setrlimit(RLIMIT_FSIZE, &small) == 0);
    CHECK(authz_audit_file_flush(file, 1.002) == EFBIG);
    const authz_span denied = AUTHZ_SPAN("{\"no\":0}\n");
    CHECK(!authz_audit_file_spool(file, denied, 1.002));
    CHECK(authz_audit_file_write(file, denied, 1.002) == EFBIG);
    CHECK(fabs(authz_audit_file_due_s(file) - 1.018) < 1e-9);
    CHECK(setrlimit(RLIMIT_FSIZE, &before) == 0);
    CHECK(authz_audit_file_flush(file, 1.002) == 0);
    CHECK(record(file, "{\"c\":3}\n", 1.003));

    /* Torn in what is not spooled: the spool was written, and is empty. */
    small.rlim_cur = 33;
    CHECK(setrlimit(RLIMIT_FSIZE, &small) == 0);
    CHECK(authz_audit_file_write(file, denied, 1.020) == EFBIG);
    CHECK(authz_audit_file_due_s(file) == 0);
    CHECK(setrlimit(RLIMIT_FSIZE, &before) == 0);
    CHECK(!record(file, "{\"d\":4}\n", 1.021));
    check_holds(path, "{\"a\":1}\n{\"\n{\"b\":2}\n{\"c\":3}\n{\"no\":\n{\"d\":4}\n");

    /* What cannot be written at the end is there for the next start. */
    use_up(file, path, 2.0);
    CHECK(record(file, "{\"e\":5}\n", 2.001));
    small.rlim_cur = 1;
    CHECK(setrlimit(RLIMIT_FSIZE, &small) == 0);
    authz_audit_file_free(file);
    CHECK(setrlimit(RLIMIT_FSIZE, &before) == 0);
    static authz_spool_file left;
    const int spool = open(in_folder(".spooled.spool"), O_RDONLY | O_CLOEXEC);
    CHECK(read(spool, &left, sizeof left) == (ssize_t)sizeof left);
    close(spool);
    CHECK(atomic_load(&left.place) == 8);
    CHECK(memcmp(left.text, "{\"e\":5}\n", 8) == 0);

    /* Nobody else takes it for free room. */
    const authz_allocator allocator = authz_system_allocator();
    file = authz_audit_file_open(path, &allocator);
    use_up_without_spool(file);
    authz_audit_file_free(file);
    CHECK(unlink(path) == 0 && unlink(in_folder(".spooled.spool")) == 0);
}

/* Another one has the spool: each event is written, and the other's is left alone. */
static void
check_two(void)
{
    const authz_allocator allocator = authz_system_allocator();
    const char *path = in_folder("spooled");
    authz_audit_file *first = open_spooled(path);
    authz_audit_file *second = authz_audit_file_open(path, &allocator);
    use_up(first, path, 1.0);
    CHECK(record(first, "1\n", 1.001));
    use_up_without_spool(second);
    authz_audit_file_free(second);
    CHECK(access(in_folder(".spooled.spool"), F_OK) == 0);
    authz_audit_file_free(first);
    CHECK(unlink(path) == 0);

    /* Nor without memory for its name, of which the file has no need. */
    counting counts = {.every = 2};
    const authz_allocator scarce = counting_allocator(&counts);
    authz_audit_file *file = authz_audit_file_open(path, &scarce);
    use_up_without_spool(file);
    authz_audit_file_free(file);
    CHECK(access(in_folder(".spooled.spool"), F_OK) != 0);
    CHECK(unlink(path) == 0);
}

/* Whatever others could write, by its mode, another name or its owner, is not mapped. */
static void
check_others(void)
{
    const authz_allocator allocator = authz_system_allocator();
    enum { MODE, NAME, OWNER, KINDS };
    for (int kind = MODE; kind < (geteuid() == 0 ? KINDS : OWNER); kind++) {
        const char *spool = in_folder(".spooled.spool");
        const int made = open(spool, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        CHECK(made >= 0 && close(made) == 0);
        CHECK(kind != MODE || chmod(spool, 0602) == 0);
        CHECK(kind != NAME || link(spool, in_folder("name")) == 0);
        CHECK(kind != OWNER || chown(spool, 65534, 65534) == 0);
        authz_audit_file *file = authz_audit_file_open(in_folder("spooled"), &allocator);
        use_up_without_spool(file);
        authz_audit_file_free(file);
        struct stat status;
        CHECK(stat(spool, &status) == 0 && status.st_size == 0);
        CHECK(unlink(spool) == 0 && unlink(in_folder("spooled")) == 0);
        CHECK(kind != NAME || unlink(in_folder("name")) == 0);
    }
}

int
main(void)
{
    check_times();
    check_texts();
    check_cuts("y", "y");
    check_cuts("\n", "\\n");
    check_cuts("\xf0\x9f\x98\x80", "\\ud83d\\ude00");
    check_no_memory();
    CHECK(mkdtemp(folder) != NULL);
    check_lines();
    check_torn();
    check_failures();
    check_groups();
    check_full_spool();
    check_full_disk();
    check_two();
    check_others();
    CHECK(rmdir(folder) == 0);
    return 0;
}
