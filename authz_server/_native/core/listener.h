/* A gRPC server for the Authorization service that answers from memory without the host.
 *
 *     sockets ─► loops, one thread each ─► memory
 *                                      ─► misses ─► workers of the host
 *                                      ─► calls of the host's own: health, streams
 *
 * C11, POSIX threads, epoll and libnghttp2; no Python, no globals, the allocator
 * from outside. Plain HTTP/2: for sockets that only our proxies can reach. */

#ifndef AUTHZ_CORE_LISTENER_H
#define AUTHZ_CORE_LISTENER_H

#include "loop.h"

#define AUTHZ_MAX_LOOPS 64

/* What a listener is made of. What is pointed to is copied, or outlives it. */
typedef struct authz_listener_source {
    const authz_allocator *allocator;
    int listening;          /* non-blocking; the listener owns it from the start on */
    uint8_t loops;          /* threads, from 1 to AUTHZ_MAX_LOOPS */
    uint32_t max_connections;
    uint32_t max_streams;   /* of a connection */
    size_t max_message_bytes;
    size_t max_open;        /* decisions at the host at the same time */
    double patience_s;
    authz_peers peers;      /* outlive */
    authz_paths paths;      /* outlive */
    const authz_plan *plan;
    authz_cache *cache;
    authz_audit_file *audit;
    unsigned char seed[AUTHZ_SEED_BYTES];
    authz_span denial;      /* outlives */
    const double *bounds_s; /* of the latencies that are counted */
    size_t bound_count;
} authz_listener_source;

typedef struct authz_listener authz_listener;

/* Makes a listener that does not listen yet; NULL: no memory or no descriptors. */
authz_listener *authz_listener_new(const authz_listener_source *source);

/* Starts its threads; false: they cannot be. */
bool authz_listener_start(authz_listener *listener);

/* Accepts no more, and tells peers to go elsewhere; what is open goes on. */
void authz_listener_drain(authz_listener *listener);

/* How many connections are open. */
size_t authz_listener_open(const authz_listener *listener);

/* Cuts every connection, ends the threads, and lets workers go once they have answered
 * what is left. */
void authz_listener_stop(authz_listener *listener);

/* Frees it. It is stopped, and no worker is inside. */
void authz_listener_free(authz_listener *listener);

/* What remembered decisions hold under; see standing.h. */
authz_standing *authz_listener_standing(authz_listener *listener);
authz_misses *authz_listener_misses(authz_listener *listener);
authz_happenings *authz_listener_happenings(authz_listener *listener);
void authz_listener_count(authz_listener *listener, authz_counts *counts);
authz_refused_peers authz_listener_refused(authz_listener *listener);

/* Tells the loop of a host's call what the host says; takes the word over. */
void authz_listener_say(authz_listener *listener, authz_word *word);

/* What the listener was given to get memory from. */
const authz_allocator *authz_listener_allocator(const authz_listener *listener);

#endif
