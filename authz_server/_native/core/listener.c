#include "listener.h"

#include <unistd.h>

struct authz_listener {
    authz_allocator allocator;
    authz_terms terms;
    authz_standing standing;
    authz_tally tally;
    authz_misses misses;
    uint8_t loop_count;
    uint8_t running; /* threads that were started and not joined */
    struct {
        authz_loop *loop;
        pthread_t thread;
    } loops[AUTHZ_MAX_LOOPS];
};

static bool
open_parts(authz_listener *listener, const authz_listener_source *source)
{
    authz_terms *terms = &listener->terms;
    if (!authz_standing_init(&listener->standing)) {
        return false;
    }
    if (!authz_tally_init(&listener->tally, source->bounds_s, source->bound_count)) {
        goto no_tally;
    }
    if (!authz_misses_init(&listener->misses, source->max_open)) {
        goto no_misses;
    }
    if (!authz_happenings_open(&terms->happenings, &listener->allocator)) {
        goto no_happenings;
    }
    if (pthread_mutex_init(&terms->lock, NULL) != 0) {
        goto no_lock;
    }
    terms->protocol = authz_protocol_new(&listener->allocator);
    if (terms->protocol != NULL) {
        return true;
    }
    pthread_mutex_destroy(&terms->lock);
no_lock:
    authz_happenings_close(&terms->happenings);
no_happenings:
    authz_misses_destroy(&listener->misses);
no_misses:
    authz_tally_destroy(&listener->tally);
no_tally:
    authz_standing_destroy(&listener->standing);
    return false;
}

static void
close_parts(authz_listener *listener)
{
    authz_protocol_free(listener->terms.protocol, &listener->allocator);
    pthread_mutex_destroy(&listener->terms.lock);
    authz_happenings_close(&listener->terms.happenings);
    authz_misses_destroy(&listener->misses);
    authz_tally_destroy(&listener->tally);
    authz_standing_destroy(&listener->standing);
}

authz_listener *
authz_listener_new(const authz_listener_source *source)
{
    const authz_allocator *given = source->allocator;
    authz_listener *listener = given->allocate(given->context, sizeof *listener);
    if (listener == NULL) {
        return NULL;
    }
    memset(listener, 0, sizeof *listener);
    listener->allocator = *given;
    listener->terms = (authz_terms){
        .common = {.allocator = &listener->allocator,
                   .plan = source->plan,
                   .cache = source->cache,
                   .audit = source->audit,
                   .standing = &listener->standing,
                   .tally = &listener->tally,
                   .misses = &listener->misses,
                   .hash_key = authz_hash_key_of(source->seed),
                   .max_message_bytes = source->max_message_bytes},
        .paths = source->paths,
        .peers = source->peers,
        .listening = source->listening,
        .max_connections = source->max_connections,
        .share = source->max_connections / source->loops,
        .max_streams = source->max_streams,
        .patience_s = source->patience_s,
        .denial = source->denial,
    };
    if (!open_parts(listener, source)) {
        given->release(given->context, listener);
        return NULL;
    }
    while (listener->loop_count < source->loops) {
        authz_loop *loop = authz_loop_new(&listener->terms, listener->loop_count);
        if (loop == NULL) {
            listener->terms.listening = -1; /* still the caller's */
            authz_listener_free(listener);
            return NULL;
        }
        listener->loops[listener->loop_count++].loop = loop;
    }
    return listener;
}

static void *
run(void *loop)
{
    authz_loop_run(loop);
    return NULL;
}

bool
authz_listener_start(authz_listener *listener)
{
    while (listener->running < listener->loop_count) {
        if (pthread_create(&listener->loops[listener->running].thread, NULL, run,
                           listener->loops[listener->running].loop) != 0) {
            authz_listener_stop(listener);
            return false;
        }
        listener->running++;
    }
    return true;
}

static void
wake_all(authz_listener *listener)
{
    for (uint8_t i = 0; i < listener->loop_count; i++) {
        authz_inbox_wake(&listener->loops[i].loop->inbox);
    }
}

void
authz_listener_drain(authz_listener *listener)
{
    atomic_store(&listener->terms.is_draining, true);
    wake_all(listener);
}

size_t
authz_listener_open(const authz_listener *listener)
{
    size_t open = 0;
    for (uint8_t i = 0; i < listener->loop_count; i++) {
        open += atomic_load(&listener->loops[i].loop->open);
    }
    return open;
}

void
authz_listener_stop(authz_listener *listener)
{
    atomic_store(&listener->terms.is_stopping, true);
    wake_all(listener);
    while (listener->running > 0) {
        pthread_join(listener->loops[--listener->running].thread, NULL);
    }
    authz_misses_close(&listener->misses);
}

void
authz_listener_free(authz_listener *listener)
{
    authz_misses_close(&listener->misses);
    /* What no worker has taken: there were none, or they ended too early. */
    static const authz_duty duties[] = {AUTHZ_DECIDES, AUTHZ_REFUSES};
    for (size_t i = 0; i < sizeof duties / sizeof *duties; i++) {
        authz_wanted wanted;
        authz_miss *miss;
        while ((miss = authz_misses_take(&listener->misses, duties[i], &wanted)) != NULL) {
            authz_misses_answer(&listener->misses, miss, wanted);
        }
    }
    for (uint8_t i = 0; i < listener->loop_count; i++) {
        authz_loop_free(listener->loops[i].loop);
    }
    if (listener->terms.listening >= 0) {
        close(listener->terms.listening);
    }
    close_parts(listener);
    const authz_allocator allocator = listener->allocator;
    allocator.release(allocator.context, listener);
}

authz_standing *
authz_listener_standing(authz_listener *listener)
{
    return &listener->standing;
}

authz_misses *
authz_listener_misses(authz_listener *listener)
{
    return &listener->misses;
}

authz_happenings *
authz_listener_happenings(authz_listener *listener)
{
    return &listener->terms.happenings;
}

void
authz_listener_count(authz_listener *listener, authz_counts *counts)
{
    authz_tally_read(&listener->tally, counts);
}

authz_refused_peers
authz_listener_refused(authz_listener *listener)
{
    pthread_mutex_lock(&listener->terms.lock);
    const authz_refused_peers refused = listener->terms.refused;
    pthread_mutex_unlock(&listener->terms.lock);
    return refused;
}

void
authz_listener_say(authz_listener *listener, authz_word *word)
{
    const uint64_t index = word->call >> 16 & 0xff;
    if (index >= listener->loop_count) {
        authz_word_free(&listener->allocator, word);
        return;
    }
    authz_inbox_put(&listener->loops[index].loop->inbox, &word->letter);
}

const authz_allocator *
authz_listener_allocator(const authz_listener *listener)
{
    return &listener->allocator;
}
