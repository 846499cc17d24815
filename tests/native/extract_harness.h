/* What must hold of the extractor, whatever the bytes:
 *
 *   - it ends, and reads and writes within its bounds (the sanitizers' part);
 *   - a used extraction and a new one say the same;
 *   - the canonical bytes can be walked to their last byte, and annotations are UTF-8;
 *   - if memory runs out at any allocation, it says so, loses none, or says the same.
 *
 * That it says what the Python twin says is for tests/property/test_extraction_twins.py. */

#ifndef AUTHZ_TESTS_EXTRACT_HARNESS_H
#define AUTHZ_TESTS_EXTRACT_HARNESS_H

#include "counting.h"
#include "extract.h"
#include "utf8.h"

#define HARNESS_PLANS 3

/* ---- plans ---------------------------------------------------------------------- */

#define COUNT(array) (sizeof(array) / sizeof(array)[0])
#define TEXT(literal) {(const uint8_t *)(literal), sizeof(literal) - 1}
#define SERVICE "/inference.GRPCInferenceService/"

static const authz_span headers[] = {TEXT("x-line"), TEXT("x-role"), TEXT("accept")};
static const authz_span credentials[] = {TEXT("authorization")};
static const authz_span signals[] = {
    TEXT("grpc-encoding"), TEXT("x-line"), TEXT("content-type"), TEXT("x-line")};
static const authz_kept_field name_and_version[] = {{1, AUTHZ_KEEP_VALUE},
                                                    {2, AUTHZ_KEEP_VALUE}};
static const authz_kept_field load[] = {
    {1, AUTHZ_KEEP_VALUE}, {2, AUTHZ_KEEP_VALUE}, {3, AUTHZ_KEEP_PRESENCE}};
static const authz_kept_field unload[] = {
    {1, AUTHZ_KEEP_VALUE}, {2, AUTHZ_KEEP_VALUE}, {3, AUTHZ_KEEP_EACH}};
static const authz_kept_field odd[] = {{1, AUTHZ_KEEP_VALUE},
                                       {2, AUTHZ_KEEP_EACH},
                                       {3, AUTHZ_KEEP_PRESENCE},
                                       {15, AUTHZ_KEEP_EACH}};
static const authz_outline outlines[] = {
    {TEXT(SERVICE "ModelInfer"), name_and_version, COUNT(name_and_version)},
    {TEXT(SERVICE "ModelReady"), name_and_version, COUNT(name_and_version)},
    {TEXT(SERVICE "RepositoryModelLoad"), load, COUNT(load)},
    {TEXT(SERVICE "RepositoryModelUnload"), unload, COUNT(unload)},
    {TEXT("/odd.Service/Method"), odd, COUNT(odd)},
    {TEXT("/odd.Service/Each"), NULL, 0},
};
static const authz_json_model models[] = {
    {TEXT("/v1/chat/completions"), TEXT("model")},
    {TEXT("/v1/completions"), TEXT("model")},
    {TEXT("/v1/embeddings"), TEXT("m\xc3\xb6"
                                  "del")},
};

static inline authz_plan_source
plan_source(size_t number)
{
    authz_plan_source source = {
        .lists = {{headers, COUNT(headers)},
                  {credentials, COUNT(credentials)},
                  {signals, COUNT(signals)}},
        .outlines = outlines,
        .outline_count = COUNT(outlines),
        .json_models = models,
        .json_model_count = COUNT(models),
        .claims_name = {(const uint8_t *)"jwt", number == 1 ? 3 : 0},
    };
    return number < 2 ? source : (authz_plan_source){0};
}

static inline const authz_plan *
harness_plan(size_t number)
{
    /* Kept as long as the process: a fuzz target has no end of its own. */
    static counting counts;
    static authz_plan *plans[HARNESS_PLANS];
    authz_plan **plan = &plans[number % HARNESS_PLANS];
    if (*plan == NULL) {
        authz_plan_source source = plan_source(number % HARNESS_PLANS);
        authz_allocator allocator = counting_allocator(&counts);
        CHECK(authz_plan_make(&source, &allocator, plan) == AUTHZ_PLAN_OK);
        CHECK(counts.live == counts.calls);
    }
    return *plan;
}

/* ---- what must hold ------------------------------------------------------------- */

static inline uint32_t
read_number(authz_reader *reader, size_t bytes)
{
    uint32_t number = 0;
    CHECK((size_t)(reader->end - reader->at) >= bytes);
    while (bytes-- > 0) {
        number = number << 8 | *reader->at++;
    }
    return number;
}

static inline void
read_scalar(authz_reader *reader)
{
    uint32_t length = read_number(reader, 4);
    CHECK((size_t)(reader->end - reader->at) >= length);
    reader->at += length;
}

/* Walks over the canonical bytes as Facts.decode does. */
static inline void
check_key(authz_span key)
{
    authz_reader reader = authz_reader_of(key);
    CHECK(read_number(&reader, 1) == 4);
    for (int scalar = 0; scalar < 9; scalar++) {
        read_scalar(&reader);
    }
    CHECK(read_number(&reader, 1) < 4);
    for (int list = 0; list < 3; list++) {
        for (uint32_t count = read_number(&reader, 2); count > 0; count--) {
            read_scalar(&reader);
            uint32_t values = read_number(&reader, 2);
            CHECK(values > 0);
            while (values-- > 0) {
                read_scalar(&reader);
            }
        }
    }
    uint32_t state = read_number(&reader, 1);
    uint32_t fields = read_number(&reader, 2);
    CHECK(state <= 5 && (fields == 0 || state == 5));
    while (fields-- > 0) {
        CHECK(read_number(&reader, 4) > 0);
        read_scalar(&reader);
    }
    CHECK(reader.at == reader.end);
}

static inline void
check_text(authz_span text)
{
    const uint8_t *at = text.data, *end = at + text.length;
    while (at < end) {
        size_t length = authz_utf8_length(at, end);
        CHECK(length > 0);
        at += length;
    }
}

static inline void
check_same(const authz_extraction *one, const authz_extraction *other)
{
    CHECK(one->fault == other->fault);
    CHECK(authz_span_equal(one->key, other->key));
    CHECK(authz_span_equal(one->request_id, other->request_id));
    CHECK(authz_span_equal(one->source, other->source));
}

/* Extracts with a new extraction that gets no memory now and then, or too little. */
static inline void
extract_short(const authz_plan *plan, authz_span raw, size_t every, size_t limit,
              authz_extract_status status, const authz_extraction *expected)
{
    counting counts = {.every = every};
    authz_allocator allocator = counting_allocator(&counts);
    authz_extraction extraction;
    authz_extraction_init(&extraction, &allocator, limit);
    for (int round = 0; round < 3; round++) {
        authz_extract_status got = authz_extract(plan, raw, &extraction);
        if (got != AUTHZ_EXTRACT_NO_MEMORY) {
            CHECK(got == status);
            check_same(&extraction, expected);
        } else {
            CHECK(extraction.key.length == 0);
        }
    }
    authz_extraction_trim(&extraction, 300);
    authz_extraction_release(&extraction);
    CHECK(counts.live == 0);
}

/* Extracts, checks what must hold whatever the bytes, and returns the status. */
static inline authz_extract_status
harness_extract(const authz_plan *plan, authz_span raw, authz_extraction *extraction)
{
    authz_extract_status status = authz_extract(plan, raw, extraction);
    CHECK(status != AUTHZ_EXTRACT_NO_MEMORY);
    if (status == AUTHZ_EXTRACT_OK) {
        check_key(extraction->key);
        check_text(extraction->request_id);
        check_text(extraction->source);
    } else {
        CHECK(extraction->key.length == 0);
    }
    CHECK((status == AUTHZ_EXTRACT_REFUSED) == (extraction->fault != AUTHZ_FAULT_NONE));
    return status;
}

/* All of it for one input, whose first byte chooses the plan. */
static inline void
harness_run(const uint8_t *data, size_t size)
{
    static counting counts;
    static authz_extraction used;
    if (used.out.allocator == NULL) {
        authz_allocator allocator = counting_allocator(&counts);
        authz_extraction_init(&used, &allocator, SIZE_MAX);
    }
    if (size == 0) {
        return;
    }
    /* A block of its own, so that a sanitizer sees a step past its end. */
    uint8_t *copy = malloc(size);
    CHECK(copy != NULL);
    memcpy(copy, data + 1, size - 1);
    authz_span raw = {copy, size - 1};
    const authz_plan *plan = harness_plan(data[0]);
    authz_extract_status status = harness_extract(plan, raw, &used);
    for (size_t every = 0; every < 8; every++) {
        extract_short(plan, raw, every, SIZE_MAX, status, &used);
    }
    for (size_t limit = 0; limit < 600; limit += 150) {
        extract_short(plan, raw, 0, limit, status, &used);
    }
    free(copy);
    authz_extraction_release(&used);
    CHECK(counts.live == 0);
}

#endif
