/* One proxy's HTTP/2 connection: a session of libnghttp2, its calls, and their limits. */

#ifndef AUTHZ_CORE_CONNECTION_H
#define AUTHZ_CORE_CONNECTION_H

#include "call.h"
#include "host.h"

/* What a peer may make us do before it is told to calm down. Each frame costs a point,
 * but for those that libnghttp2 skips (unknown ones, and of closed streams), and each
 * answered check gives some back, so that only those run out who send frames and ask
 * nothing: floods of PING, SETTINGS, RST_STREAM, PRIORITY, WINDOW_UPDATE, empty DATA or
 * CONTINUATION (CVE-2019-9511 to 9518, CVE-2023-44487, CVE-2024-28182, CVE-2025-8671).
 * A proxy under load that gives up a few hundred checks a second does not. */
#define AUTHZ_CALM_MOST 10000.0
#define AUTHZ_CALM_PER_SECOND 1000.0
#define AUTHZ_CALM_PER_ANSWER 16.0

/* Frames that one block of headers may come in: more than fit in 32 KiB, less than a
 * flood. */
#define AUTHZ_MAX_HEADER_FRAMES 16

/* Messages of one call that wait for the host. The window bounds their bytes, and small
 * messages are mostly what is kept around them. */
#define AUTHZ_MAX_UNTAKEN 256

/* Output that waits for the socket; more is made when that is gone. */
#define AUTHZ_OUTPUT_BYTES 65536

struct authz_loop;

typedef struct authz_connection {
    struct authz_loop *loop;
    struct authz_connection *previous, *next; /* of the loop */
    int socket;
    nghttp2_session *session;
    authz_call *calls; /* the newest first */
    authz_call *heading; /* whose headers are being read; NULL: of none, or trailers */
    size_t call_count;
    authz_buffer output;
    size_t sent;
    bool is_blocked; /* the socket takes no more; nothing is read meanwhile */
    bool is_stirred; /* there is something to send */
    bool is_over;    /* to be closed at the end of the turn */
    bool is_going;   /* told to take its next calls elsewhere */
    bool is_leaving; /* and told which was its last */
    bool is_wild;    /* it has used up its calm */
    double calm, calm_s;
    unsigned header_frames;
    size_t frame_length; /* of the frame that is being read */
    double blocked_s;  /* steady: since when, if it is blocked */
    double idle_s;     /* steady: since when there is no call */
    struct authz_connection *next_stirred;
} authz_connection;

/* Callbacks, options and limits that every session has; NULL: no memory. */
typedef struct authz_protocol authz_protocol;
authz_protocol *authz_protocol_new(const authz_allocator *allocator);
void authz_protocol_free(authz_protocol *protocol, const authz_allocator *allocator);

/* Begins a connection on an accepted socket, which it owns from then on. NULL: no memory,
 * and the socket is closed. */
authz_connection *authz_connection_open(struct authz_loop *loop, int socket);

/* Closes it: its calls are given up. */
void authz_connection_close(authz_connection *connection);

/* Reads what there is, a bounded part of it. */
void authz_connection_read(authz_connection *connection);

/* Sends what there is, until the socket takes no more. */
void authz_connection_write(authz_connection *connection);

/* Gives the answer to a call, which the host or memory gave, to the session. */
void authz_connection_answer(authz_connection *connection, authz_call *call);

/* Ends a call that there is no answer to. */
void authz_connection_fail(authz_connection *connection, const authz_call *call);

/* Lets the peer send more: the host has taken a message of `length` bytes. */
void authz_connection_taken(authz_connection *connection, authz_call *call, size_t length);

/* Says that no new call is taken; those that are open go on. */
void authz_connection_go_away(authz_connection *connection);

/* Ends what has taken too long. */
void authz_connection_look(authz_connection *connection, double now_s, double patience_s);

#endif
