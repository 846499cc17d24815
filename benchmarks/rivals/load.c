/* A closed loop of HTTP/1.1 calls over mutual TLS, as cheap as it can be.
 *
 *   load --port N --ca FILE --caller CERT:KEY... --paths FILE --records FILE
 *        [--connections N] [--warm-ms N] [--timed-ms N] [--header LINE]
 *        [--body FILE] [--number-from N] [--zipf EXPONENT] [--seed N] [--cpu PID]...
 *
 * One thread keeps N keep-alive connections to localhost, connection i with the i-th
 * caller's certificate (round and round), each with one POST under way at any time, without
 * a body or with that of FILE. The path is a line of FILE: the first; or one by Zipf's law, the first line
 * the likeliest. `--number-from` gives each call a query of its own, `?n=N`, counting up.
 *
 * After a warm-up, which is not counted, the time begins: each call that ends within it
 * gives a record of two uint64 in the order of this machine, when it ended (monotonic
 * clock) and how long it took, in nanoseconds. At the end one line of JSON:
 *
 *   {"calls": N, "refused": N, "next": N, "wall_ns": N, "own_cpu_ns": N, "cpu_ns": [N...]}
 *
 * `refused` are answers other than 200, `next` the first number that was not used, and
 * `cpu_ns` what the processes of `--cpu`, in turn, used of all processors within the time,
 * by the kernel's own clocks of them (clock_getcpuclockid), which count nanoseconds. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    MAX_CALLERS = 1024,
    MAX_CPU = 8,
    MAX_HEADERS = 1024,
    MAX_ANSWER = 16 * 1024,
    MAX_HEAD = 8 * 1024,
    MAX_BODY = 64 * 1024, /* with the head far less than the kernel takes at once */
    EVENTS = 256,
};

typedef struct {
    SSL *tls;
    int fd;
    uint64_t asked_ns;
    size_t len; /* of the answer so far */
    char answer[MAX_ANSWER + 1];
} connection;

typedef struct {
    uint64_t ended_ns, took_ns;
} record;

static struct {
    int port;
    const char *ca, *paths_file, *records_file;
    const char *callers[MAX_CALLERS];
    size_t n_callers;
    size_t connections;
    uint64_t warm_ns, timed_ns;
    char headers[MAX_HEADERS];
    int is_numbered;
    uint64_t number;
    double zipf; /* 0: the first path alone */
    uint64_t random;
    clockid_t cpu[MAX_CPU];
    size_t n_cpu;
} ask = {.connections = 1, .warm_ns = 200000000u, .timed_ns = 1000000000u, .random = 1};

static char **paths;
static double *shares; /* of all calls, that of this path and those before it */
static size_t n_paths;

static record *records;
static size_t n_records, max_records;
static uint64_t refused;

static char request[MAX_HEAD + MAX_BODY], body[MAX_BODY];
static size_t body_len;

static _Noreturn void
fail(const char *what)
{
    fprintf(stderr, "load: %s", what);
    if (errno != 0)
        fprintf(stderr, ": %s", strerror(errno));
    fputc('\n', stderr);
    ERR_print_errors_fp(stderr);
    exit(1);
}

static uint64_t
clock_ns(clockid_t clock)
{
    struct timespec now;
    if (clock_gettime(clock, &now) != 0)
        fail("a process that was to be counted is gone");
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* xorshift64*, as a fraction of 1. */
static double
next_random(void)
{
    ask.random ^= ask.random >> 12;
    ask.random ^= ask.random << 25;
    ask.random ^= ask.random >> 27;
    return (double)((ask.random * 2685821657736338717u) >> 11) / 9007199254740992.0;
}

static void
read_paths(void)
{
    FILE *file = fopen(ask.paths_file, "r");
    char *line = NULL;
    size_t capacity = 0, max = 0;
    ssize_t length;
    double sum = 0;

    if (file == NULL)
        fail(ask.paths_file);
    while ((length = getline(&line, &capacity, file)) > 0) {
        line[strcspn(line, "\n")] = 0;
        if (n_paths == max) {
            max = max * 2 + 16;
            paths = realloc(paths, max * sizeof *paths);
            shares = realloc(shares, max * sizeof *shares);
            if (paths == NULL || shares == NULL)
                fail("memory");
        }
        sum += pow((double)(n_paths + 1), -ask.zipf);
        shares[n_paths] = sum;
        paths[n_paths] = strdup(line);
        if (paths[n_paths++] == NULL)
            fail("memory");
    }
    fclose(file);
    free(line);
    if (n_paths == 0)
        fail("no path");
    for (size_t i = 0; i < n_paths; i++)
        shares[i] /= sum;
}

static void
read_body(const char *path)
{
    FILE *file = fopen(path, "rb");

    if (file == NULL)
        fail(path);
    body_len = fread(body, 1, MAX_BODY, file);
    if (body_len == MAX_BODY)
        fail("the body is too long");
    fclose(file);
}

static const char *
next_path(void)
{
    size_t low = 0, high = n_paths - 1;
    double share;

    if (ask.zipf <= 0)
        return paths[0];
    share = next_random();
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (shares[middle] < share)
            low = middle + 1;
        else
            high = middle;
    }
    return paths[low];
}

static SSL_CTX *
new_caller(const char *files)
{
    char *certificate = strdup(files), *key = strchr(certificate, ':');
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());

    if (key == NULL)
        fail("--caller CERT:KEY");
    *key++ = 0;
    if (context == NULL || SSL_CTX_load_verify_locations(context, ask.ca, NULL) != 1 ||
        SSL_CTX_use_certificate_chain_file(context, certificate) != 1 ||
        SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM) != 1)
        fail(files);
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    free(certificate);
    return context;
}

static void
open_connection(connection *it, SSL_CTX *context)
{
    const struct sockaddr_in address = {.sin_family = AF_INET,
                                        .sin_port = htons((uint16_t)ask.port),
                                        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const int one = 1;

    it->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (it->fd < 0 ||
        connect(it->fd, (const struct sockaddr *)&address, sizeof address) != 0 ||
        setsockopt(it->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) != 0)
        fail("connect");
    it->tls = SSL_new(context);
    if (it->tls == NULL || SSL_set_fd(it->tls, it->fd) != 1 ||
        SSL_set1_host(it->tls, "localhost") != 1 || SSL_connect(it->tls) != 1)
        fail("TLS");
    SSL_set_mode(it->tls, SSL_MODE_RELEASE_BUFFERS);
    if (fcntl(it->fd, F_SETFL, fcntl(it->fd, F_GETFL) | O_NONBLOCK) != 0)
        fail("fcntl");
}

static void
send_request(connection *it)
{
    char number[32] = "";
    int length;

    if (ask.is_numbered)
        snprintf(number, sizeof number, "?n=%llu", (unsigned long long)ask.number++);
    length = snprintf(request, MAX_HEAD,
                      "POST %s%s HTTP/1.1\r\nhost: localhost\r\n"
                      "content-length: %zu\r\n%s\r\n",
                      next_path(), number, body_len, ask.headers);
    if (length < 0 || length >= MAX_HEAD)
        fail("a path or header is too long");
    memcpy(request + length, body, body_len);
    length += (int)body_len;
    it->len = 0;
    it->asked_ns = clock_ns(CLOCK_MONOTONIC);
    /* Nothing is under way on this connection, so the kernel takes it whole. */
    if (SSL_write(it->tls, request, length) != length)
        fail("write");
}

/* Whether the answer is there in full; answers come one at a time. */
static int
is_complete(const connection *it)
{
    const char *end = strstr(it->answer, "\r\n\r\n"), *length;

    if (end == NULL)
        return 0;
    length = strcasestr(it->answer, "\r\ncontent-length:");
    if (length == NULL || length > end)
        fail("an answer without a length");
    return it->len >= (size_t)(end + 4 - it->answer) + strtoul(length + 17, NULL, 10);
}

/* Reads what came. Returns whether the answer is complete. */
static int
receive(connection *it)
{
    for (;;) {
        const int n = SSL_read(it->tls, it->answer + it->len, (int)(MAX_ANSWER - it->len));
        if (n > 0) {
            it->len += (size_t)n;
            it->answer[it->len] = 0;
            if (is_complete(it))
                return 1;
            if (it->len == MAX_ANSWER)
                fail("an answer is too long");
            continue;
        }
        if (SSL_get_error(it->tls, n) == SSL_ERROR_WANT_READ)
            return 0;
        fail("a connection was closed");
    }
}

static void
remember(const connection *it, uint64_t now)
{
    if (n_records == max_records) {
        max_records = max_records * 2 + 65536;
        records = realloc(records, max_records * sizeof *records);
        if (records == NULL)
            fail("memory");
    }
    records[n_records++] = (record){now, now - it->asked_ns};
    refused += strncmp(it->answer, "HTTP/1.1 200", 12) != 0;
}

static void
read_cpu(uint64_t *cpu)
{
    for (size_t i = 0; i < ask.n_cpu; i++)
        cpu[i] = clock_ns(ask.cpu[i]);
    cpu[ask.n_cpu] = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
}

static void
run(int poll, uint64_t *wall_ns, uint64_t *cpu_ns)
{
    uint64_t cpu[MAX_CPU + 1] = {0};
    const uint64_t begin = clock_ns(CLOCK_MONOTONIC) + ask.warm_ns;
    uint64_t begun = 0, now;

    for (;;) {
        struct epoll_event events[EVENTS];
        const int count = epoll_wait(poll, events, EVENTS, 5000);
        if (count == 0)
            fail("no answer for 5 seconds");
        if (count < 0 && errno != EINTR)
            fail("epoll_wait");
        for (int i = 0; i < count; i++) {
            connection *it = events[i].data.ptr;
            if (!receive(it))
                continue;
            now = clock_ns(CLOCK_MONOTONIC);
            if (begun != 0)
                remember(it, now);
            send_request(it);
        }
        now = clock_ns(CLOCK_MONOTONIC);
        if (begun == 0 && now >= begin) {
            read_cpu(cpu);
            begun = clock_ns(CLOCK_MONOTONIC);
        } else if (begun != 0 && now >= begun + ask.timed_ns) {
            break;
        }
    }
    *wall_ns = clock_ns(CLOCK_MONOTONIC) - begun;
    read_cpu(cpu_ns);
    for (size_t i = 0; i <= ask.n_cpu; i++)
        cpu_ns[i] -= cpu[i];
}

static void
write_records(void)
{
    FILE *file = fopen(ask.records_file, "wb");

    if (file == NULL || fwrite(records, sizeof *records, n_records, file) != n_records ||
        fclose(file) != 0)
        fail(ask.records_file);
}

static void
read_arguments(int argc, char **argv)
{
    static const struct option options[] = {
        {"port", 1, NULL, 'p'},        {"ca", 1, NULL, 'a'},
        {"caller", 1, NULL, 'k'},      {"paths", 1, NULL, 'f'},
        {"records", 1, NULL, 'r'},     {"connections", 1, NULL, 'c'},
        {"warm-ms", 1, NULL, 'w'},     {"timed-ms", 1, NULL, 't'},
        {"header", 1, NULL, 'h'},      {"number-from", 1, NULL, 'n'},
        {"zipf", 1, NULL, 'z'},        {"seed", 1, NULL, 's'},
        {"cpu", 1, NULL, 'u'},         {"body", 1, NULL, 'b'},
        {NULL, 0, NULL, 0},
    };
    int option;
    size_t used;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case 'p': ask.port = atoi(optarg); break;
        case 'a': ask.ca = optarg; break;
        case 'k':
            if (ask.n_callers == MAX_CALLERS)
                fail("too many callers");
            ask.callers[ask.n_callers++] = optarg;
            break;
        case 'f': ask.paths_file = optarg; break;
        case 'r': ask.records_file = optarg; break;
        case 'c': ask.connections = strtoul(optarg, NULL, 10); break;
        case 'w': ask.warm_ns = strtoull(optarg, NULL, 10) * 1000000u; break;
        case 't': ask.timed_ns = strtoull(optarg, NULL, 10) * 1000000u; break;
        case 'h':
            used = strlen(ask.headers);
            if (used + strlen(optarg) + 3 > MAX_HEADERS)
                fail("too many headers");
            sprintf(ask.headers + used, "%s\r\n", optarg);
            break;
        case 'b': read_body(optarg); break;
        case 'n':
            ask.is_numbered = 1;
            ask.number = strtoull(optarg, NULL, 10);
            break;
        case 'z': ask.zipf = atof(optarg); break;
        case 's': ask.random = strtoull(optarg, NULL, 10) * 2 + 1; break;
        case 'u':
            if (ask.n_cpu == MAX_CPU ||
                clock_getcpuclockid(atoi(optarg), &ask.cpu[ask.n_cpu++]) != 0)
                fail("--cpu");
            break;
        default: exit(2);
        }
    }
    if (ask.port == 0 || ask.ca == NULL || ask.n_callers == 0 || ask.paths_file == NULL ||
        ask.records_file == NULL || ask.connections == 0) {
        fputs("load: an argument is missing\n", stderr);
        exit(2);
    }
}

int
main(int argc, char **argv)
{
    uint64_t wall_ns, cpu_ns[MAX_CPU + 1] = {0};
    SSL_CTX **callers;
    connection *all;
    int poll;

    read_arguments(argc, argv);
    read_paths();
    callers = calloc(ask.n_callers, sizeof *callers);
    all = calloc(ask.connections, sizeof *all);
    poll = epoll_create1(EPOLL_CLOEXEC);
    if (callers == NULL || all == NULL || poll < 0)
        fail("memory");
    for (size_t i = 0; i < ask.n_callers; i++)
        callers[i] = new_caller(ask.callers[i]);
    for (size_t i = 0; i < ask.connections; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &all[i]};
        open_connection(&all[i], callers[i % ask.n_callers]);
        if (epoll_ctl(poll, EPOLL_CTL_ADD, all[i].fd, &event) != 0)
            fail("epoll_ctl");
    }
    for (size_t i = 0; i < ask.connections; i++)
        send_request(&all[i]);
    run(poll, &wall_ns, cpu_ns);
    write_records();
    printf("{\"calls\": %zu, \"refused\": %llu, \"next\": %llu, \"wall_ns\": %llu, "
           "\"own_cpu_ns\": %llu, \"cpu_ns\": [",
           n_records, (unsigned long long)refused, (unsigned long long)ask.number,
           (unsigned long long)wall_ns, (unsigned long long)cpu_ns[ask.n_cpu]);
    for (size_t i = 0; i < ask.n_cpu; i++)
        printf("%s%llu", i == 0 ? "" : ", ", (unsigned long long)cpu_ns[i]);
    puts("]}");
    return 0;
}
