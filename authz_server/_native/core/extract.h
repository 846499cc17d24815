/* From the wire bytes of a CheckRequest to canonical facts and annotations.
 *
 * Twins: authz_server/facts/extraction.py, canonical.py, grpc_body.py and
 * message_scanner.py. Whatever the bytes, this gives what they give or says that they
 * must be asked (AUTHZ_EXTRACT_ASK_TWIN); never something else.
 *
 * It asks the twin for
 *   - every request, if the plan has an input document or is larger than a plan here;
 *   - claims with a number that is not whole or beyond 2^53, or, anywhere in the
 *     metadata of jwt_authn, an object of more than 64 names;
 *   - a gRPC message in a coding that can be inflated (gzip, deflate);
 *   - a JSON body as in json.h; an outline of more than AUTHZ_MAX_OUTLINE fields;
 *   - a request of 4 GiB, with over 64 context extensions, or 65535 values of a header.
 *
 * Layout of the canonical bytes (integers are big-endian):
 *
 *     u8 version | 9 scalars | u8 flags | headers | credentials | signals | body
 *
 *     scalar   u32 length, bytes
 *     headers  u16 count, then each: scalar name, u16 count, scalars
 *     body     u8 state, u16 count, then each field: u32 number, scalar
 */

#ifndef AUTHZ_CORE_EXTRACT_H
#define AUTHZ_CORE_EXTRACT_H

#include "buffer.h"
#include "json.h"
#include "plan.h"

typedef enum authz_extract_status {
    AUTHZ_EXTRACT_OK,
    /* The request is refused; `fault` says why. */
    AUTHZ_EXTRACT_REFUSED,
    /* No answer from here. The caller must ask the Python twin, or deny. */
    AUTHZ_EXTRACT_ASK_TWIN,
    /* The allocator or the limit said no. The caller must deny. */
    AUTHZ_EXTRACT_NO_MEMORY
} authz_extract_status;

/* What one thread extracts with, again and again. Once its buffers have grown to what
 * is usual, nothing is allocated. */
typedef struct authz_extraction {
    /* The answer, valid until the next call; it lies in `out` or in the request. */
    authz_span key;
    authz_span request_id; /* UTF-8 */
    authz_span source;     /* UTF-8, "ip:port" */
    authz_fault fault;
    /* Private. */
    authz_allocator allocator;
    authz_buffer out;
    authz_buffer slots;
    authz_buffer values;
    authz_json_scratch json;
} authz_extraction;

/* Makes ready; allocates nothing. `limit` bounds each of the five buffers, in bytes.
 * The extraction must not be moved. */
void authz_extraction_init(authz_extraction *extraction,
                           const authz_allocator *allocator, size_t limit);

/* Gives all memory back. The extraction may be used again. */
void authz_extraction_release(authz_extraction *extraction);

/* Gives back each buffer of more than `most` bytes: one large request should not be
 * paid for ever after. Ends the answer. */
void authz_extraction_trim(authz_extraction *extraction, size_t most);

/* Extracts what `plan` wants from `raw`, which must stay while the answer is used. Any
 * number of threads may share a plan; an extraction belongs to one. Not checked: what
 * any value says. */
authz_extract_status authz_extract(const authz_plan *plan, authz_span raw,
                                   authz_extraction *extraction);

/* Returns the reason code of a refusal: a value of authz_server.errors.Reason. */
const char *authz_fault_reason(authz_fault fault);

/* Returns what the operator gets to read, as the twin words it. */
const char *authz_fault_message(authz_fault fault);

#endif
