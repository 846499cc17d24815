#include "misses.h"

bool
authz_misses_init(authz_misses *misses, size_t max_open)
{
    *misses = (authz_misses){.max_open = max_open};
    if (pthread_mutex_init(&misses->lock, NULL) != 0) {
        return false;
    }
    if (pthread_cond_init(&misses->queues[AUTHZ_DECIDES].filled, NULL) != 0) {
        goto no_decisions;
    }
    if (pthread_cond_init(&misses->queues[AUTHZ_REFUSES].filled, NULL) != 0) {
        goto no_refusals;
    }
    return true;
no_refusals:
    pthread_cond_destroy(&misses->queues[AUTHZ_DECIDES].filled);
no_decisions:
    pthread_mutex_destroy(&misses->lock);
    return false;
}

void
authz_misses_destroy(authz_misses *misses)
{
    pthread_cond_destroy(&misses->queues[AUTHZ_DECIDES].filled);
    pthread_cond_destroy(&misses->queues[AUTHZ_REFUSES].filled);
    pthread_mutex_destroy(&misses->lock);
}

static authz_miss_queue *
queue_of(authz_misses *misses, authz_wanted wanted)
{
    return &misses->queues[wanted == AUTHZ_WANT_DECISION ? AUTHZ_DECIDES : AUTHZ_REFUSES];
}

/* Adds it as the newest. */
static void
push(authz_miss_queue *queue, authz_miss *miss)
{
    miss->next = NULL;
    miss->previous = queue->last;
    if (queue->last == NULL) {
        queue->first = miss;
    } else {
        queue->last->next = miss;
    }
    queue->last = miss;
    pthread_cond_signal(&queue->filled);
}

static void
take_out(authz_miss_queue *queue, authz_miss *miss)
{
    if (miss->previous == NULL) {
        queue->first = miss->next;
    } else {
        miss->previous->next = miss->next;
    }
    if (miss->next == NULL) {
        queue->last = miss->previous;
    } else {
        miss->next->previous = miss->previous;
    }
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
        push(queue_of(misses, miss->wanted), miss);
    }
    pthread_mutex_unlock(&misses->lock);
    return is_taken_in;
}

void
authz_misses_abandon(authz_misses *misses, authz_miss *miss)
{
    pthread_mutex_lock(&misses->lock);
    if (!miss->is_taken && miss->wanted == AUTHZ_WANT_DECISION) {
        take_out(queue_of(misses, miss->wanted), miss);
        miss->wanted = AUTHZ_WANT_ABANDONED;
        misses->open--;
        if (miss->raw.length > AUTHZ_MAX_ABANDONED_BYTES) {
            authz_buffer_release(&miss->raw);
        }
        push(queue_of(misses, miss->wanted), miss);
    }
    pthread_mutex_unlock(&misses->lock);
}

authz_miss *
authz_misses_take(authz_misses *misses, authz_duty duty, authz_wanted *wanted)
{
    authz_miss_queue *queue = &misses->queues[duty];
    pthread_mutex_lock(&misses->lock);
    authz_miss *miss = queue->first;
    if (miss != NULL) {
        take_out(queue, miss);
        miss->is_taken = true;
        *wanted = miss->wanted;
    }
    pthread_mutex_unlock(&misses->lock);
    return miss;
}

bool
authz_misses_await(authz_misses *misses, authz_duty duty)
{
    authz_miss_queue *queue = &misses->queues[duty];
    pthread_mutex_lock(&misses->lock);
    while (queue->first == NULL && !misses->is_closed) {
        pthread_cond_wait(&queue->filled, &misses->lock);
    }
    const bool is_there_one = queue->first != NULL;
    pthread_mutex_unlock(&misses->lock);
    return is_there_one;
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
    pthread_cond_broadcast(&misses->queues[AUTHZ_DECIDES].filled);
    pthread_cond_broadcast(&misses->queues[AUTHZ_REFUSES].filled);
    pthread_mutex_unlock(&misses->lock);
}
