/* Any sequence of operations: answers are those of the model, and the cache is whole. */

#include "cache_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2) {
        return 0;
    }
    const authz_allocator allocator = authz_system_allocator();
    const size_t max_entries = data[0] % 48, max_bytes = (size_t)data[1] * 64;
    authz_cache *cache = authz_cache_create(max_entries, max_bytes, SEED, &allocator);
    CHECK(cache != NULL);
    put_so_far model = {.now = {1000, 0}};
    for (size_t i = 2; i + 3 <= size; i += 3) {
        const unsigned key = data[i + 1], more = data[i + 2];
        switch (data[i] % 6) {
        case 0:
        case 1:
            (void)model_put(&model, cache, key, more >> 6, more & 7, (more >> 3) & 7,
                            key + more);
            break;
        case 2:
        case 3:
            (void)model_get(&model, cache, key, more >> 6, more % 2 ? 1024u : more);
            break;
        case 4:
            model.now.steady_s += key / 32;
            model.now.wall_s += (more - 128.0) / 32;
            break;
        default: {
            authz_keys *keys;
            if (more == 255) {
                authz_cache_clear(cache);
            } else if (authz_cache_latest(cache, key, &keys) == AUTHZ_CACHE_OK) {
                CHECK(keys->count <= key);
                authz_keys_free(cache, keys);
            }
        }
        }
        check_whole(cache);
    }
    authz_cache_destroy(cache);
    return 0;
}
