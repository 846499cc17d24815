/* Calls that the host answers message by message: health, and streams.
 *
 *     loop ──► happenings: opened, message, ended, gone ──► host
 *     loop ◄── words: message, end, taken               ◄── host
 *
 * A call is named by a number that no other call of the listener has had. Words about a
 * call that is gone are dropped. */

#ifndef AUTHZ_CORE_HOST_H
#define AUTHZ_CORE_HOST_H

#include <pthread.h>

#include "buffer.h"
#include "inbox.h"

typedef enum authz_happening_kind {
    AUTHZ_CALL_OPENED,
    AUTHZ_CALL_MESSAGE,
    AUTHZ_CALL_ENDED, /* the peer has nothing more to say */
    AUTHZ_CALL_GONE   /* whatever the host says now is dropped */
} authz_happening_kind;

typedef struct authz_happening {
    struct authz_happening *next;
    uint64_t call;
    authz_happening_kind kind;
    uint32_t method;      /* opened: place in the listener's list of paths */
    authz_buffer message; /* message */
} authz_happening;

typedef struct authz_happenings {
    authz_allocator allocator;
    int wake;             /* an eventfd: readable once there is something */
    pthread_mutex_t lock; /* guards the rest */
    authz_happening *first, *last;
} authz_happenings;

bool authz_happenings_open(authz_happenings *happenings, const authz_allocator *allocator);

/* Closes it, and frees what nobody took. */
void authz_happenings_close(authz_happenings *happenings);

/* Tells the host; takes the message over. False: no memory, and the message is the
 * caller's still. */
bool authz_happenings_put(authz_happenings *happenings, uint64_t call,
                          authz_happening_kind kind, uint32_t method,
                          authz_buffer *message);

/* Takes the oldest out, to be ended by authz_happening_free; NULL: there is none. */
authz_happening *authz_happenings_take(authz_happenings *happenings);
void authz_happening_free(authz_happenings *happenings, authz_happening *happening);

typedef enum authz_word_kind {
    AUTHZ_SAY_MESSAGE,
    AUTHZ_SAY_END,
    AUTHZ_SAY_TAKEN /* `taken` bytes of the peer's messages need no room any more */
} authz_word_kind;

typedef struct authz_word {
    authz_letter letter; /* first */
    uint64_t call;
    authz_word_kind kind;
    uint8_t status; /* end: gRPC status code */
    size_t taken;
    authz_buffer text; /* the message; or of an end, what the status is explained with */
} authz_word;

/* NULL: no memory. */
authz_word *authz_word_new(const authz_allocator *allocator, uint64_t call,
                           authz_word_kind kind, authz_span text);
void authz_word_free(const authz_allocator *allocator, authz_word *word);

#endif
