/* google.protobuf.Struct, the JSON object of protobuf, as JSON text: what Envoy's
 * jwt_authn filter verified.
 *
 * Twin: authz_server/facts/struct_value.py. Messages: google/protobuf/struct.proto. */

#ifndef AUTHZ_CORE_CLAIMS_H
#define AUTHZ_CORE_CLAIMS_H

#include "buffer.h"

typedef enum authz_claims_status {
    AUTHZ_CLAIMS_OK,
    AUTHZ_CLAIMS_REFUSED,
    /* An object with very many names, or a number that only Python spells as Python
     * does: with a fraction, or beyond 2^53. */
    AUTHZ_CLAIMS_ASK_TWIN,
    AUTHZ_CLAIMS_NO_MEMORY
} authz_claims_status;

/* Reads the whole Struct `raw`, and finds the object under `name` (UTF-8) at its top:
 * `object` is a Struct, or has no data if nothing is there. `fault` says why it is
 * refused. Allocates nothing. */
authz_claims_status authz_claims_find(authz_span raw, authz_span name,
                                      authz_span *object, authz_fault *fault);

/* Appends an object that authz_claims_find gave as JSON, in ASCII, sorted by names.
 * What was appended before an error must be thrown away. */
authz_claims_status authz_claims_put(authz_span object, authz_buffer *out);

#endif
