#include "checks.h"

/* Buffers that have grown beyond that are given back once the turn ends. */
#define KEPT_BYTES 65536

/* What is gathered at most before it is written, all in one turn; the rest is decided by
 * the host. */
#define MAX_EVENT_BYTES ((size_t)1 << 24)

#define LEAST_RECALLED_BYTES 4096

void
authz_checks_init(authz_checks *checks, const authz_common *common, authz_inbox *inbox,
                  authz_give give, void *context)
{
    memset(checks, 0, sizeof *checks);
    checks->common = common;
    checks->inbox = inbox;
    checks->give = give;
    checks->context = context;
    checks->remembered_end = &checks->remembered;
    authz_extraction_init(&checks->extraction, common->allocator,
                          4 * common->max_message_bytes + 65536);
    authz_buffer_init(&checks->recalled, common->allocator, MAX_EVENT_BYTES);
    authz_buffer_init(&checks->events, common->allocator, MAX_EVENT_BYTES);
}

void
authz_checks_release(authz_checks *checks)
{
    authz_extraction_release(&checks->extraction);
    authz_buffer_release(&checks->recalled);
    authz_buffer_release(&checks->events);
}

static void
give(authz_checks *checks, authz_check *check, authz_span answer)
{
    checks->open--;
    checks->give(checks->context, check, answer);
}

/* ---- from memory ------------------------------------------------------------------ */

/* Appends the cached answer and record to `checks->recalled`. */
static bool
recall(authz_checks *checks, const authz_check *check, authz_answer *answer)
{
    const authz_span revision = {checks->revision.bytes, checks->revision.length};
    authz_buffer *to = &checks->recalled;
    if (!authz_buffer_reserve(to, LEAST_RECALLED_BYTES)) {
        return false;
    }
    for (;;) {
        const authz_cache_status status = authz_cache_get(
            checks->common->cache, checks->extraction.key, revision, check->arrived,
            to->data + to->length, to->capacity - to->length, answer);
        if (status != AUTHZ_CACHE_OK && status != AUTHZ_CACHE_SMALL_BUFFER) {
            return false;
        }
        const size_t length = answer->response_len + answer->record_len;
        if (status == AUTHZ_CACHE_OK) {
            to->length += length;
            return true;
        }
        if (!authz_buffer_reserve(to, length)) {
            return false;
        }
    }
}

/* Whether memory answers. An empty answer would be an allow to Envoy. */
static bool
remember(authz_checks *checks, authz_check *check)
{
    authz_buffer *to = &checks->recalled;
    const size_t at = to->length;
    const authz_span request_id = checks->extraction.request_id;
    const authz_span source = checks->extraction.source;
    authz_answer answer;
    if (!authz_standing_get(checks->common->standing, check->arrived.steady_s,
                            &checks->revision) ||
        !recall(checks, check, &answer) || answer.response_len == 0 ||
        !authz_buffer_bytes(to, request_id) || !authz_buffer_bytes(to, source)) {
        to->length = at;
        return false;
    }
    check->recalled = (authz_recalled){
        .at = at,
        .response_length = answer.response_len,
        .record_length = answer.record_len,
        .request_id_length = request_id.length,
        .source_length = source.length,
        .reason = answer.reason,
    };
    check->next = NULL;
    *checks->remembered_end = check;
    checks->remembered_end = &check->next;
    return true;
}

static authz_span
response_of(const authz_checks *checks, const authz_check *check)
{
    return (authz_span){checks->recalled.data + check->recalled.at,
                        check->recalled.response_length};
}

/* Adds the event of a remembered answer to those of the turn. */
static bool
note(authz_checks *checks, const authz_check *check, double answered_s)
{
    const authz_recalled *it = &check->recalled;
    const uint8_t *record = checks->recalled.data + it->at + it->response_length;
    const uint8_t *request_id = record + it->record_length;
    const authz_occurrence occurrence = {
        .wall_s = check->arrived.wall_s,
        .latency_s = answered_s - check->arrived.steady_s,
        .cache_hit = true,
        .request_id = {request_id, it->request_id_length},
        .source = {request_id + it->request_id_length, it->source_length},
    };
    return authz_audit_event(&checks->events, &checks->date,
                             (authz_span){record, it->record_length}, &occurrence);
}

/* ---- by the host ------------------------------------------------------------------ */

static void
free_miss(authz_checks *checks, authz_miss *miss)
{
    authz_buffer_release(&miss->raw);
    authz_buffer_release(&miss->answer);
    authz_buffer_release(&miss->key);
    checks->common->allocator->release(checks->common->allocator->context, miss);
}

/* Lets the message outlast this turn; false: no memory. */
static bool
keep(authz_check *check)
{
    if (check->message.data == check->raw.data) {
        return true;
    }
    check->raw.length = 0;
    if (!authz_buffer_bytes(&check->raw, check->message)) {
        return false;
    }
    check->message = (authz_span){check->raw.data, check->raw.length};
    return true;
}

static authz_miss *
new_miss(authz_checks *checks, authz_check *check)
{
    const authz_allocator *allocator = checks->common->allocator;
    authz_miss *miss =
        keep(check) ? allocator->allocate(allocator->context, sizeof *miss) : NULL;
    if (miss == NULL) {
        return NULL;
    }
    memset(miss, 0, sizeof *miss);
    miss->letter.kind = AUTHZ_LETTER_DECISION;
    miss->inbox = checks->inbox;
    miss->check = check;
    miss->arrived = check->arrived;
    miss->raw = check->raw;
    authz_buffer_init(&check->raw, allocator, check->raw.limit);
    authz_buffer_init(&miss->answer, allocator, SIZE_MAX);
    authz_buffer_init(&miss->key, allocator, SIZE_MAX);
    return miss;
}

/* Asks a worker of the host; others may wait for it if `key` is not empty. */
static void
decide(authz_checks *checks, authz_check *check, authz_span key, uint64_t hash)
{
    authz_miss *miss = new_miss(checks, check);
    if (miss == NULL) {
        give(checks, check, (authz_span){NULL, 0});
        return;
    }
    check->miss = miss;
    miss->hash = hash;
    /* Without memory for the key nobody waits, nothing else. */
    if (key.length > 0 && authz_buffer_bytes(&miss->key, key)) {
        authz_miss **bucket = &checks->being_decided[hash % AUTHZ_MISS_BUCKETS];
        miss->same_bucket = *bucket;
        *bucket = miss;
    }
    if (!authz_misses_put(checks->common->misses, miss)) {
        authz_checks_decided(checks, miss); /* closed: there is no answer */
        return;
    }
    if (check->is_given_up) {
        authz_misses_abandon(checks->common->misses, miss);
    }
}

static authz_miss *
find_same(const authz_checks *checks, authz_span key, uint64_t hash)
{
    authz_miss *miss = checks->being_decided[hash % AUTHZ_MISS_BUCKETS];
    while (miss != NULL &&
           (miss->hash != hash || miss->key.length != key.length ||
            memcmp(miss->key.data, key.data, key.length) != 0)) {
        miss = miss->same_bucket;
    }
    return miss;
}

static void
leave_bucket(authz_checks *checks, const authz_miss *miss)
{
    authz_miss **at = &checks->being_decided[miss->hash % AUTHZ_MISS_BUCKETS];
    while (*at != NULL && *at != miss) {
        at = &(*at)->same_bucket;
    }
    if (*at != NULL) {
        *at = miss->same_bucket;
    }
}

static void
ask(authz_checks *checks, authz_check *check, bool may_wait)
{
    authz_span key = {NULL, 0};
    if (check->message.length > 0 &&
        authz_extract(checks->common->plan, check->message, &checks->extraction) ==
            AUTHZ_EXTRACT_OK) {
        if (remember(checks, check)) {
            return;
        }
        key = checks->extraction.key;
    }
    uint64_t hash = 0;
    if (key.length > 0 && may_wait) {
        hash = authz_keyed_hash(&checks->common->hash_key, key.data, key.length);
        authz_miss *same = find_same(checks, key, hash);
        if (same != NULL && keep(check)) {
            check->next = same->waiting;
            same->waiting = check;
            return;
        }
    }
    decide(checks, check, may_wait ? key : (authz_span){NULL, 0}, hash);
}

/* ---- what a loop calls -------------------------------------------------------------- */

void
authz_checks_ask(authz_checks *checks, authz_check *check)
{
    checks->open++;
    check->miss = NULL;
    check->is_given_up = false;
    ask(checks, check, true);
}

void
authz_checks_give_up(authz_checks *checks, authz_check *check)
{
    check->is_given_up = true;
    if (check->miss != NULL) {
        authz_misses_abandon(checks->common->misses, check->miss);
    }
}

void
authz_checks_decided(authz_checks *checks, authz_miss *miss)
{
    authz_check *check = miss->check, *waiting = miss->waiting;
    if (miss->key.length > 0) {
        leave_bucket(checks, miss);
    }
    check->miss = NULL;
    give(checks, check, (authz_span){miss->answer.data, miss->answer.length});
    free_miss(checks, miss);
    while (waiting != NULL) {
        authz_check *next = waiting->next;
        ask(checks, waiting, false);
        waiting = next;
    }
}

static void
trim(authz_buffer *buffer)
{
    if (buffer->capacity > KEPT_BYTES) {
        authz_buffer_release(buffer);
    }
}

/* Puts the events of all checks that memory answers in this turn on record. */
static bool
record(authz_checks *checks, double answered_s)
{
    const authz_check *check = checks->remembered;
    while (check != NULL && note(checks, check, answered_s)) {
        check = check->next;
    }
    const authz_span events = {checks->events.data, checks->events.length};
    const bool is_on_record =
        check == NULL &&
        authz_audit_file_write(checks->common->audit, events, answered_s) == 0;
    checks->events.length = 0;
    trim(&checks->events);
    return is_on_record;
}

void
authz_checks_settle(authz_checks *checks)
{
    if (checks->remembered == NULL) {
        return;
    }
    const double answered_s = authz_now_steady_s();
    const bool is_on_record = record(checks, answered_s);
    authz_check *check = checks->remembered;
    checks->remembered = NULL;
    checks->remembered_end = &checks->remembered;
    while (check != NULL) {
        authz_check *next = check->next;
        if (is_on_record) {
            authz_tally_add(checks->common->tally, check->recalled.reason,
                            answered_s - check->arrived.steady_s);
            give(checks, check, response_of(checks, check));
        } else {
            decide(checks, check, (authz_span){NULL, 0}, 0);
        }
        check = next;
    }
    checks->recalled.length = 0;
    trim(&checks->recalled);
    authz_extraction_trim(&checks->extraction, KEPT_BYTES);
}
