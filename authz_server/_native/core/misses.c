#include "misses.h"

bool
authz_misses_init(authz_misses *misses, size_t max_open)
{
    *misses = (authz_misses){.max_open = max_open};
    if (pthread_mutex_init(&misses->lock, NULL) != 0) {
        return false;
    }
    if (pthread_cond_init(&misses->filled, NULL) != 0) {
        pthread_mutex_destroy(&misses->lock);
        return false;
    }
    return true;
}

void
authz_misses_destroy(authz_misses *misses)
{
    pthread_cond_destroy(&misses->filled);
    pthread_mutex_destroy(&misses->lock);
}

bool
authz_misses_put(authz_misses *misses, authz_miss *miss)
{
    pthread_mutex_lock(&misses->lock);
    const bool is_taken_in = !misses->is_closed;
    if (is_taken_in) {
        const bool has_room = misses->open < misses->max_open;
        misses->open += has_room;
        miss->wanted = has_room ? AUTHZ_WANT_DECISION : AUTHZ_WANT_OVERLOADED;
        miss->is_taken = false;
        miss->next = NULL;
        if (misses->first == NULL) {
            misses->first = miss;
        } else {
            misses->last->next = miss;
        }
        misses->last = miss;
        pthread_cond_signal(&misses->filled);
    }
    pthread_mutex_unlock(&misses->lock);
    return is_taken_in;
}

void
authz_misses_abandon(authz_misses *misses, authz_miss *miss)
{
    pthread_mutex_lock(&misses->lock);
    if (!miss->is_taken && miss->wanted == AUTHZ_WANT_DECISION) {
        miss->wanted = AUTHZ_WANT_ABANDONED;
        misses->open--;
        if (miss->raw.length > AUTHZ_MAX_ABANDONED_BYTES) {
            authz_buffer_release(&miss->raw);
        }
    }
    pthread_mutex_unlock(&misses->lock);
}

authz_miss *
authz_misses_take(authz_misses *misses, authz_wanted *wanted)
{
    pthread_mutex_lock(&misses->lock);
    while (misses->first == NULL && !misses->is_closed) {
        pthread_cond_wait(&misses->filled, &misses->lock);
    }
    authz_miss *miss = misses->first;
    if (miss != NULL) {
        misses->first = miss->next;
        miss->is_taken = true;
        *wanted = miss->wanted;
    }
    pthread_mutex_unlock(&misses->lock);
    return miss;
}

void
authz_misses_answer(authz_misses *misses, authz_miss *miss, authz_wanted wanted)
{
    if (wanted == AUTHZ_WANT_DECISION) {
        pthread_mutex_lock(&misses->lock);
        misses->open--;
        pthread_mutex_unlock(&misses->lock);
    }
    authz_inbox_put(miss->inbox, &miss->letter);
}

void
authz_misses_close(authz_misses *misses)
{
    pthread_mutex_lock(&misses->lock);
    misses->is_closed = true;
    pthread_cond_broadcast(&misses->filled);
    pthread_mutex_unlock(&misses->lock);
}
