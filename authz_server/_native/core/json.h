/* The one text at the top of a JSON object that a decision needs.
 *
 * Twins: authz_server/facts/json_body.py and strict_json.py, which have the reasons. A
 * body that leaves any choice to its reader is refused: a name twice at any depth, half
 * a surrogate pair, a number that no double can hold, anything but UTF-8.
 */

#ifndef AUTHZ_CORE_JSON_H
#define AUTHZ_CORE_JSON_H

#include "buffer.h"

#define AUTHZ_MAX_VALUE_BYTES 1024

/* The names of the objects that are open, and those of them that had escapes. */
typedef struct authz_json_scratch {
    authz_buffer names;
    authz_buffer texts;
} authz_json_scratch;

typedef enum authz_json_status {
    AUTHZ_JSON_FOUND,
    AUTHZ_JSON_MALFORMED,
    /* Only Python can tell what Python does: nesting that its stack may bear or not, an
     * integer whose length it may refuse, a number beside the greatest double. */
    AUTHZ_JSON_ASK_TWIN,
    AUTHZ_JSON_NO_MEMORY
} authz_json_status;

/* Appends to `out` the text that the object in `raw` has under `key` (UTF-8) at its
 * top. Unless the status is AUTHZ_JSON_FOUND, `out` is as it was. */
authz_json_status authz_json_text(authz_span raw, authz_span key,
                                  authz_json_scratch *scratch, authz_buffer *out);

#endif
