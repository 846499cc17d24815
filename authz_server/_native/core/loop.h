/* One thread: it waits for sockets, letters and the time, and takes turns.
 *
 *     letters ─► calls ─┐
 *     sockets ─► calls ─┴► checks ─► settle: events on record ─► answers ─► sockets */

#ifndef AUTHZ_CORE_LOOP_H
#define AUTHZ_CORE_LOOP_H

#include <stdatomic.h>
#include <sys/types.h>

#include "alarm.h"
#include "calls.h"
#include "connection.h"
#include "http2_memory.h"

#define AUTHZ_INPUT_BYTES 65536

/* Who may connect to a unix socket, by the kernel's word. */
typedef struct authz_peers {
    bool are_listed; /* false: whoever can open the socket */
    const uid_t *uids;
    size_t uid_count;
    const gid_t *gids;
    size_t gid_count;
} authz_peers;

/* Peers that were refused so far, and the last of them. */
typedef struct authz_refused_peers {
    uint64_t count;
    pid_t pid;
    uid_t uid;
    gid_t gid;
} authz_refused_peers;

/* What all loops share, beside what the checks of all share. It outlives them. */
typedef struct authz_terms {
    authz_common common;
    authz_paths paths;
    authz_happenings happenings;
    authz_protocol *protocol;
    authz_peers peers;
    int listening; /* the socket that is accepted from; -1: no more */
    uint32_t max_connections; /* of all loops */
    uint32_t share;           /* of them that every loop may have, whatever others have */
    uint32_t max_streams;     /* of one connection */
    double patience_s; /* for a request to come whole, and for an answer to be taken */
    authz_span denial; /* CheckResponse where there is no memory for any other */
    atomic_bool is_draining, is_stopping;
    atomic_uint_least32_t connection_count; /* of all loops */
    pthread_mutex_t lock; /* guards the rest */
    authz_refused_peers refused;
} authz_terms;

typedef struct authz_loop {
    authz_terms *terms;
    int poll;
    authz_inbox inbox;
    authz_alarm alarm;
    authz_checks checks;
    authz_connection *connections;
    uint32_t connection_count;
    authz_connection *stirred;
    authz_calls calls;
    authz_http2_memory http2_memory;
    authz_instant now; /* when the turn began, or what is handled was read */
    bool is_draining;
    bool is_deaf; /* new connections wait, until the next look at least */
    atomic_size_t open; /* connections, as others see it */
    uint8_t input[AUTHZ_INPUT_BYTES];
} authz_loop;

/* NULL: no memory, or no descriptor. */
authz_loop *authz_loop_new(authz_terms *terms, uint8_t index);
void authz_loop_free(authz_loop *loop);

/* Takes turns until it is to stop. */
void authz_loop_run(authz_loop *loop);

/* Notes that the connection has something to send at the end of the turn. */
void authz_loop_stir(authz_loop *loop, authz_connection *connection);

/* Whether to wait for the socket to take more. */
void authz_loop_watch(authz_loop *loop, authz_connection *connection, bool for_output);

#endif
