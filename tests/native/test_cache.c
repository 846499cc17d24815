/* The decision cache of the core: its parts, random operations against a model, and what
 * is left when there is no memory. Run under AddressSanitizer, which also tells leaks. */

#include <math.h>

#include "cache_model.h"
#include "cache_table.h"
#include "siphash.h"

static void
siphash_gives_the_published_values(void)
{
    unsigned char seed[DC_SEED_BYTES], data[63];
    for (unsigned i = 0; i < sizeof data; i++) {
        data[i] = (unsigned char)i;
        seed[i % DC_SEED_BYTES] = (unsigned char)(i % DC_SEED_BYTES);
    }
    const dc_siphash_key key = dc_siphash_key_of(seed);
    /* 2-4: the paper's appendix A, and its authors' list of vectors. */
    CHECK(dc_siphash_2_4(key, data, 15) == 0xa129ca6149be45e5);
    CHECK(dc_siphash_2_4(key, data, 0) == 0x726fdb47dd0e0e31);
    CHECK(dc_siphash_2_4(key, data, 1) == 0x74f839c593dc67fd);
    CHECK(dc_siphash_2_4(key, data, 7) == 0xab0200f58b01d137);
    CHECK(dc_siphash_2_4(key, data, 8) == 0x93f5f5799a932462);
    CHECK(dc_siphash_2_4(key, data, 9) == 0x9e0082df0ba9e4b0);
    CHECK(dc_siphash_2_4(key, data, 63) == 0x958a324ceb064572);
    /* 1-3: as Rust's standard library, and as CPython 3.11 with PYTHONHASHSEED=0. */
    CHECK(dc_siphash_1_3(key, data, 0) == 0xabac0158050fc4dc);
    const dc_siphash_key zero = {0, 0};
    CHECK(dc_siphash_1_3(zero, data, 1) == 7541581120933061747u);
    CHECK(dc_siphash_1_3(zero, data, 19) == 657325654227320089u);
    CHECK(dc_siphash_1_3(zero, data, 55) == 5917965492351738128u);
}

/* Entries of the same hash, tag and home: nothing but the whole key tells them apart. */
static void
equal_hashes_do_not_share_an_entry(void)
{
    enum { COUNT = 120 };
    const dc_allocator allocator = dc_system_allocator();
    dc_table table;
    CHECK(dc_table_open(&table, 1000, &allocator));
    dc_entry *entries[COUNT];
    unsigned char keys[COUNT];
    const uint64_t hash = 0xffee00001234abcd;
    for (unsigned i = 0; i < COUNT; i++) {
        keys[i] = (unsigned char)i;
        CHECK(dc_table_find(&table, hash, (dc_bytes){&keys[i], 1}) == NULL);
        entries[i] = calloc(1, sizeof *entries[i]);
        CHECK(entries[i] != NULL);
        entries[i]->key_len = 1;
        entries[i]->bytes[0] = keys[i];
        CHECK(dc_table_insert(&table, hash, entries[i]));
        CHECK(dc_table_is_whole(&table, i + 1));
    }
    uint64_t random = 1;
    for (unsigned left = COUNT; left > 0; left--) {
        const unsigned gone = (unsigned)(next_random(&random) % left);
        dc_entry *entry = entries[gone];
        const dc_bytes key = {entry->bytes, 1};
        CHECK(dc_table_find(&table, hash, key) == entry);
        dc_table_remove(&table, entry);
        CHECK(dc_table_find(&table, hash, key) == NULL);
        free(entry);
        entries[gone] = entries[left - 1];
        CHECK(dc_table_is_whole(&table, left - 1));
    }
    dc_table_close(&table);
}

/* Nor does one key that begins with the other. */
static void
a_key_is_not_its_beginning(void)
{
    const dc_allocator allocator = dc_system_allocator();
    const uint64_t hash = 1;
    dc_table table;
    dc_entry *entry = calloc(1, sizeof *entry);
    CHECK(entry != NULL && dc_table_open(&table, 10, &allocator));
    memcpy(entry->bytes, "kk", 2);
    entry->key_len = 2;
    CHECK(dc_table_insert(&table, hash, entry));
    CHECK(dc_table_find(&table, hash, bytes_of("kk")) == entry);
    CHECK(dc_table_find(&table, hash, bytes_of("k")) == NULL);
    CHECK(dc_table_find(&table, hash, bytes_of("")) == NULL);
    dc_table_close(&table);
    free(entry);
}

static void
an_answer_needs_room(void)
{
    const dc_allocator allocator = dc_system_allocator();
    dc_cache *cache = dc_cache_create(10, 10000, SEED, &allocator);
    const dc_decision decision = {.response = bytes_of("response"),
                                  .record = bytes_of("record"),
                                  .reason = 7,
                                  .expires_s = INFINITY,
                                  .valid_from_s = -INFINITY,
                                  .valid_until_s = INFINITY};
    unsigned char buffer[14];
    dc_answer answer;
    const dc_instant now = {0, 0};
    CHECK(dc_cache_put(cache, bytes_of("k"), bytes_of("v"), &decision) == DC_OK);
    CHECK(dc_cache_get(cache, bytes_of("k"), bytes_of("v"), now, buffer, 13, &answer) ==
          DC_SMALL_BUFFER);
    CHECK(answer.response_len + answer.record_len == sizeof buffer);
    CHECK(dc_cache_stats(cache).hits == 0);
    CHECK(dc_cache_get(cache, bytes_of("k"), bytes_of("v"), now, buffer, sizeof buffer,
                       &answer) == DC_OK);
    CHECK(memcmp(buffer, "responserecord", sizeof buffer) == 0 && answer.reason == 7);
    CHECK(dc_cache_stats(cache).hits == 1);
    dc_cache_destroy(cache);
}

static void
values_that_are_too_long_are_not_kept(void)
{
    const dc_allocator allocator = dc_system_allocator();
    dc_cache *cache = dc_cache_create(10, SIZE_MAX, SEED, &allocator);
    unsigned char *large = calloc(1, DC_MAX_VALUE_BYTES + 1);
    CHECK(large != NULL);
    dc_decision decision = {.response = {large, DC_MAX_VALUE_BYTES}, .expires_s = 1};
    CHECK(dc_cache_put(cache, bytes_of("k"), bytes_of("v"), &decision) == DC_OK);
    check_whole(cache);
    decision.response.len++;
    CHECK(dc_cache_put(cache, bytes_of("k"), bytes_of("v"), &decision) == DC_NOT_KEPT);
    CHECK(dc_cache_stats(cache).entries == 0);
    free(large);
    dc_cache_destroy(cache);
}

/* Each put under a revision of its own: they are freed with their entries. */
static void
revisions_go_with_their_entries(void)
{
    const dc_allocator allocator = dc_system_allocator();
    dc_cache *cache = dc_cache_create(200, 1u << 20, SEED, &allocator);
    const dc_decision decision = {.expires_s = 1, .valid_until_s = 1};
    char key[16];
    dc_answer answer;
    for (unsigned i = 0; i < 3000; i++) {
        const int len = snprintf(key, sizeof key, "%u", i);
        const dc_bytes bytes = {(const unsigned char *)key, (size_t)len};
        CHECK(dc_cache_put(cache, bytes, bytes, &decision) == DC_OK);
        CHECK(dc_cache_get(cache, bytes, bytes, (dc_instant){0, 0}, NULL, 0, &answer) ==
              DC_OK);
    }
    check_whole(cache);
    dc_cache_clear(cache);
    check_whole(cache);
    dc_cache_destroy(cache);
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
do_something(put_so_far *model, dc_cache *cache, uint64_t *random, const faulty_memory *faulty)
{
    const unsigned key = (unsigned)next_random(random);
    const unsigned revision = next_random(random) % 8 == 0 ? key : 0;
    const unsigned choice = (unsigned)(next_random(random) % 100);
    if (choice < 45) {
        const size_t capacity = next_random(random) % 8 == 0 ? 10 : 1024;
        (void)model_get(model, cache, key, revision, capacity);
    } else if (choice < 85) {
        const dc_status status =
            model_put(model, cache, key, revision, (double)(key % 7), (double)(key % 9),
                      key % 251);
        if (status == DC_OK && key % 7 > 0) {
            CHECK(model_get(model, cache, key, revision, 1024) == DC_OK);
        } else if (status == DC_NO_MEMORY) {
            CHECK(faulty->one_in != 0 || faulty->given != 0);
            CHECK(model_get(model, cache, key, revision, 1024) == DC_MISS);
        }
    } else if (choice < 94) {
        model->now.steady_s += (double)(key % 3) / 2;
        model->now.wall_s += (double)(key % 5) / 2 - 1;
    } else if (choice < 98) {
        dc_keys *keys = NULL;
        const size_t entries = dc_cache_stats(cache).entries;
        const dc_status status = dc_cache_latest(cache, key % 50, &keys);
        if (status == DC_OK) {
            CHECK(keys->count == (entries < key % 50 ? entries : key % 50));
            dc_keys_free(cache, keys);
        } else {
            CHECK(status == DC_NO_MEMORY);
        }
    } else if (choice == 98) {
        dc_cache_clear(cache);
        CHECK(dc_cache_stats(cache).entries == 0);
    }
    check_whole(cache);
}

static void
random_operations_agree_with_the_model(unsigned one_in, size_t max_entries,
                                       size_t max_bytes)
{
    faulty_memory faulty = {.random = one_in, .one_in = one_in};
    const dc_allocator allocator = {&faulty, faulty_allocate, faulty_release};
    put_so_far model = {.now = {1000, 0}};
    uint64_t random = max_entries;
    dc_cache *cache = NULL;
    for (unsigned i = 0; cache == NULL; i++) { /* even making one may fail */
        faulty.one_in = i < 100 ? one_in : 0;
        cache = dc_cache_create(max_entries, max_bytes, SEED, &allocator);
    }
    faulty.one_in = one_in;
    for (unsigned i = 0; i < 15000; i++) {
        do_something(&model, cache, &random, &faulty);
    }
    dc_cache_destroy(cache);
    CHECK(faulty.given == faulty.returned);
}

/* The first allocation fails, then only the second, and so on, each on a new cache. */
static void
whichever_allocation_fails_the_cache_stays_whole(void)
{
    for (size_t n = 1; n < 120; n++) {
        faulty_memory faulty = {.next = n};
        const dc_allocator allocator = {&faulty, faulty_allocate, faulty_release};
        dc_cache *cache = dc_cache_create(1000, 100000, SEED, &allocator);
        if (cache != NULL) {
            put_so_far model = {.now = {1000, 0}};
            for (unsigned i = 0; i < MODEL_KEYS; i++) {
                (void)model_put(&model, cache, i, i, 10, 10, i);
                check_whole(cache);
                (void)model_get(&model, cache, i, i, 1024);
            }
            dc_keys *keys = NULL;
            if (dc_cache_latest(cache, MODEL_KEYS, &keys) == DC_OK) {
                dc_keys_free(cache, keys);
            }
            check_whole(cache);
        }
        dc_cache_destroy(cache);
        CHECK(faulty.given == faulty.returned);
    }
}

/* A segment that can't grow takes entries as long as it has any slot. */
static void
growth_that_fails_costs_nothing_that_is_there(void)
{
    faulty_memory faulty = {0};
    const dc_allocator allocator = {&faulty, faulty_allocate, faulty_release};
    dc_table table;
    CHECK(dc_table_open(&table, 1, &allocator));
    dc_entry *entries[8];
    for (unsigned i = 0; i < 8; i++) {
        entries[i] = calloc(1, sizeof *entries[i]);
        CHECK(entries[i] != NULL);
    }
    CHECK(dc_table_insert(&table, 0, entries[0]));
    faulty.one_in = 1;
    for (unsigned i = 1; i < 7; i++) {
        CHECK(dc_table_insert(&table, i, entries[i]));
    }
    CHECK(!dc_table_insert(&table, 7, entries[7]));
    CHECK(dc_table_is_whole(&table, 7));
    dc_table_close(&table);
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
