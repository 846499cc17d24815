#include "loop.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVENTS 64
#define LOOK_S 1.0
#define DRAIN_LOOK_S 0.05

/* Of messages of the host that the peer has not taken. */
#define MAX_UNSENT_BYTES ((size_t)1 << 22)

/* A connection that has been idle for so long may be closed to make room for another. */
#define IDLE_S 1.0

/* ---- answers ------------------------------------------------------------------------ */

static void
give(void *context, authz_check *check, authz_span answer)
{
    authz_loop *loop = context;
    authz_call *call = (authz_call *)check;
    call->is_asked = false;
    if (call->connection == NULL) {
        authz_calls_give_back(&loop->calls, call);
        return;
    }
    if (!authz_call_say(call, answer.length > 0 ? answer : loop->terms->denial) ||
        !authz_call_complete(call, AUTHZ_GRPC_OK, (authz_span){NULL, 0})) {
        authz_connection_fail(call->connection, call);
        return;
    }
    authz_connection_answer(call->connection, call);
}

static void
hear(authz_loop *loop, authz_word *word)
{
    authz_call *call = authz_calls_find(&loop->calls, word->call);
    if (call == NULL || call->is_refused || call->is_complete) {
        return;
    }
    const authz_span text = {word->text.data, word->text.length};
    switch (word->kind) {
    case AUTHZ_SAY_MESSAGE:
        /* Who does not take what was said gets no more to take. */
        if (call->output.length - call->sent > MAX_UNSENT_BYTES ||
            !authz_call_say(call, text)) {
            authz_connection_fail(call->connection, call);
            return;
        }
        authz_connection_answer(call->connection, call);
        break;
    case AUTHZ_SAY_END:
        if (!authz_call_complete(call, word->status, text)) {
            authz_connection_fail(call->connection, call);
            return;
        }
        authz_connection_answer(call->connection, call);
        break;
    case AUTHZ_SAY_TAKEN:
        authz_connection_taken(call->connection, call, word->taken);
        break;
    }
}

static void
read_letters(authz_loop *loop)
{
    authz_letter *letter = authz_inbox_take(&loop->inbox);
    while (letter != NULL) {
        authz_letter *next = letter->next;
        if (letter->kind == AUTHZ_LETTER_DECISION) {
            authz_checks_decided(&loop->checks, (authz_miss *)letter);
        } else {
            hear(loop, (authz_word *)letter);
            authz_word_free(loop->terms->common.allocator, (authz_word *)letter);
        }
        letter = next;
    }
}

/* ---- connections -------------------------------------------------------------------- */

void
authz_loop_stir(authz_loop *loop, authz_connection *connection)
{
    if (!connection->is_stirred) {
        connection->is_stirred = true;
        connection->next_stirred = loop->stirred;
        loop->stirred = connection;
    }
}

void
authz_loop_watch(authz_loop *loop, authz_connection *connection, bool for_output)
{
    struct epoll_event event = {for_output ? EPOLLOUT : EPOLLIN, {.ptr = connection}};
    (void)epoll_ctl(loop->poll, EPOLL_CTL_MOD, connection->socket, &event);
}

static bool
is_listed(const authz_peers *peers, const struct ucred *peer)
{
    for (size_t i = 0; i < peers->uid_count; i++) {
        if (peers->uids[i] == peer->uid) {
            return true;
        }
    }
    for (size_t i = 0; i < peers->gid_count; i++) {
        if (peers->gids[i] == peer->gid) {
            return true;
        }
    }
    return false;
}

/* What the kernel vouches for: unix(7). */
static bool
admits(authz_terms *terms, int socket)
{
    if (!terms->peers.are_listed) {
        return true;
    }
    struct ucred peer;
    socklen_t length = sizeof peer;
    if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) {
        return false;
    }
    if (is_listed(&terms->peers, &peer)) {
        return true;
    }
    pthread_mutex_lock(&terms->lock);
    terms->refused.count++;
    terms->refused.pid = peer.pid;
    terms->refused.uid = peer.uid;
    terms->refused.gid = peer.gid;
    pthread_mutex_unlock(&terms->lock);
    return false;
}

/* Whether there is room for one connection more; the one that has been idle for longest
 * is closed for it. Which loop a connection comes to is chance, so they share the room;
 * but none is without any because others have idle ones. */
static bool
make_room(authz_loop *loop)
{
    if (atomic_load(&loop->terms->connection_count) < loop->terms->max_connections ||
        loop->connection_count < loop->terms->share) {
        return true;
    }
    authz_connection *idlest = NULL;
    for (authz_connection *at = loop->connections; at != NULL; at = at->next) {
        if (at->call_count == 0 && !at->is_over &&
            (idlest == NULL || at->idle_s < idlest->idle_s)) {
            idlest = at;
        }
    }
    if (idlest == NULL || loop->now.steady_s - idlest->idle_s < IDLE_S) {
        return false;
    }
    idlest->is_going = true; /* it is told its last call at once */
    authz_connection_go_away(idlest);
    authz_connection_write(idlest);
    idlest->is_over = true;
    authz_loop_stir(loop, idlest);
    return true;
}

/* Whether new connections wake this loop. Of several loops one is woken. */
static bool
listen_to(authz_loop *loop, bool is_listening)
{
    struct epoll_event event = {EPOLLIN | EPOLLEXCLUSIVE, {.ptr = loop->terms}};
    loop->is_deaf = !is_listening;
    return epoll_ctl(loop->poll, is_listening ? EPOLL_CTL_ADD : EPOLL_CTL_DEL,
                     loop->terms->listening, &event) == 0;
}

static void
accept_all(authz_loop *loop)
{
    for (int i = 0; i < EVENTS; i++) {
        const int socket = accept4(loop->terms->listening, NULL, NULL,
                                   SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (socket < 0) {
            /* Out of descriptors or memory: who waits would wake us on and on. */
            if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS ||
                errno == ENOMEM) {
                (void)listen_to(loop, false);
            }
            return;
        }
        if (!admits(loop->terms, socket) || !make_room(loop)) {
            close(socket);
            continue;
        }
        /* Fails on a unix socket, which does not wait anyway. */
        (void)setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        authz_connection *connection = authz_connection_open(loop, socket);
        if (connection == NULL) {
            continue;
        }
        struct epoll_event event = {EPOLLIN, {.ptr = connection}};
        if (epoll_ctl(loop->poll, EPOLL_CTL_ADD, socket, &event) != 0) {
            connection->is_over = true;
            authz_loop_stir(loop, connection);
        }
    }
}

/* ---- turns -------------------------------------------------------------------------- */

static void
handle(authz_loop *loop, const struct epoll_event *event)
{
    if (event->data.ptr == &loop->inbox) {
        read_letters(loop);
        return;
    }
    if (event->data.ptr == &loop->alarm) {
        authz_alarm_hear(&loop->alarm);
        return;
    }
    if (event->data.ptr == loop->terms) {
        accept_all(loop);
        return;
    }
    authz_connection *connection = event->data.ptr;
    if (connection->is_over) {
        return;
    }
    if (connection->is_blocked) {
        authz_loop_stir(loop, connection);
    } else {
        authz_connection_read(connection);
        /* What it brought lies in the input, which the next one writes over. */
        authz_checks_settle(&loop->checks);
    }
}

/* Sends what the turn has brought, and closes what is over. */
static void
finish_turn(authz_loop *loop)
{
    while (loop->stirred != NULL) {
        authz_connection *connection = loop->stirred;
        loop->stirred = connection->next_stirred;
        if (!connection->is_over) {
            authz_connection_write(connection);
        }
        connection->is_stirred = false;
        if (connection->is_over) {
            authz_connection_close(connection);
        }
    }
}

static void
look(authz_loop *loop)
{
    for (authz_connection *at = loop->connections; at != NULL; at = at->next) {
        authz_connection_look(at, loop->now.steady_s, loop->terms->patience_s);
    }
    if (loop->is_deaf && !loop->is_draining) {
        (void)listen_to(loop, true);
    }
}

/* Once; a moment later connections are told what their last call is (RFC 9113 6.8). */
static void
drain(authz_loop *loop)
{
    if (!loop->is_draining && !loop->is_deaf) {
        (void)listen_to(loop, false);
    }
    loop->is_draining = true;
    for (authz_connection *at = loop->connections; at != NULL; at = at->next) {
        if (!at->is_leaving) {
            at->is_leaving = at->is_going;
            authz_connection_go_away(at);
        }
    }
}

/* Waits for what comes, but not beyond `look_s`, nor when events are to be written. */
static int
wait_for(authz_loop *loop, struct epoll_event events[EVENTS], double look_s)
{
    const double due_s = authz_audit_file_due_s(loop->terms->common.audit);
    authz_alarm_set(&loop->alarm, due_s != 0 && due_s < look_s ? due_s : look_s);
    return epoll_wait(loop->poll, events, EVENTS, -1);
}

/* Who sees first that events are due to be written does it, whoever they are of. */
static void
flush(const authz_loop *loop)
{
    authz_audit_file *audit = loop->terms->common.audit;
    const double due_s = authz_audit_file_due_s(audit);
    if (due_s != 0 && due_s <= loop->now.steady_s) {
        (void)authz_audit_file_flush(audit, loop->now.steady_s);
    }
}

void
authz_loop_run(authz_loop *loop)
{
    struct epoll_event events[EVENTS];
    double looked_s = 0;
    authz_audit_file_attend(loop->terms->common.audit);
    while (!atomic_load(&loop->terms->is_stopping)) {
        const double pause_s = loop->is_draining ? DRAIN_LOOK_S : LOOK_S;
        const int count = wait_for(loop, events, looked_s + pause_s);
        loop->now = authz_now();
        for (int i = 0; i < count; i++) {
            handle(loop, &events[i]);
        }
        authz_checks_settle(&loop->checks);
        flush(loop);
        const bool is_to_drain =
            atomic_load(&loop->terms->is_draining) && !loop->is_draining;
        if (is_to_drain || loop->now.steady_s - looked_s >= pause_s) {
            looked_s = loop->now.steady_s;
            look(loop);
            if (is_to_drain || loop->is_draining) {
                drain(loop);
            }
        }
        finish_turn(loop);
        atomic_store(&loop->open, loop->connection_count);
    }
    authz_audit_file_attend_no_more(loop->terms->common.audit);
}

/* ---- a loop's life ------------------------------------------------------------------ */

static bool
open_descriptors(authz_loop *loop)
{
    loop->poll = epoll_create1(EPOLL_CLOEXEC);
    if (loop->poll < 0) {
        return false;
    }
    if (authz_inbox_open(&loop->inbox)) {
        if (authz_alarm_open(&loop->alarm)) {
            return true;
        }
        authz_inbox_close(&loop->inbox);
    }
    close(loop->poll);
    return false;
}

/* Has the loop woken by a descriptor, which is `what` to it; false: that cannot be. */
static bool
wakes(const authz_loop *loop, int descriptor, void *what)
{
    struct epoll_event event = {EPOLLIN, {.ptr = what}};
    return epoll_ctl(loop->poll, EPOLL_CTL_ADD, descriptor, &event) == 0;
}

authz_loop *
authz_loop_new(authz_terms *terms, uint8_t index)
{
    const authz_allocator *allocator = terms->common.allocator;
    authz_loop *loop = allocator->allocate(allocator->context, sizeof *loop);
    if (loop == NULL) {
        return NULL;
    }
    memset(loop, 0, sizeof *loop);
    loop->terms = terms;
    authz_calls_init(&loop->calls, allocator, terms->common.max_message_bytes, index);
    authz_http2_memory_init(&loop->http2_memory, allocator);
    loop->now = authz_now();
    if (!open_descriptors(loop)) {
        allocator->release(allocator->context, loop);
        return NULL;
    }
    authz_checks_init(&loop->checks, &terms->common, &loop->inbox, give, loop);
    if (!wakes(loop, loop->inbox.wake, &loop->inbox) ||
        !wakes(loop, loop->alarm.descriptor, &loop->alarm) || !listen_to(loop, true)) {
        authz_loop_free(loop);
        return NULL;
    }
    return loop;
}

void
authz_loop_free(authz_loop *loop)
{
    const authz_allocator *allocator = loop->terms->common.allocator;
    while (loop->connections != NULL) {
        authz_connection_close(loop->connections);
    }
    /* Words that came too late. Nobody waits for what is given back now either; what was
     * remembered or decided is on record, what still waited for the same is not. */
    read_letters(loop);
    authz_checks_settle(&loop->checks);
    while (loop->checks.open > 0) {
        read_letters(loop);
        authz_checks_settle(&loop->checks);
    }
    authz_checks_release(&loop->checks);
    authz_calls_release(&loop->calls);
    authz_http2_memory_release(&loop->http2_memory);
    authz_inbox_close(&loop->inbox);
    authz_alarm_close(&loop->alarm);
    close(loop->poll);
    allocator->release(allocator->context, loop);
}
