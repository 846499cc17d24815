#include "inbox.h"

#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

bool
authz_inbox_open(authz_inbox *inbox)
{
    inbox->first = inbox->last = NULL;
    inbox->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (inbox->wake < 0) {
        return false;
    }
    if (pthread_mutex_init(&inbox->lock, NULL) != 0) {
        close(inbox->wake);
        return false;
    }
    return true;
}

void
authz_inbox_close(authz_inbox *inbox)
{
    close(inbox->wake);
    pthread_mutex_destroy(&inbox->lock);
}

void
authz_inbox_wake(authz_inbox *inbox)
{
    /* It fails only when the count is full, and then the descriptor is readable. */
    (void)!write(inbox->wake, &(uint64_t){1}, sizeof(uint64_t));
}

void
authz_inbox_put(authz_inbox *inbox, authz_letter *letter)
{
    letter->next = NULL;
    pthread_mutex_lock(&inbox->lock);
    const bool was_empty = inbox->first == NULL;
    if (was_empty) {
        inbox->first = letter;
    } else {
        inbox->last->next = letter;
    }
    inbox->last = letter;
    pthread_mutex_unlock(&inbox->lock);
    if (was_empty) {
        authz_inbox_wake(inbox);
    }
}

authz_letter *
authz_inbox_take(authz_inbox *inbox)
{
    /* First the descriptor: what is put after it was read makes it readable again. */
    uint64_t count;
    (void)!read(inbox->wake, &count, sizeof count);
    pthread_mutex_lock(&inbox->lock);
    authz_letter *first = inbox->first;
    inbox->first = inbox->last = NULL;
    pthread_mutex_unlock(&inbox->lock);
    return first;
}
