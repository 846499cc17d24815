/* The whole listener: what it answers, and that it does so, or says no, whichever
 * allocation fails. */

#include "listener_harness.h"

#define WAIT_MS 20000

static void
answers(void)
{
    static site all;
    memset(&all, 0, sizeof all);
    CHECK(site_open(&all, "/dev/null", 5, 100));
    site_start(&all);
    static client one;
    client_open(&one, &all);
    uint8_t room[32];
    const authz_span request = request_of('a', room);
    for (int i = 0; i < 3; i++) {
        const reply result = client_call(&one, CHECK_PATH, request, WAIT_MS);
        CHECK(result.has_data && !result.is_denial && !result.is_reset);
    }
    CHECK(atomic_load(&all.decided) == 1);
    authz_counts counts;
    authz_listener_count(all.listener, &counts);
    CHECK(counts.reasons[0] == 2 && counts.buckets[0] + counts.buckets[1] <= 2);

    site_hold(&all, 1);
    CHECK(client_call(&one, CHECK_PATH, request, WAIT_MS).has_data);
    CHECK(atomic_load(&all.decided) == 2);
    authz_standing_close(authz_listener_standing(all.listener));
    CHECK(client_call(&one, CHECK_PATH, request, WAIT_MS).has_data);
    CHECK(atomic_load(&all.decided) == 3);

    CHECK(client_call(&one, CHECK_PATH, AUTHZ_SPAN("\xff\xff"), WAIT_MS).is_denial);
    CHECK(client_call(&one, CHECK_PATH, (authz_span){NULL, 0}, WAIT_MS).is_denial);
    const reply told = client_call(&one, HOST_PATH, AUTHZ_SPAN("hello"), WAIT_MS);
    CHECK(told.has_data && !told.is_reset);
    CHECK(!client_call(&one, "/other", request, WAIT_MS).has_data);
    authz_listener_drain(all.listener);
    while (authz_listener_open(all.listener) > 0) {
        usleep(1000);
    }
    close(one.socket);
    site_close(&all);
}

/* Without room for any decision there are only refusals, and none waits. */
static void
refuses(void)
{
    static site all;
    memset(&all, 0, sizeof all);
    CHECK(site_open(&all, "/dev/null", 5, 0));
    site_start(&all);
    static client one;
    client_open(&one, &all);
    uint8_t room[32];
    for (char path = 'a'; path < 'f'; path++) {
        CHECK(client_call(&one, CHECK_PATH, request_of(path, room), WAIT_MS).is_denial);
    }
    close(one.socket);
    site_close(&all);
}

/* What is remembered is not given without its record. */
static void
keeps_record(void)
{
    static site all;
    memset(&all, 0, sizeof all);
    CHECK(site_open(&all, "/dev/full", 5, 100));
    site_start(&all);
    static client one;
    client_open(&one, &all);
    uint8_t room[32];
    for (size_t i = 1; i < 5; i++) {
        CHECK(client_call(&one, CHECK_PATH, request_of('a', room), WAIT_MS).has_data);
        /* The workers of this test ask for no record: it is they who are asked. */
        CHECK(atomic_load(&all.decided) == i);
    }
    close(one.socket);
    site_close(&all);
}

/* Nor does the host get another's question then: of connections that are read in one turn,
 * each read lies where the one before did. */
static void
keeps_questions(void)
{
    enum { CLIENTS = 8, ROUNDS = 200 };
    static site all;
    static client clients[CLIENTS];
    memset(&all, 0, sizeof all);
    CHECK(site_open(&all, "/dev/full", 5, 100));
    site_start(&all);
    uint8_t rooms[2][32], call[1024];
    const authz_span requests[2] = {request_of('a', rooms[0]), request_of('b', rooms[1])};
    for (size_t i = 0; i < CLIENTS; i++) {
        client_open(&clients[i], &all);
        CHECK(client_call(&clients[i], CHECK_PATH, requests[i % 2], WAIT_MS).has_data);
    }
    for (int round = 0; round < ROUNDS; round++) {
        for (size_t i = 0; i < CLIENTS; i++) {
            const size_t length =
                put_call(call, clients[i].stream, CHECK_PATH, requests[i % 2]);
            CHECK(client_send(&clients[i], call, length));
        }
        for (size_t i = 0; i < CLIENTS; i++) {
            CHECK(client_wait(&clients[i], clients[i].stream, WAIT_MS).has_data);
            clients[i].stream += 2;
        }
    }
    const size_t expected = CLIENTS / 2 * (ROUNDS + 1);
    CHECK(atomic_load(&all.decided_of['a']) == expected);
    CHECK(atomic_load(&all.decided_of['b']) == expected);
    for (size_t i = 0; i < CLIENTS; i++) {
        close(clients[i].socket);
    }
    site_close(&all);
}

/* A message that is whole before its frame is, of which the rest is padding: it is still
 * there when that has been read over it. */
static void
takes_padding(void)
{
    enum { PADDING = 200, PADDED = 8, END_STREAM = 1, PAUSE_US = 20000 };
    static site all;
    memset(&all, 0, sizeof all);
    CHECK(site_open(&all, "/dev/null", 5, 100));
    site_start(&all);
    static client one;
    client_open(&one, &all);
    uint8_t room[32], call[1024];
    const authz_span request = request_of('a', room);
    const size_t message = 5 + request.length;
    const size_t length = put_call(call, one.stream, CHECK_PATH, request);
    const size_t before = length - 9 - message; /* the headers */
    uint8_t frame[9 + 1 + 64];
    size_t used = put_frame(frame, 0, END_STREAM | PADDED, one.stream, 1 + message + PADDING);
    frame[used++] = PADDING;
    memcpy(frame + used, call + before + 9, message);
    used += message;
    static const uint8_t padding[PADDING];
    CHECK(client_send(&one, call, before));
    usleep(PAUSE_US);
    CHECK(client_send(&one, frame, used));
    usleep(PAUSE_US);
    CHECK(client_send(&one, padding, sizeof padding));
    const reply result = client_wait(&one, one.stream, WAIT_MS);
    CHECK(result.has_data && !result.is_denial);
    CHECK(atomic_load(&all.decided_of['a']) == 1);
    close(one.socket);
    site_close(&all);
}

/* A client that goes away within each byte of a session leaves nothing behind. */
static void
survives_goers(void)
{
    static site all;
    memset(&all, 0, sizeof all);
    CHECK(site_open(&all, "/dev/null", 5, 100));
    site_start(&all);
    static uint8_t calls[1024];
    uint8_t room[32];
    size_t length = put_call(calls, 1, CHECK_PATH, request_of('a', room));
    length += put_call(calls + length, 3, HOST_PATH, AUTHZ_SPAN("x"));
    for (size_t end = 0; end <= length; end += 3) {
        static client one;
        client_open(&one, &all);
        (void)client_send(&one, calls, end);
        close(one.socket);
    }
    /* There is room again once the loops have seen who is gone. */
    bool is_answered = false;
    for (int i = 0; i < 1000 && !is_answered; i++) {
        static client last;
        client_open(&last, &all);
        is_answered =
            client_call(&last, CHECK_PATH, request_of('b', room), WAIT_MS).has_data;
        close(last.socket);
        usleep(is_answered ? 0 : 10000);
    }
    CHECK(is_answered);
    site_close(&all);
}

/* What the host says after the loops have ended is freed all the same. */
static void
frees_late_words(void)
{
    static site all;
    memset(&all, 0, sizeof all);
    CHECK(site_open(&all, "/dev/null", 5, 100));
    site_start(&all);
    authz_listener_stop(all.listener);
    site_say(&all, 1u << 24, AUTHZ_SAY_MESSAGE, AUTHZ_SPAN("late"), 0);
    site_say(&all, 1u << 24 | 1u << 16, AUTHZ_SAY_END, AUTHZ_SPAN("late"), 0);
    site_say(&all, 1u << 24 | 200u << 16, AUTHZ_SAY_END, AUTHZ_SPAN("nowhere"), 0);
    site_close(&all);
}

/* Runs a session of which one allocation fails; false: none did. */
static bool
run_short(size_t fails_at, size_t *late)
{
    static site all;
    memset(&all, 0, sizeof all);
    all.supply.fails_at = fails_at;
    if (!site_open(&all, "/dev/null", 5, 100)) {
        return true;
    }
    site_start(&all);
    uint8_t room[32];
    const struct {
        const char *path;
        authz_span message;
    } calls[] = {
        {CHECK_PATH, request_of('a', room)}, {CHECK_PATH, request_of('a', room)},
        {HOST_PATH, AUTHZ_SPAN("hello")},    {"/other", AUTHZ_SPAN("x")},
        {CHECK_PATH, AUTHZ_SPAN("\xff")},
    };
    static client one;
    client_open(&one, &all);
    for (size_t i = 0; i < COUNT(calls); i++) {
        const reply result =
            client_call(&one, calls[i].path, calls[i].message, 300);
        /* A word of this host's that was not said is not the listener's to make up. */
        if (result.is_late && calls[i].message.length != 5) {
            fprintf(stderr, "late: allocation %zu, call %zu\n", fails_at, i);
        }
        *late += result.is_late && calls[i].message.length != 5;
        if (result.is_cut || result.is_late) {
            close(one.socket);
            client_open(&one, &all);
        }
    }
    close(one.socket);
    /* One failure does not linger. */
    static client other;
    client_open(&other, &all);
    const bool has_failed = atomic_load(&all.supply.calls) >= fails_at;
    if (has_failed) {
        CHECK(client_call(&other, CHECK_PATH, calls[0].message, WAIT_MS).has_data ||
              atomic_load(&all.supply.calls) >= fails_at);
    }
    close(other.socket);
    site_close(&all);
    return has_failed;
}

int
main(void)
{
    answers();
    refuses();
    keeps_record();
    keeps_questions();
    takes_padding();
    survives_goers();
    frees_late_words();
    size_t late = 0;
    for (size_t fails_at = 1; run_short(fails_at, &late); fails_at++) {
    }
    CHECK(late == 0);
    return 0;
}
