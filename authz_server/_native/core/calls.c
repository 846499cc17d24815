#include "calls.h"

#include <string.h>

/* Free calls that are kept, and what each may keep. */
#define KEPT_CALLS 1024
#define KEPT_CALL_BYTES 16384

void
authz_calls_init(authz_calls *calls, const authz_allocator *allocator,
                 size_t max_message_bytes, uint8_t index)
{
    memset(calls, 0, sizeof *calls);
    calls->allocator = allocator;
    calls->max_message_bytes = max_message_bytes;
    calls->index = index;
}

static void
init_call(authz_call *call, const authz_calls *calls)
{
    memset(call, 0, sizeof *call);
    authz_buffer_init(&call->check.raw, calls->allocator, calls->max_message_bytes);
    authz_buffer_init(&call->status_text, calls->allocator, SIZE_MAX);
    authz_buffer_init(&call->output, calls->allocator, SIZE_MAX);
}

static void
free_call(const authz_calls *calls, authz_call *call)
{
    authz_buffer_release(&call->check.raw);
    authz_buffer_release(&call->status_text);
    authz_buffer_release(&call->output);
    calls->allocator->release(calls->allocator->context, call);
}

void
authz_calls_release(authz_calls *calls)
{
    while (calls->free != NULL) {
        authz_call *call = calls->free;
        calls->free = call->next;
        free_call(calls, call);
    }
    calls->free_count = 0;
}

authz_call *
authz_calls_take(authz_calls *calls)
{
    authz_call *call = calls->free;
    if (call != NULL) {
        calls->free = call->next;
        calls->free_count--;
        call->next = NULL;
        return call;
    }
    call = calls->allocator->allocate(calls->allocator->context, sizeof *call);
    if (call != NULL) {
        init_call(call, calls);
    }
    return call;
}

/* Empties a buffer; what is large is given back. */
static void
empty(authz_buffer *buffer)
{
    buffer->length = 0;
    if (buffer->capacity > KEPT_CALL_BYTES) {
        authz_buffer_release(buffer);
    }
}

void
authz_calls_give_back(authz_calls *calls, authz_call *call)
{
    if (calls->free_count >= KEPT_CALLS) {
        free_call(calls, call);
        return;
    }
    empty(&call->check.raw);
    empty(&call->status_text);
    empty(&call->output);
    *call = (authz_call){
        .check = {.raw = call->check.raw},
        .next = calls->free,
        .status_text = call->status_text,
        .output = call->output,
    };
    calls->free = call;
    calls->free_count++;
}

/* A number is: how often its place was used | the loop | the place. */
bool
authz_calls_name(authz_calls *calls, authz_call *call)
{
    uint32_t place = 0;
    while (place < calls->host_places && calls->of_host[place].call != NULL) {
        place++;
    }
    if (place == AUTHZ_MAX_HOST_CALLS) {
        return false;
    }
    if (place == calls->host_places) {
        calls->host_places++;
    }
    calls->of_host[place].call = call;
    call->number = (uint64_t)++calls->of_host[place].times << 24 |
                   (uint64_t)calls->index << 16 | place;
    return true;
}

void
authz_calls_forget(authz_calls *calls, const authz_call *call)
{
    calls->of_host[call->number & 0xffff].call = NULL;
}

authz_call *
authz_calls_find(const authz_calls *calls, uint64_t number)
{
    const uint32_t place = number & 0xffff;
    authz_call *call = place < calls->host_places ? calls->of_host[place].call : NULL;
    return call != NULL && call->number == number ? call : NULL;
}
