/* The decision cache of the core: its parts, random operations against a model, and what
 * is left when there is no memory. Run under AddressSanitizer, which also tells leaks. */

#include <math.h>

#include "cache_model.h"
#include "cache_table.h"
#include "siphash.h"

static void
siphash_gives_the_published_values(void)
{
    unsigned char seed[AUTHZ_SEED_BYTES], data[63];
    for (unsigned i = 0; i < sizeof data; i++) {
        data[i] = (unsigned char)i;
        seed[i % AUTHZ_SEED_BYTES] = (unsigned char)(i % AUTHZ_SEED_BYTES);
    }
    const authz_siphash_key key = authz_siphash_key_of(seed);
    /* 2-4: the paper's appendix A, and its authors' list of vectors. */
    CHECK(authz_siphash_2_4(key, data, 15) == 0xa129ca6149be45e5);
    CHECK(authz_siphash_2_4(key, data, 0) == 0x726fdb47dd0e0e31);
    CHECK(authz_siphash_2_4(key, data, 1) == 0x74f839c593dc67fd);
    CHECK(authz_siphash_2_4(key, data, 7) == 0xab0200f58b01d137);
    CHECK(authz_siphash_2_4(key, data, 8) == 0x93f5f5799a932462);
    CHECK(authz_siphash_2_4(key, data, 9) == 0x9e0082df0ba9e4b0);
    CHECK(authz_siphash_2_4(key, data, 63) == 0x958a324ceb064572);
    /* 1-3: as Rust's standard library, and as CPython 3.11 with PYTHONHASHSEED=0. */
    CHECK(authz_siphash_1_3(key, data, 0) == 0xabac0158050fc4dc);
    const authz_siphash_key zero = {0, 0};
    CHECK(authz_siphash_1_3(zero, data, 1) == 7541581120933061747u);
    CHECK(authz_siphash_1_3(zero, data, 19) == 657325654227320089u);
    CHECK(authz_siphash_1_3(zero, data, 55) == 5917965492351738128u);
}

/* Entries of the same hash, tag and home: nothing but the whole key tells them apart. */
static void
equal_hashes_do_not_share_an_entry(void)
{
    enum { COUNT = 120 };
    const authz_allocator allocator = authz_system_allocator();
    authz_cache_table table;
    CHECK(authz_cache_table_open(&table, 1000, &allocator));
    authz_entry *entries[COUNT];
    unsigned char keys[COUNT];
    const uint64_t hash = 0xffee00001234abcd;
    for (unsigned i = 0; i < COUNT; i++) {
        keys[i] = (unsigned char)i;
        CHECK(authz_cache_table_find(&table, hash, (authz_span){&keys[i], 1}) == NULL);
        entries[i] = calloc(1, sizeof *entries[i]);
        CHECK(entries[i] != NULL);
        entries[i]->key_len = 1;
        entries[i]->bytes[0] = keys[i];
        CHECK(authz_cache_table_insert(&table, hash, entries[i]));
        CHECK(authz_cache_table_is_whole(&table, i + 1));
    }
    uint64_t random = 1;
    for (unsigned left = COUNT; left > 0; left--) {
        const unsigned gone = (unsigned)(next_random(&random) % left);
        authz_entry *entry = entries[gone];
        const authz_span key = {entry->bytes, 1};
        CHECK(authz_cache_table_find(&table, hash, key) == entry);
        authz_cache_table_remove(&table, entry);
        CHECK(authz_cache_table_find(&table, hash, key) == NULL);
        free(entry);
        entries[gone] = entries[left - 1];
        CHECK(authz_cache_table_is_whole(&table, left - 1));
    }
    authz_cache_table_close(&table);
}

/* Nor does one key that begins with the other. */
static void
a_key_is_not_its_beginning(void)
{
    const authz_allocator allocator = authz_system_allocator();
    const uint64_t hash = 1;
    authz_cache_table table;
    authz_entry *entry = calloc(1, sizeof *entry);
    CHECK(entry != NULL && authz_cache_table_open(&table, 10, &allocator));
    memcpy(entry->bytes, "kk", 2);
    entry->key_len = 2;
    CHECK(authz_cache_table_insert(&table, hash, entry));
    CHECK(authz_cache_table_find(&table, hash, bytes_of("kk")) == entry);
    CHECK(authz_cache_table_find(&table, hash, bytes_of("k")) == NULL);
    CHECK(authz_cache_table_find(&table, hash, bytes_of("")) == NULL);
    authz_cache_table_close(&table);
    free(entry);
}

static void
an_answer_needs_room(void)
{
    const authz_allocator allocator = authz_system_allocator();
    authz_cache *cache = authz_cache_create(10, 10000, SEED, &allocator);
    const authz_decision decision = {.response = bytes_of("response"),
                                  .record = bytes_of("record"),
                                  .reason = 7,
                                  .expires_s = INFINITY,
                                  .valid_from_s = -INFINITY,
                                  .valid_until_s = INFINITY};
    unsigned char buffer[14];
    authz_answer answer;
    const authz_instant now = {0, 0};
    CHECK(authz_cache_put(cache, bytes_of("k"), bytes_of("v"), &decision) == AUTHZ_CACHE_OK);
    CHECK(authz_cache_get(cache, bytes_of("k"), bytes_of("v"), now, buffer, 13, &answer) ==
          AUTHZ_CACHE_SMALL_BUFFER);
    CHECK(answer.response_len + answer.record_len == sizeof buffer);
    CHECK(authz_cache_stats(cache).hits == 0);
    CHECK(authz_cache_get(cache, bytes_of("k"), bytes_of("v"), now, buffer, sizeof buffer,
                       &answer) == AUTHZ_CACHE_OK);
    CHECK(memcmp(buffer, "responserecord", sizeof buffer) == 0 && answer.reason == 7);
    CHECK(authz_cache_stats(cache).hits == 1);
    authz_cache_destroy(cache);
}

static void
values_that_are_too_long_are_not_kept(void)
{
    const authz_allocator allocator = authz_system_allocator();
    authz_cache *cache = authz_cache_create(10, SIZE_MAX, SEED, &allocator);
    unsigned char *large = calloc(1, AUTHZ_CACHE_MAX_VALUE_BYTES + 1);
    CHECK(large != NULL);
    authz_decision decision = {.response = {large, AUTHZ_CACHE_MAX_VALUE_BYTES}, .expires_s = 1};
    CHECK(authz_cache_put(cache, bytes_of("k"), bytes_of("v"), &decision) == AUTHZ_CACHE_OK);
    check_whole(cache);
    decision.response.length++;
    CHECK(authz_cache_put(cache, bytes_of("k"), bytes_of("v"), &decision) == AUTHZ_CACHE_NOT_KEPT);
    CHECK(authz_cache_stats(cache).entries == 0);
    free(large);
    authz_cache_destroy(cache);
}

/* Each put under a revision of its own: they are freed with their entries. */
static void
revisions_go_with_their_entries(void)
{
    const authz_allocator allocator = authz_system_allocator();
    authz_cache *cache = authz_cache_create(200, 1u << 20, SEED, &allocator);
    const authz_decision decision = {.expires_s = 1, .valid_until_s = 1};
    char key[16];
    authz_answer answer;
    for (unsigned i = 0; i < 3000; i++) {
        const int len = snprintf(key, sizeof key, "%u", i);
        const authz_span bytes = {(const unsigned char *)key, (size_t)len};
        CHECK(authz_cache_put(cache, bytes, bytes, &decision) == AUTHZ_CACHE_OK);
        CHECK(authz_cache_get(cache, bytes, bytes, (authz_instant){0, 0}, NULL, 0, &answer) ==
              AUTHZ_CACHE_OK);
    }
    check_whole(cache);
    authz_cache_clear(cache);
    check_whole(cache);
    authz_cache_destroy(cache);
}

static authz_cache_status
put_lasting(authz_cache *cache, authz_span key, double expires_s, double from_s,
            double until_s)
{
    const authz_decision decision = {.response = bytes_of("r"),
                                     .expires_s = expires_s,
                                     .valid_from_s = from_s,
                                     .valid_until_s = until_s};
    return authz_cache_put(cache, key, bytes_of("v"), &decision);
}

static authz_cache_status
get_at(authz_cache *cache, authz_span key, double wall_s, double steady_s)
{
    unsigned char buffer[8];
    authz_answer answer;
    const authz_instant now = {wall_s, steady_s};
    return authz_cache_get(cache, key, bytes_of("v"), now, buffer, sizeof buffer, &answer);
}

/* A comparison with what is no number is false, and false must be a miss. */
static void
what_is_no_number_never_answers(void)
{
    const authz_allocator allocator = authz_system_allocator();
    authz_cache *cache = authz_cache_create(10, 10000, SEED, &allocator);
    const authz_span key = bytes_of("k");
    static const double lasting[][3] = {
        {NAN, -INFINITY, INFINITY}, {INFINITY, NAN, INFINITY}, {INFINITY, -INFINITY, NAN}};
    for (size_t i = 0; i < sizeof lasting / sizeof *lasting; i++) {
        CHECK(put_lasting(cache, key, lasting[i][0], lasting[i][1], lasting[i][2]) ==
              AUTHZ_CACHE_OK);
        CHECK(get_at(cache, key, 0, 0) == AUTHZ_CACHE_MISS);
    }
    static const double moments[][2] = {{NAN, 0}, {0, NAN}, {0, INFINITY}};
    for (size_t i = 0; i < sizeof moments / sizeof *moments; i++) {
        CHECK(put_lasting(cache, key, INFINITY, -INFINITY, INFINITY) == AUTHZ_CACHE_OK);
        CHECK(get_at(cache, key, moments[i][0], moments[i][1]) == AUTHZ_CACHE_MISS);
        /* Ended for good, even before the begin of time. */
        CHECK(get_at(cache, key, 0, -INFINITY) == AUTHZ_CACHE_MISS);
    }
    check_whole(cache);
    authz_cache_destroy(cache);
}

static void
a_clock_that_goes_back_revives_nothing(void)
{
    const authz_allocator allocator = authz_system_allocator();
    authz_cache *cache = authz_cache_create(10, 10000, SEED, &allocator);
    const authz_span key = bytes_of("");
    CHECK(put_lasting(cache, key, 10, 100, 200) == AUTHZ_CACHE_OK);
    CHECK(get_at(cache, key, 150, 9) == AUTHZ_CACHE_OK);
    CHECK(get_at(cache, key, 201, 9) == AUTHZ_CACHE_MISS);
    CHECK(get_at(cache, key, 150, 9) == AUTHZ_CACHE_MISS);
    CHECK(put_lasting(cache, key, 10, 100, 200) == AUTHZ_CACHE_OK);
    CHECK(get_at(cache, key, 150, 10) == AUTHZ_CACHE_MISS);
    CHECK(get_at(cache, key, 150, 9) == AUTHZ_CACHE_MISS);
    authz_cache_destroy(cache);
}

/* Bounds that leave room for one entry, exactly, and for none. */
static void
the_smallest_caches_are_bounded_too(void)
{
    const authz_allocator allocator = authz_system_allocator();
    const size_t one = 1 + 1 + AUTHZ_ENTRY_OVERHEAD; /* key, response */
    static const char *const keys[] = {"a", "b", "a"};
    for (size_t spare = 0; spare < 2; spare++) {
        authz_cache *bytes = authz_cache_create(SIZE_MAX, one - spare, SEED, &allocator);
        authz_cache *entries = authz_cache_create(1 - spare, SIZE_MAX, SEED, &allocator);
        const authz_cache_status expected = spare ? AUTHZ_CACHE_NOT_KEPT : AUTHZ_CACHE_OK;
        for (size_t i = 0; i < 3; i++) {
            CHECK(put_lasting(bytes, bytes_of(keys[i]), 1, 0, 0) == expected);
            CHECK(put_lasting(entries, bytes_of(keys[i]), 1, 0, 0) == expected);
            check_whole(bytes);
            check_whole(entries);
        }
        CHECK(authz_cache_stats(bytes).entries == 1 - spare);
        CHECK(authz_cache_stats(entries).entries == 1 - spare);
        CHECK(authz_cache_stats(entries).evictions == 2 - 2 * spare);
        CHECK((get_at(entries, bytes_of("a"), 0, 0) == AUTHZ_CACHE_OK) == (spare == 0));
        CHECK(get_at(entries, bytes_of("b"), 0, 0) == AUTHZ_CACHE_MISS);
        authz_cache_destroy(bytes);
        authz_cache_destroy(entries);
    }
}

/* An allocator that counts what it gave and got back, and fails as it is told. */
typedef struct {
    size_t given, returned;
    uint64_t random;
    unsigned one_in; /* 0: never fails */
    size_t next;     /* that many from now fails, if it is not 0 */
} faulty_memory;

static void *
faulty_allocate(void *context, size_t size)
{
    faulty_memory *self = context;
    if ((self->one_in != 0 && next_random(&self->random) % self->one_in == 0) ||
        (self->next != 0 && --self->next == 0)) {
        return NULL;
    }
    self->given++;
    return malloc(size);
}

static void
faulty_release(void *context, void *memory)
{
    ((faulty_memory *)context)->returned += memory != NULL;
    free(memory);
}

static void
do_something(put_so_far *model, authz_cache *cache, uint64_t *random, const faulty_memory *faulty)
{
    const unsigned key = (unsigned)next_random(random);
    const unsigned revision = next_random(random) % 8 == 0 ? key : 0;
    const unsigned choice = (unsigned)(next_random(random) % 100);
    if (choice < 45) {
        const size_t capacity = next_random(random) % 8 == 0 ? 10 : 1024;
        (void)model_get(model, cache, key, revision, capacity);
    } else if (choice < 85) {
        const authz_cache_status status =
            model_put(model, cache, key, revision, (double)(key % 7), (double)(key % 9),
                      key % 251);
        if (status == AUTHZ_CACHE_OK && key % 7 > 0) {
            CHECK(model_get(model, cache, key, revision, 1024) == AUTHZ_CACHE_OK);
        } else if (status == AUTHZ_CACHE_NO_MEMORY) {
            CHECK(faulty->one_in != 0 || faulty->given != 0);
            CHECK(model_get(model, cache, key, revision, 1024) == AUTHZ_CACHE_MISS);
        }
    } else if (choice < 94) {
        model->now.steady_s += (double)(key % 3) / 2;
        model->now.wall_s += (double)(key % 5) / 2 - 1;
    } else if (choice < 98) {
        authz_keys *keys = NULL;
        const size_t entries = authz_cache_stats(cache).entries;
        const authz_cache_status status = authz_cache_latest(cache, key % 50, &keys);
        if (status == AUTHZ_CACHE_OK) {
            CHECK(keys->count == (entries < key % 50 ? entries : key % 50));
            authz_keys_free(cache, keys);
        } else {
            CHECK(status == AUTHZ_CACHE_NO_MEMORY);
        }
    } else if (choice == 98) {
        authz_cache_clear(cache);
        CHECK(authz_cache_stats(cache).entries == 0);
    }
    check_whole(cache);
}

static void
random_operations_agree_with_the_model(unsigned one_in, size_t max_entries,
                                       size_t max_bytes)
{
    faulty_memory faulty = {.random = one_in, .one_in = one_in};
    const authz_allocator allocator = {&faulty, faulty_allocate, faulty_release};
    put_so_far model = {.now = {1000, 0}};
    uint64_t random = max_entries;
    authz_cache *cache = NULL;
    for (unsigned i = 0; cache == NULL; i++) { /* even making one may fail */
        faulty.one_in = i < 100 ? one_in : 0;
        cache = authz_cache_create(max_entries, max_bytes, SEED, &allocator);
    }
    faulty.one_in = one_in;
    for (unsigned i = 0; i < 15000; i++) {
        do_something(&model, cache, &random, &faulty);
    }
    authz_cache_destroy(cache);
    CHECK(faulty.given == faulty.returned);
}

/* The first allocation fails, then only the second, and so on, each on a new cache. */
static void
whichever_allocation_fails_the_cache_stays_whole(void)
{
    for (size_t n = 1; n < 120; n++) {
        faulty_memory faulty = {.next = n};
        const authz_allocator allocator = {&faulty, faulty_allocate, faulty_release};
        authz_cache *cache = authz_cache_create(1000, 100000, SEED, &allocator);
        if (cache != NULL) {
            put_so_far model = {.now = {1000, 0}};
            for (unsigned i = 0; i < MODEL_KEYS; i++) {
                (void)model_put(&model, cache, i, i, 10, 10, i);
                check_whole(cache);
                (void)model_get(&model, cache, i, i, 1024);
            }
            authz_keys *keys = NULL;
            if (authz_cache_latest(cache, MODEL_KEYS, &keys) == AUTHZ_CACHE_OK) {
                authz_keys_free(cache, keys);
            }
            check_whole(cache);
        }
        authz_cache_destroy(cache);
        CHECK(faulty.given == faulty.returned);
    }
}

/* A segment that can't grow takes entries as long as it has any slot. */
static void
growth_that_fails_costs_nothing_that_is_there(void)
{
    faulty_memory faulty = {0};
    const authz_allocator allocator = {&faulty, faulty_allocate, faulty_release};
    authz_cache_table table;
    CHECK(authz_cache_table_open(&table, 1, &allocator));
    authz_entry *entries[8];
    for (unsigned i = 0; i < 8; i++) {
        entries[i] = calloc(1, sizeof *entries[i]);
        CHECK(entries[i] != NULL);
    }
    CHECK(authz_cache_table_insert(&table, 0, entries[0]));
    faulty.one_in = 1;
    for (unsigned i = 1; i < 7; i++) {
        CHECK(authz_cache_table_insert(&table, i, entries[i]));
    }
    CHECK(!authz_cache_table_insert(&table, 7, entries[7]));
    CHECK(authz_cache_table_is_whole(&table, 7));
    authz_cache_table_close(&table);
    for (unsigned i = 0; i < 8; i++) {
        free(entries[i]);
    }
}

int
main(void)
{
    siphash_gives_the_published_values();
    equal_hashes_do_not_share_an_entry();
    a_key_is_not_its_beginning();
    an_answer_needs_room();
    values_that_are_too_long_are_not_kept();
    revisions_go_with_their_entries();
    what_is_no_number_never_answers();
    a_clock_that_goes_back_revives_nothing();
    the_smallest_caches_are_bounded_too();
    growth_that_fails_costs_nothing_that_is_there();
    whichever_allocation_fails_the_cache_stays_whole();
    static const unsigned failing[] = {0, 1, 2, 3, 7};
    for (size_t i = 0; i < sizeof failing / sizeof *failing; i++) {
        const unsigned one_in = failing[i];
        random_operations_agree_with_the_model(one_in, 30, 1u << 20);
        random_operations_agree_with_the_model(one_in, 100, 3000);
        random_operations_agree_with_the_model(one_in, 3, 3000);
        random_operations_agree_with_the_model(one_in, 0, 3000);
    }
    return 0;
}
