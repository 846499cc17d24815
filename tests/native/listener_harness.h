/* A whole listener, its workers and its host in C, and a client that sends bytes.
 *
 * The workers decide: they allow what they can extract, remember it, and say no to the
 * rest. The host gives every message back, and ends a call when its peer has. */

#ifndef AUTHZ_TESTS_LISTENER_HARNESS_H
#define AUTHZ_TESTS_LISTENER_HARNESS_H

#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "extract_harness.h"
#include "listener.h"

#define CHECK_PATH "/envoy.service.auth.v3.Authorization/Check"
#define HOST_PATH "/host.Service/Call"
#define RECORD "{\"decision\":\"allow\""
#define ALLOWANCE "\x0a\x00"
#define DENIAL "\x0a\x02\x08\x07"

/* ---- memory ----------------------------------------------------------------------- */

typedef struct supply {
    atomic_size_t calls, live;
    size_t fails_at; /* the call of that number, from 1 on; 0: none does */
} supply;

static inline void *
supply_allocate(void *context, size_t size)
{
    supply *all = context;
    if (atomic_fetch_add(&all->calls, 1) + 1 == all->fails_at) {
        return NULL;
    }
    void *memory = malloc(size > 0 ? size : 1);
    CHECK(memory != NULL);
    memset(memory, 0xA5, size);
    atomic_fetch_add(&all->live, 1);
    return memory;
}

static inline void
supply_release(void *context, void *memory)
{
    supply *all = context;
    if (memory != NULL) {
        atomic_fetch_sub(&all->live, 1);
        free(memory);
    }
}

/* ---- the listener ------------------------------------------------------------------- */

typedef struct site {
    supply supply;
    authz_allocator allocator;
    authz_cache *cache;
    authz_audit_file *audit;
    authz_listener *listener;
    struct sockaddr_un address;
    socklen_t address_length;
    pthread_t workers[3], host;
    int ended; /* a descriptor pair: the host ends when it is closed */
    atomic_bool is_over;
    atomic_size_t decided, decided_of[256]; /* all; by the last byte of the question */
} site;

static inline authz_span
revision_of(int number)
{
    static const char revisions[] = "0123456789";
    return (authz_span){(const uint8_t *)revisions + number % 10, 1};
}

static inline void
site_hold(site *all, int number)
{
    authz_standing_set(authz_listener_standing(all->listener), revision_of(number),
                       authz_now_steady_s() + 60);
}

/* What a worker does with one miss. */
static inline void
site_decide(site *all, authz_miss *miss, authz_wanted wanted,
            authz_extraction *extraction, authz_span revision)
{
    const authz_span raw = {miss->raw.data, miss->raw.length};
    authz_span answer = AUTHZ_SPAN(DENIAL);
    if (wanted == AUTHZ_WANT_DECISION && raw.length > 0 &&
        authz_extract(harness_plan(0), raw, extraction) == AUTHZ_EXTRACT_OK) {
        answer = AUTHZ_SPAN(ALLOWANCE);
        const authz_decision decision = {
            .response = answer,
            .record = AUTHZ_SPAN(RECORD),
            .expires_s = miss->arrived.steady_s + 60,
            .valid_from_s = 0,
            .valid_until_s = 1e12,
        };
        (void)authz_cache_put(all->cache, extraction->key, revision, &decision);
    }
    (void)authz_buffer_bytes(&miss->answer, answer);
    atomic_fetch_add(&all->decided, 1);
    if (raw.length > 0) {
        atomic_fetch_add(&all->decided_of[raw.data[raw.length - 1]], 1);
    }
}

static inline void
site_work(site *all, authz_duty duty)
{
    authz_allocator own = authz_system_allocator();
    authz_extraction extraction;
    authz_extraction_init(&extraction, &own, SIZE_MAX);
    authz_misses *misses = authz_listener_misses(all->listener);
    authz_wanted wanted;
    authz_miss *miss;
    while ((miss = authz_misses_take(misses, duty, &wanted)) != NULL ||
           authz_misses_await(misses, duty)) {
        if (miss == NULL) {
            continue;
        }
        authz_revision_copy revision;
        const bool stands =
            authz_standing_get(authz_listener_standing(all->listener),
                               authz_now_steady_s(), &revision);
        site_decide(all, miss, wanted, &extraction,
                    stands ? (authz_span){revision.bytes, revision.length}
                           : (authz_span){NULL, 0});
        authz_misses_answer(misses, miss, wanted);
    }
    authz_extraction_release(&extraction);
}

static inline void *
run_decider(void *context)
{
    site_work(context, AUTHZ_DECIDES);
    return NULL;
}

static inline void *
run_refuser(void *context)
{
    site_work(context, AUTHZ_REFUSES);
    return NULL;
}

/* Says a word; without memory for it the call is left to its peer's patience. */
static inline void
site_say(site *all, uint64_t call, authz_word_kind kind, authz_span text, size_t taken)
{
    authz_word *word =
        authz_word_new(authz_listener_allocator(all->listener), call, kind, text);
    if (word != NULL) {
        word->taken = taken;
        authz_listener_say(all->listener, word);
    }
}

static inline void
site_hear(site *all)
{
    authz_happenings *happenings = authz_listener_happenings(all->listener);
    authz_happening *one;
    while ((one = authz_happenings_take(happenings)) != NULL) {
        const authz_span text = {one->message.data, one->message.length};
        if (one->kind == AUTHZ_CALL_MESSAGE) {
            site_say(all, one->call, AUTHZ_SAY_TAKEN, (authz_span){NULL, 0}, text.length);
            site_say(all, one->call, AUTHZ_SAY_MESSAGE, text, 0);
        } else if (one->kind == AUTHZ_CALL_ENDED) {
            site_say(all, one->call, AUTHZ_SAY_END, AUTHZ_SPAN("100% \n"), 0);
        }
        authz_happening_free(happenings, one);
    }
}

static inline void *
run_host(void *context)
{
    site *all = context;
    struct pollfd wake = {authz_listener_happenings(all->listener)->wake, POLLIN, 0};
    while (!atomic_load(&all->is_over)) {
        (void)poll(&wake, 1, 20);
        site_hear(all);
    }
    return NULL;
}

static inline int
listen_somewhere(site *all)
{
    const int listening = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    CHECK(listening >= 0);
    const struct sockaddr_un anywhere = {.sun_family = AF_UNIX};
    CHECK(bind(listening, (const struct sockaddr *)&anywhere, sizeof(sa_family_t)) == 0);
    all->address_length = sizeof all->address;
    CHECK(getsockname(listening, (struct sockaddr *)&all->address,
                      &all->address_length) == 0);
    CHECK(listen(listening, 128) == 0);
    return listening;
}

/* Opens it, without threads; false: no memory, and nothing is left. */
static inline bool
site_open(site *all, const char *audit, double patience_s, size_t max_open)
{
    static const authz_span host[] = {TEXT(HOST_PATH)};
    static const double bounds_s[] = {0.001, 0.01};
    all->allocator = (authz_allocator){&all->supply, supply_allocate, supply_release};
    const authz_allocator system = authz_system_allocator();
    static const unsigned char seed[AUTHZ_SEED_BYTES] = {1};
    all->cache = authz_cache_create(1000, 1u << 20, seed, &system);
    all->audit = authz_audit_file_open(audit, &system);
    CHECK(all->cache != NULL && all->audit != NULL);
    const int listening = listen_somewhere(all);
    authz_listener_source source = {
        .allocator = &all->allocator,
        .listening = listening,
        .loops = 2,
        .max_connections = 64,
        .max_streams = 100,
        .max_message_bytes = 100000,
        .max_open = max_open,
        .patience_s = patience_s,
        .paths = {AUTHZ_SPAN(CHECK_PATH), host, 1},
        .plan = harness_plan(0),
        .cache = all->cache,
        .audit = all->audit,
        .denial = AUTHZ_SPAN(DENIAL),
        .bounds_s = bounds_s,
        .bound_count = COUNT(bounds_s),
    };
    all->listener = authz_listener_new(&source);
    if (all->listener == NULL) {
        close(listening);
        authz_cache_destroy(all->cache);
        authz_audit_file_free(all->audit);
        CHECK(atomic_load(&all->supply.live) == 0);
        return false;
    }
    site_hold(all, 0);
    return true;
}

static inline void
site_start(site *all)
{
    CHECK(pthread_create(&all->workers[0], NULL, run_decider, all) == 0);
    CHECK(pthread_create(&all->workers[1], NULL, run_decider, all) == 0);
    CHECK(pthread_create(&all->workers[2], NULL, run_refuser, all) == 0);
    CHECK(pthread_create(&all->host, NULL, run_host, all) == 0);
    CHECK(authz_listener_start(all->listener));
}

static inline void
site_close(site *all)
{
    authz_listener_stop(all->listener);
    atomic_store(&all->is_over, true);
    for (size_t i = 0; i < COUNT(all->workers); i++) {
        CHECK(pthread_join(all->workers[i], NULL) == 0);
    }
    CHECK(pthread_join(all->host, NULL) == 0);
    authz_listener_free(all->listener);
    authz_cache_destroy(all->cache);
    authz_audit_file_free(all->audit);
    CHECK(atomic_load(&all->supply.live) == 0);
}

/* ---- a client ----------------------------------------------------------------------- */

typedef struct client {
    int socket;
    uint32_t stream; /* the next one */
    uint8_t input[1 << 16];
    size_t length;
} client;

/* What came of a call. */
typedef struct reply {
    bool is_cut, is_late, is_reset, has_data, is_denial;
} reply;

#define PREFACE "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

static inline bool
client_send(client *one, const uint8_t *data, size_t length)
{
    while (length > 0) {
        const ssize_t sent = send(one->socket, data, length, MSG_NOSIGNAL);
        if (sent <= 0) {
            return false;
        }
        data += sent;
        length -= (size_t)sent;
    }
    return true;
}

static inline size_t
put_frame(uint8_t *at, uint8_t kind, uint8_t flags, uint32_t stream, size_t length)
{
    const uint8_t head[] = {(uint8_t)(length >> 16), (uint8_t)(length >> 8),
                            (uint8_t)length,         kind,
                            flags,                   (uint8_t)(stream >> 24),
                            (uint8_t)(stream >> 16), (uint8_t)(stream >> 8),
                            (uint8_t)stream};
    memcpy(at, head, sizeof head);
    return sizeof head;
}

static inline void
client_open(client *one, const site *all)
{
    one->stream = 1;
    one->length = 0;
    one->socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(one->socket >= 0);
    CHECK(connect(one->socket, (const struct sockaddr *)&all->address,
                  all->address_length) == 0);
    uint8_t begin[sizeof PREFACE + 9];
    memcpy(begin, PREFACE, sizeof PREFACE - 1);
    const size_t length =
        sizeof PREFACE - 1 + put_frame(begin + sizeof PREFACE - 1, 4, 0, 0, 0);
    (void)client_send(one, begin, length);
}

static inline size_t
put_header(uint8_t *at, const char *name, const char *value)
{
    const size_t n = strlen(name), v = strlen(value);
    CHECK(n < 127 && v < 127);
    at[0] = 0;
    at[1] = (uint8_t)n;
    memcpy(at + 2, name, n);
    at[2 + n] = (uint8_t)v;
    memcpy(at + 3 + n, value, v);
    return 3 + n + v;
}

/* Writes a whole call of up to 16,000 bytes; returns how long it is. */
static inline size_t
put_call(uint8_t *at, uint32_t stream, const char *path, authz_span message)
{
    uint8_t block[512];
    size_t length = put_header(block, ":method", "POST");
    length += put_header(block + length, ":scheme", "http");
    length += put_header(block + length, ":path", path);
    length += put_header(block + length, ":authority", "authz");
    length += put_header(block + length, "content-type", "application/grpc");
    size_t used = put_frame(at, 1, 4, stream, length);
    memcpy(at + used, block, length);
    used += length;
    used += put_frame(at + used, 0, 1, stream, 5 + message.length);
    const uint8_t prefix[] = {0, 0, 0, (uint8_t)(message.length >> 8),
                              (uint8_t)message.length};
    memcpy(at + used, prefix, sizeof prefix);
    used += sizeof prefix;
    if (message.length > 0) {
        memcpy(at + used, message.data, message.length);
    }
    return used + message.length;
}

/* Reads until the stream is over. */
static inline reply
client_wait(client *one, uint32_t stream, int timeout_ms)
{
    reply result = {0};
    for (;;) {
        size_t at = 0;
        while (one->length - at >= 9) {
            const uint8_t *head = one->input + at;
            const size_t length = (size_t)head[0] << 16 | (size_t)head[1] << 8 | head[2];
            if (one->length - at < 9 + length) {
                break;
            }
            at += 9 + length;
            if (((uint32_t)head[5] << 24 | (uint32_t)head[6] << 16 |
                 (uint32_t)head[7] << 8 | head[8]) != stream) {
                continue;
            }
            if (head[3] == 0 && length > 5) {
                result.has_data = true;
                result.is_denial = length == 5 + sizeof DENIAL - 1 &&
                                   memcmp(head + 14, DENIAL, sizeof DENIAL - 1) == 0;
            }
            result.is_reset |= head[3] == 3;
            if (head[3] == 3 || (head[3] < 2 && (head[4] & 1) != 0)) {
                one->length -= at;
                memmove(one->input, one->input + at, one->length);
                return result;
            }
        }
        one->length -= at;
        memmove(one->input, one->input + at, one->length);
        struct pollfd wake = {one->socket, POLLIN, 0};
        if (poll(&wake, 1, timeout_ms) <= 0) {
            result.is_late = true;
            return result;
        }
        const ssize_t length = recv(one->socket, one->input + one->length,
                                    sizeof one->input - one->length, 0);
        if (length <= 0) {
            result.is_cut = true;
            return result;
        }
        one->length += (size_t)length;
    }
}

static inline reply
client_call(client *one, const char *path, authz_span message, int timeout_ms)
{
    static _Thread_local uint8_t call[20000];
    CHECK(message.length < 16000);
    const uint32_t stream = one->stream;
    one->stream += 2;
    if (!client_send(one, call, put_call(call, stream, path, message))) {
        return (reply){.is_cut = true};
    }
    return client_wait(one, stream, timeout_ms);
}

/* A CheckRequest that the plan reads: GET of a path of one letter. */
static inline authz_span
request_of(char path, uint8_t room[32])
{
    /* attributes.request.http: method, path */
    const uint8_t bytes[] = {0x0a, 13, 0x22, 11, 0x12, 9,   0x12, 3,   'G',
                             'E',  'T', 0x22, 2,  '/',  (uint8_t)path};
    memcpy(room, bytes, sizeof bytes);
    return (authz_span){room, sizeof bytes};
}

#endif
