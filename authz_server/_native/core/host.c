#include "host.h"

#include <sys/eventfd.h>
#include <unistd.h>

bool
authz_happenings_open(authz_happenings *happenings, const authz_allocator *allocator)
{
    memset(happenings, 0, sizeof *happenings);
    happenings->allocator = *allocator;
    happenings->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (happenings->wake < 0) {
        return false;
    }
    if (pthread_mutex_init(&happenings->lock, NULL) != 0) {
        close(happenings->wake);
        return false;
    }
    return true;
}

void
authz_happenings_close(authz_happenings *happenings)
{
    authz_happening *happening;
    while ((happening = authz_happenings_take(happenings)) != NULL) {
        authz_happening_free(happenings, happening);
    }
    pthread_mutex_destroy(&happenings->lock);
    close(happenings->wake);
}

bool
authz_happenings_put(authz_happenings *happenings, uint64_t call, authz_happening_kind kind,
                     uint32_t method, authz_buffer *message)
{
    authz_happening *happening =
        happenings->allocator.allocate(happenings->allocator.context, sizeof *happening);
    if (happening == NULL) {
        return false;
    }
    *happening = (authz_happening){.call = call, .kind = kind, .method = method};
    authz_buffer_init(&happening->message, &happenings->allocator, SIZE_MAX);
    if (message != NULL) {
        happening->message = *message;
        happening->message.allocator = &happenings->allocator;
        authz_buffer_init(message, message->allocator, message->limit);
    }
    pthread_mutex_lock(&happenings->lock);
    const bool was_empty = happenings->first == NULL;
    if (was_empty) {
        happenings->first = happening;
    } else {
        happenings->last->next = happening;
    }
    happenings->last = happening;
    pthread_mutex_unlock(&happenings->lock);
    if (was_empty) {
        (void)!write(happenings->wake, &(uint64_t){1}, sizeof(uint64_t));
    }
    return true;
}

authz_happening *
authz_happenings_take(authz_happenings *happenings)
{
    uint64_t count;
    pthread_mutex_lock(&happenings->lock);
    authz_happening *happening = happenings->first;
    if (happening != NULL) {
        happenings->first = happening->next;
    }
    if (happenings->first == NULL) {
        (void)!read(happenings->wake, &count, sizeof count);
    }
    pthread_mutex_unlock(&happenings->lock);
    return happening;
}

void
authz_happening_free(authz_happenings *happenings, authz_happening *happening)
{
    authz_buffer_release(&happening->message);
    happenings->allocator.release(happenings->allocator.context, happening);
}

authz_word *
authz_word_new(const authz_allocator *allocator, uint64_t call, authz_word_kind kind,
               authz_span text)
{
    authz_word *word = allocator->allocate(allocator->context, sizeof *word);
    if (word == NULL) {
        return NULL;
    }
    *word = (authz_word){.letter = {.kind = AUTHZ_LETTER_WORD}, .call = call, .kind = kind};
    authz_buffer_init(&word->text, allocator, SIZE_MAX);
    if (!authz_buffer_bytes(&word->text, text)) {
        authz_word_free(allocator, word);
        return NULL;
    }
    return word;
}

void
authz_word_free(const authz_allocator *allocator, authz_word *word)
{
    authz_buffer_release(&word->text);
    allocator->release(allocator->context, word);
}
