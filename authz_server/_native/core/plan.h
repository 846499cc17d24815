/* What to extract: the configured inputs of a decision, made ready for the extractor.
 *
 * Twin: authz_server/facts/plan.py. A plan never changes after it was made, so any
 * number of threads may use it at once.
 */

#ifndef AUTHZ_CORE_PLAN_H
#define AUTHZ_CORE_PLAN_H

#include "allocator.h"
#include "wire.h"

/* How a field of a gRPC message becomes a fact. */
typedef enum authz_keep {
    AUTHZ_KEEP_VALUE,    /* a singular field: its value; twice is malformed */
    AUTHZ_KEEP_EACH,     /* a repeated field: every entry */
    AUTHZ_KEEP_PRESENCE  /* only whether it is there */
} authz_keep;

typedef struct authz_kept_field {
    uint32_t number;
    authz_keep keep;
} authz_kept_field;

/* More than that in one outline, and the twin reads it. */
#define AUTHZ_MAX_OUTLINE 64

/* The fields that are kept of the one message of a gRPC path. */
typedef struct authz_outline {
    authz_span path;
    const authz_kept_field *fields;
    size_t count;
} authz_outline;

/* The key at the top of the JSON body of a path, without its query. */
typedef struct authz_json_model {
    authz_span path;
    authz_span key;
} authz_json_model;

/* The lists of header names, in the order of the canonical bytes. */
enum {
    AUTHZ_HEADERS,
    AUTHZ_CREDENTIALS,
    AUTHZ_SIGNALS,
    AUTHZ_HEADER_LISTS
};

/* What a plan is made from. */
typedef struct authz_plan_source {
    struct {
        const authz_span *names;
        size_t count;
    } lists[AUTHZ_HEADER_LISTS];
    const authz_outline *outlines;
    size_t outline_count;
    const authz_json_model *json_models;
    size_t json_model_count;
    /* The name, in UTF-8, under which Envoy's jwt_authn leaves the claims of a token
     * that it verified; empty for none. */
    authz_span claims_name;
    /* Whether the plan has something that only the twin knows: the input document of
     * opa-envoy-plugin. */
    bool is_for_twin;
} authz_plan_source;

/* Headers that the extractor itself reads, as names of every plan. */
enum {
    AUTHZ_CONTENT_TYPE,
    AUTHZ_CONTENT_ENCODING,
    AUTHZ_GRPC_ENCODING,
    AUTHZ_PARTIAL_BODY,
    AUTHZ_REQUEST_ID,
    AUTHZ_OWN_NAMES
};

#define AUTHZ_NOT_FOUND UINT32_MAX

/* Names or paths, to be found by their bytes: open addressing, at most half full. A
 * slot is the index of a key, or AUTHZ_NOT_FOUND. The keys are the operator's, so no
 * caller can make a search longer. */
typedef struct authz_table {
    authz_span *keys;
    uint32_t *slots;
    uint32_t mask;
    uint32_t count;
} authz_table;

typedef struct authz_plan {
    authz_allocator allocator;
    /* Every name that is wanted, once; the extractor's own first. */
    authz_table names;
    struct {
        uint32_t *names;
        uint32_t count;
    } lists[AUTHZ_HEADER_LISTS];
    authz_table outline_paths;
    authz_outline *outlines;
    authz_table json_paths;
    authz_span *json_keys;
    authz_span claims_name;
    bool is_for_twin;
} authz_plan;

typedef enum authz_plan_status {
    AUTHZ_PLAN_OK,
    AUTHZ_PLAN_NO_MEMORY,
    AUTHZ_PLAN_TOO_LARGE
} authz_plan_status;

/* Makes a plan in one block of memory, with copies of all that `source` points to. Of
 * several entries with one path the first holds. `*plan` is untouched unless the status
 * is AUTHZ_PLAN_OK; authz_plan_free ends it. */
authz_plan_status authz_plan_make(const authz_plan_source *source,
                                  const authz_allocator *allocator, authz_plan **plan);

/* Ends a plan that no thread uses any more; NULL is none. */
void authz_plan_free(authz_plan *plan);

/* Returns the index of `key`, or AUTHZ_NOT_FOUND. */
uint32_t authz_table_find(const authz_table *table, authz_span key);

#endif
