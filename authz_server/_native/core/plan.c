#include "plan.h"

/* Of names, of paths of either kind, and of bytes in all. */
#define MAX_ENTRIES 4096
#define MAX_BYTES (16u << 20)

static const authz_span own_names[AUTHZ_OWN_NAMES] = {
    [AUTHZ_CONTENT_TYPE] = {(const uint8_t *)"content-type", 12},
    [AUTHZ_CONTENT_ENCODING] = {(const uint8_t *)"content-encoding", 16},
    [AUTHZ_GRPC_ENCODING] = {(const uint8_t *)"grpc-encoding", 13},
    /* Set by Envoy's ext_authz filter; a client's copy never reaches the check. */
    [AUTHZ_PARTIAL_BODY] = {(const uint8_t *)"x-envoy-auth-partial-body", 25},
    /* What the caller is given to quote. */
    [AUTHZ_REQUEST_ID] = {(const uint8_t *)"x-request-id", 12},
};

/* Of the length and the last bytes, read at once: paths of one service differ there. The
 * multiplier is 2^64 divided by the golden ratio (Knuth, The Art of Computer Programming,
 * 6.4). */
static uint32_t
hash_of(authz_span key)
{
    uint64_t last = 0;
    if (key.length >= sizeof last) {
        memcpy(&last, key.data + key.length - sizeof last, sizeof last);
    } else {
        for (size_t index = 0; index < key.length; index++) {
            last = last << 8 | key.data[index];
        }
    }
    return (uint32_t)((last ^ key.length) * 0x9e3779b97f4a7c15u >> 32);
}

uint32_t
authz_table_find(const authz_table *table, authz_span key)
{
    for (uint32_t slot = hash_of(key);; slot++) {
        uint32_t index = table->slots[slot & table->mask];
        if (index == AUTHZ_NOT_FOUND || authz_span_equal(table->keys[index], key)) {
            return index;
        }
    }
}

/* Returns the index of `key`, which is added if it is new. There is room for it. */
static uint32_t
table_add(authz_table *table, authz_span key)
{
    uint32_t index = authz_table_find(table, key);
    if (index != AUTHZ_NOT_FOUND) {
        return index;
    }
    uint32_t slot = hash_of(key);
    while (table->slots[slot & table->mask] != AUTHZ_NOT_FOUND) {
        slot++;
    }
    table->slots[slot & table->mask] = table->count;
    table->keys[table->count] = key;
    return table->count++;
}

/* A bump allocator. It first only counts, and then hands out parts of one block. */
typedef struct arena {
    uint8_t *base;
    size_t used;
} arena;

static void *
arena_take(arena *from, size_t size)
{
    size_t begin = (from->used + 15) & ~(size_t)15;
    from->used = begin + size;
    return from->base == NULL ? NULL : from->base + begin;
}

static authz_span
arena_copy(arena *from, authz_span bytes)
{
    /* One more, so that an empty span has an address of its own. */
    uint8_t *data = arena_take(from, bytes.length + 1);
    if (data != NULL && bytes.length > 0) {
        memcpy(data, bytes.data, bytes.length);
    }
    return (authz_span){data, bytes.length};
}

static void
arena_table(arena *from, authz_table *table, size_t room)
{
    size_t size = 8;
    while (size < room * 2) {
        size *= 2;
    }
    table->keys = arena_take(from, room * sizeof *table->keys);
    table->slots = arena_take(from, size * sizeof *table->slots);
    table->mask = (uint32_t)(size - 1);
    table->count = 0;
    if (table->slots != NULL) {
        memset(table->slots, 0xFF, size * sizeof *table->slots);
    }
}

/* Lays out what `plan` consists of. Called twice: without a base, to learn how much it
 * takes, and with one. Both times it takes the same parts in the same order. */
static void
lay_out(arena *from, const authz_plan_source *source, authz_plan *plan)
{
    bool is_real = from->base != NULL;
    *plan = (authz_plan){0};
    size_t names = AUTHZ_OWN_NAMES;
    for (size_t list = 0; list < AUTHZ_HEADER_LISTS; list++) {
        names += source->lists[list].count;
    }
    arena_table(from, &plan->names, names);
    for (size_t name = 0; is_real && name < AUTHZ_OWN_NAMES; name++) {
        table_add(&plan->names, own_names[name]);
    }
    for (size_t list = 0; list < AUTHZ_HEADER_LISTS; list++) {
        size_t count = source->lists[list].count;
        plan->lists[list].names = arena_take(from, count * sizeof(uint32_t));
        plan->lists[list].count = (uint32_t)count;
        for (size_t index = 0; index < count; index++) {
            authz_span name = arena_copy(from, source->lists[list].names[index]);
            if (is_real) {
                plan->lists[list].names[index] = table_add(&plan->names, name);
            }
        }
    }
    size_t count = source->outline_count;
    arena_table(from, &plan->outline_paths, count);
    plan->outlines = arena_take(from, count * sizeof *plan->outlines);
    for (size_t index = 0; index < count; index++) {
        authz_outline outline = source->outlines[index];
        outline.path = arena_copy(from, outline.path);
        authz_kept_field *fields =
            arena_take(from, outline.count * sizeof *outline.fields);
        if (is_real) {
            for (size_t field = 0; field < outline.count; field++) {
                fields[field] = outline.fields[field];
            }
            outline.fields = fields;
            uint32_t before = plan->outline_paths.count;
            if (table_add(&plan->outline_paths, outline.path) == before) {
                plan->outlines[before] = outline;
            }
        }
    }
    count = source->json_model_count;
    arena_table(from, &plan->json_paths, count);
    plan->json_keys = arena_take(from, count * sizeof *plan->json_keys);
    for (size_t index = 0; index < count; index++) {
        authz_span path = arena_copy(from, source->json_models[index].path);
        authz_span key = arena_copy(from, source->json_models[index].key);
        if (is_real) {
            uint32_t before = plan->json_paths.count;
            if (table_add(&plan->json_paths, path) == before) {
                plan->json_keys[before] = key;
            }
        }
    }
    plan->claims_name = arena_copy(from, source->claims_name);
    plan->is_for_twin = source->is_for_twin;
}

/* Whether the plan is of a size that sums cannot overflow at. */
static bool
is_measured(const authz_plan_source *source)
{
    size_t bytes = source->claims_name.length;
    if (bytes > MAX_BYTES) {
        return false;
    }
    for (size_t list = 0; list < AUTHZ_HEADER_LISTS; list++) {
        if (source->lists[list].count > MAX_ENTRIES) {
            return false;
        }
        for (size_t index = 0; index < source->lists[list].count; index++) {
            authz_span name = source->lists[list].names[index];
            if (name.length > MAX_BYTES || (bytes += name.length) > MAX_BYTES) {
                return false;
            }
        }
    }
    if (source->outline_count > MAX_ENTRIES || source->json_model_count > MAX_ENTRIES) {
        return false;
    }
    for (size_t index = 0; index < source->outline_count; index++) {
        const authz_outline *outline = &source->outlines[index];
        if (outline->count > MAX_ENTRIES || outline->path.length > MAX_BYTES
            || (bytes += outline->path.length) > MAX_BYTES) {
            return false;
        }
    }
    for (size_t index = 0; index < source->json_model_count; index++) {
        const authz_json_model *model = &source->json_models[index];
        if (model->path.length > MAX_BYTES || model->key.length > MAX_BYTES
            || (bytes += model->path.length + model->key.length) > MAX_BYTES) {
            return false;
        }
    }
    return true;
}

authz_plan_status
authz_plan_make(const authz_plan_source *source, const authz_allocator *allocator,
                authz_plan **plan)
{
    if (!is_measured(source)) {
        return AUTHZ_PLAN_TOO_LARGE;
    }
    authz_plan counted;
    arena counting = {NULL, 0};
    arena_take(&counting, sizeof counted);
    lay_out(&counting, source, &counted);
    arena block = {allocator->allocate(allocator->context, counting.used), 0};
    if (block.base == NULL) {
        return AUTHZ_PLAN_NO_MEMORY;
    }
    authz_plan *made = arena_take(&block, sizeof *made);
    lay_out(&block, source, made);
    made->allocator = *allocator;
    *plan = made;
    return AUTHZ_PLAN_OK;
}

void
authz_plan_free(authz_plan *plan)
{
    if (plan != NULL) {
        authz_allocator allocator = plan->allocator;
        allocator.release(allocator.context, plan);
    }
}
