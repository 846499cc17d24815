/* Checks that memory has no answer to, on their way to the host's workers.
 *
 * Those that are only to be refused go another way than those that are to be decided: a
 * denial for want of room must not wait until there is room. */

#ifndef AUTHZ_CORE_MISSES_H
#define AUTHZ_CORE_MISSES_H

#include <pthread.h>
#include <stdbool.h>

#include "buffer.h"
#include "clock.h"
#include "inbox.h"

/* What is wanted of a worker: always an answer, and a record of it. */
typedef enum authz_wanted {
    AUTHZ_WANT_DECISION,
    AUTHZ_WANT_OVERLOADED, /* a denial: too many decisions are open */
    AUTHZ_WANT_ABANDONED   /* a denial: the proxy gave up before anybody took it */
} authz_wanted;

struct authz_check;

typedef struct authz_miss {
    authz_letter letter; /* first */
    authz_inbox *inbox;  /* where the answer goes */

    /* The question, whole until it is answered. */
    authz_buffer raw;
    authz_instant arrived;

    /* The queue's, under its lock. */
    struct authz_miss *previous, *next;
    authz_wanted wanted;
    bool is_taken;

    /* The worker's, until it is answered. */
    authz_buffer answer;

    /* The loop's. Equal questions that came later wait for this one. */
    struct authz_check *check;
    struct authz_check *waiting;
    struct authz_miss *same_bucket;
    uint64_t hash;
    authz_buffer key; /* empty: nobody may wait for it */
} authz_miss;

/* What a worker does. */
typedef enum authz_duty { AUTHZ_DECIDES, AUTHZ_REFUSES } authz_duty;

typedef struct authz_miss_queue {
    pthread_cond_t filled;
    authz_miss *first, *last;
} authz_miss_queue;

typedef struct authz_misses {
    size_t max_open;       /* decisions; never changes */
    pthread_mutex_t lock;  /* guards the rest */
    authz_miss_queue queues[2]; /* by duty */
    size_t open; /* that wait or are being decided; without those that are refused */
    bool is_closed;
} authz_misses;

bool authz_misses_init(authz_misses *misses, size_t max_open);
void authz_misses_destroy(authz_misses *misses);

/* Queues a miss, to be refused if too many are open. False: it is closed. */
bool authz_misses_put(authz_misses *misses, authz_miss *miss);

/* Of an abandoned question that is longer, nothing is kept: a proxy that asks and gives
 * up, again and again, must not fill the memory. */
#define AUTHZ_MAX_ABANDONED_BYTES 16384

/* Notes that nobody waits for the answer any more, unless a worker is at it. */
void authz_misses_abandon(authz_misses *misses, authz_miss *miss);

/* Takes the oldest miss of that duty; NULL: there is none now. */
authz_miss *authz_misses_take(authz_misses *misses, authz_duty duty,
                              authz_wanted *wanted);

/* Waits until there is a miss of that duty, which another worker may take meanwhile.
 * False: it is closed, and none is left. */
bool authz_misses_await(authz_misses *misses, authz_duty duty);

/* Hands a miss that was taken back to its loop, with its answer. */
void authz_misses_answer(authz_misses *misses, authz_miss *miss, authz_wanted wanted);

/* Takes no more; workers get what is left. */
void authz_misses_close(authz_misses *misses);

#endif
