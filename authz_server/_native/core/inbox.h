/* What other threads have for a loop: letters in a list, and a descriptor that wakes it. */

#ifndef AUTHZ_CORE_INBOX_H
#define AUTHZ_CORE_INBOX_H

#include <pthread.h>
#include <stdbool.h>

/* The first member of whatever is sent. */
typedef struct authz_letter {
    struct authz_letter *next;
    enum {
        AUTHZ_LETTER_DECISION, /* an authz_miss with its answer */
        AUTHZ_LETTER_WORD      /* an authz_word of the host about one of its calls */
    } kind;
} authz_letter;

typedef struct authz_inbox {
    int wake;             /* an eventfd: readable once there is something */
    pthread_mutex_t lock; /* guards the rest */
    authz_letter *first, *last;
} authz_inbox;

/* False: no descriptor, or no memory. */
bool authz_inbox_open(authz_inbox *inbox);

/* What is still inside must have been taken out. */
void authz_inbox_close(authz_inbox *inbox);

void authz_inbox_put(authz_inbox *inbox, authz_letter *letter);

/* Makes the descriptor readable, without a letter. */
void authz_inbox_wake(authz_inbox *inbox);

/* Takes everything out, the oldest first; NULL: there is nothing. */
authz_letter *authz_inbox_take(authz_inbox *inbox);

#endif
