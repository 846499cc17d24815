/* One gRPC call on one HTTP/2 stream: from headers to a message, from an answer to
 * trailers. https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
 *
 * Nothing here reads from or writes to a socket: connection.c feeds it and asks it. */

#ifndef AUTHZ_CORE_CALL_H
#define AUTHZ_CORE_CALL_H

#include <nghttp2/nghttp2.h>

#include "checks.h"

/* https://github.com/grpc/grpc/blob/master/doc/statuscodes.md, those that are used. */
enum {
    AUTHZ_GRPC_OK = 0,
    AUTHZ_GRPC_RESOURCE_EXHAUSTED = 8,
    AUTHZ_GRPC_UNIMPLEMENTED = 12,
    AUTHZ_GRPC_INTERNAL = 13
};

/* As grpc.max_metadata_size of the other transport. Counted as RFC 9113 6.5.2 says. */
#define AUTHZ_MAX_HEADER_BYTES 32768

/* The paths that are answered. */
typedef struct authz_paths {
    authz_span check;       /* answered from memory, or by a worker */
    const authz_span *host; /* by the host, message by message */
    uint32_t host_count;
} authz_paths;

typedef enum authz_call_kind {
    AUTHZ_CALL_UNKNOWN, /* no such path */
    AUTHZ_CALL_CHECK,
    AUTHZ_CALL_HOST
} authz_call_kind;

typedef struct authz_call {
    authz_check check; /* first: what is given back as a check is a call */
    struct authz_call *previous, *next; /* of its connection; next: of the free ones */
    struct authz_connection *connection; /* NULL: the stream is gone */
    int32_t stream;
    authz_call_kind kind;
    uint32_t method;  /* of AUTHZ_CALL_HOST: place in the list of paths */
    uint64_t number;  /* of AUTHZ_CALL_HOST: its name for the host */
    double since_s;   /* steady: begin of what it now waits for */
    bool is_asked;    /* the check is out */
    bool is_refused;  /* an error is on its way, and nothing else */
    bool has_ended;   /* the peer has said all */

    /* Of the request's headers. */
    size_t header_bytes;
    bool has_headers; /* all of them */
    bool is_post, is_grpc, is_encoded;

    /* Of the request's messages; the message itself is check.message. */
    uint8_t prefix[5];
    size_t prefix_length;
    size_t missing; /* bytes of the message that are still to come */
    bool has_message;
    size_t held;      /* bytes that the connection's window has not got back */
    uint32_t untaken; /* of AUTHZ_CALL_HOST: messages that the host has not taken */

    /* Of the response. */
    bool is_answering; /* headers are submitted */
    bool is_waiting;   /* for more to send */
    bool is_complete;  /* the status is known */
    uint8_t status;
    authz_buffer status_text; /* percent-encoded */
    authz_buffer output;      /* messages, each with its prefix */
    size_t sent;
} authz_call;

/* Takes one header of the request. */
void authz_call_header(authz_call *call, const authz_paths *paths, authz_span name,
                       authz_span value);

/* What is wrong with the request, now that its headers are known. */
typedef struct authz_refusal {
    const char *http_status; /* "200", unless this is no gRPC at all; NULL: all is well */
    uint8_t grpc_status;
    const char *text;
} authz_refusal;

authz_refusal authz_call_judge(const authz_call *call);

/* Takes a part of the request's body. Returns how much of it was used: all, or up to the
 * end of a message, which is check.message then, with call->has_message set. What is wrong
 * with it is in `refusal`. If `is_last`, nothing comes behind the data, and a message that
 * is whole in it stays there: nearly all checks come like that, and none is copied. */
size_t authz_call_data(authz_call *call, authz_span data, bool is_last,
                       size_t max_message_bytes, authz_refusal *refusal);

/* What is wrong with a body that ends here. */
authz_refusal authz_call_end(const authz_call *call);

/* Appends a message to the output; false: no memory. */
bool authz_call_say(authz_call *call, authz_span message);

/* The status, as it goes into trailers; the text is percent-encoded. */
bool authz_call_complete(authz_call *call, uint8_t status, authz_span text);

#endif
