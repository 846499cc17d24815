/* Decisions that can be told from each other, and a model that never forgets. */

#ifndef AUTHZ_TESTS_CACHE_MODEL_H
#define AUTHZ_TESTS_CACHE_MODEL_H

#include <string.h>

#include "cache.h"
#include "testing.h"

static const unsigned char SEED[AUTHZ_SEED_BYTES] = "a fixed seed, so";

static inline authz_span
bytes_of(const char *text)
{
    return (authz_span){(const unsigned char *)text, strlen(text)};
}

#define MODEL_KEYS 40

/* What was put last for each key. */
typedef struct {
    int is_put;
    unsigned number; /* of the put: the response says it */
    unsigned revision;
    double expires_s, valid_from_s, valid_until_s;
    size_t record_len;
} model_entry;

typedef struct {
    model_entry entries[MODEL_KEYS];
    unsigned puts;
    authz_instant now;
} put_so_far;

/* Keys of many lengths, one a prefix of the other. */
static inline authz_span
model_key(unsigned number)
{
    static const unsigned char letters[MODEL_KEYS + 1] =
        "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk";
    return (authz_span){letters, number % MODEL_KEYS};
}

static inline authz_span
model_revision(unsigned number)
{
    static const char *const names[] = {"one", "two", "twofold", ""};
    return bytes_of(names[number % 4]);
}

static inline authz_cache_status
model_put(put_so_far *model, authz_cache *cache, unsigned key, unsigned revision,
          double lifetime_s, double until_s, size_t record_len)
{
    static const unsigned char record[300];
    model_entry *entry = &model->entries[key % MODEL_KEYS];
    *entry = (model_entry){
        .is_put = 1,
        .number = ++model->puts,
        .revision = revision % 4,
        .expires_s = model->now.steady_s + lifetime_s,
        .valid_from_s = model->now.wall_s - 1,
        .valid_until_s = model->now.wall_s + until_s,
        .record_len = record_len % sizeof record,
    };
    const authz_decision decision = {
        .response = {(const unsigned char *)&entry->number, sizeof entry->number},
        .record = {record, entry->record_len},
        .reason = (uint8_t)entry->number,
        .expires_s = entry->expires_s,
        .valid_from_s = entry->valid_from_s,
        .valid_until_s = entry->valid_until_s,
    };
    return authz_cache_put(cache, model_key(key), model_revision(revision), &decision);
}

/* Asks, and checks that an answer is the one that was put last and still holds. */
static inline authz_cache_status
model_get(const put_so_far *model, authz_cache *cache, unsigned key, unsigned revision,
          size_t capacity)
{
    unsigned char buffer[1024];
    authz_answer answer;
    const model_entry *entry = &model->entries[key % MODEL_KEYS];
    const authz_instant now = model->now;
    const authz_cache_status status =
        authz_cache_get(cache, model_key(key), model_revision(revision), now, buffer,
                     capacity % (sizeof buffer + 1), &answer);
    if (status == AUTHZ_CACHE_MISS) {
        return status;
    }
    CHECK(entry->is_put && entry->revision == revision % 4);
    CHECK(now.steady_s < entry->expires_s);
    CHECK(entry->valid_from_s <= now.wall_s && now.wall_s <= entry->valid_until_s);
    CHECK(answer.response_len == sizeof entry->number);
    CHECK(answer.record_len == entry->record_len);
    CHECK(answer.reason == (uint8_t)entry->number);
    if (status == AUTHZ_CACHE_OK) {
        CHECK(memcmp(buffer, &entry->number, sizeof entry->number) == 0);
    } else {
        CHECK(status == AUTHZ_CACHE_SMALL_BUFFER);
    }
    return status;
}

static inline void
check_whole(authz_cache *cache)
{
    const char *fault = authz_cache_check(cache);
    if (fault != NULL) {
        fprintf(stderr, "%s\n", fault);
        abort();
    }
}

#endif
