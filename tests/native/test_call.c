/* One call without a connection: headers, messages in every cut, the status. */

#include "call.h"
#include "extract_harness.h"

static const authz_span hosts[] = {TEXT("/h.A/B"), TEXT("/h.A/C")};
static const authz_paths paths = {TEXT("/c.A/B"), hosts, COUNT(hosts)};

static void
begin(authz_call *call, const authz_allocator *allocator, authz_call_kind kind)
{
    memset(call, 0, sizeof *call);
    call->kind = kind;
    authz_buffer_init(&call->check.raw, allocator, SIZE_MAX);
    authz_buffer_init(&call->output, allocator, SIZE_MAX);
    authz_buffer_init(&call->status_text, allocator, SIZE_MAX);
}

static void
end(authz_call *call)
{
    authz_buffer_release(&call->check.raw);
    authz_buffer_release(&call->output);
    authz_buffer_release(&call->status_text);
}

/* ---- headers ---------------------------------------------------------------------- */

static authz_refusal
judged(const char *method, const char *path, const char *type, const char *encoding)
{
    authz_call call;
    authz_allocator allocator = authz_system_allocator();
    begin(&call, &allocator, AUTHZ_CALL_UNKNOWN);
    const char *all[][2] = {{":method", method},
                            {":path", path},
                            {"content-type", type},
                            {"grpc-encoding", encoding},
                            {"x-else", "x"},
                            {"grpc-timeouts", "1"}};
    for (size_t i = 0; i < COUNT(all); i++) {
        if (all[i][1] != NULL) {
            authz_call_header(
                &call, &paths,
                (authz_span){(const uint8_t *)all[i][0], strlen(all[i][0])},
                (authz_span){(const uint8_t *)all[i][1], strlen(all[i][1])});
        }
    }
    end(&call);
    return authz_call_judge(&call);
}

static void
check_headers(void)
{
    const char *good[] = {"application/grpc", "application/grpc+proto",
                          "application/grpc;a", "application/grpc+proto;a"};
    for (size_t i = 0; i < COUNT(good); i++) {
        CHECK(judged("POST", "/c.A/B", good[i], NULL).http_status == NULL);
        CHECK(judged("POST", "/h.A/C", good[i], "identity").http_status == NULL);
    }
    const char *bad[] = {"application/grp",       "application/grpcs",
                         "application/grpc+json", "application/grpc+protobuf",
                         "text/plain",            NULL,
                         ""};
    for (size_t i = 0; i < COUNT(bad); i++) {
        CHECK(strcmp(judged("POST", "/c.A/B", bad[i], NULL).http_status, "415") == 0);
    }
    CHECK(strcmp(judged("GET", "/c.A/B", good[0], NULL).http_status, "405") == 0);
    CHECK(strcmp(judged("post", "/c.A/B", good[0], NULL).http_status, "405") == 0);
    const char *elsewhere[] = {"/c.A/B?", "/c.A/", "/h.A/D", "", "/C.A/B", NULL};
    for (size_t i = 0; i < COUNT(elsewhere); i++) {
        CHECK(judged("POST", elsewhere[i], good[0], NULL).grpc_status ==
              AUTHZ_GRPC_UNIMPLEMENTED);
    }
    CHECK(judged("POST", "/c.A/B", good[0], "gzip").grpc_status ==
          AUTHZ_GRPC_UNIMPLEMENTED);
    static char long_value[AUTHZ_MAX_HEADER_BYTES];
    memset(long_value, 'a', sizeof long_value - 1);
    CHECK(judged("POST", "/c.A/B", good[0], long_value).grpc_status ==
          AUTHZ_GRPC_RESOURCE_EXHAUSTED);
}

/* ---- messages --------------------------------------------------------------------- */

typedef struct seen {
    char text[64]; /* messages, each with a bar behind it */
    size_t length;
    uint8_t status; /* of what was refused; 0: nothing */
} seen;

static void
feed(authz_call *call, authz_span data, bool is_last, seen *all)
{
    while (data.length > 0 && all->status == 0) {
        authz_refusal refusal;
        const size_t used = authz_call_data(call, data, is_last, 8, &refusal);
        CHECK(used > 0 && used <= data.length);
        data.data += used;
        data.length -= used;
        if (refusal.http_status != NULL) {
            all->status = refusal.grpc_status;
        } else if (call->has_message && call->prefix_length == 0) {
            const authz_span message = call->check.message;
            CHECK(all->length + message.length + 1 < sizeof all->text);
            if (message.length > 0) {
                memcpy(all->text + all->length, message.data, message.length);
            }
            all->length += message.length;
            all->text[all->length++] = '|';
            if (call->kind == AUTHZ_CALL_HOST) {
                call->has_message = false;
            }
        }
    }
}

/* Feeds `body` in parts: bit n of `cuts` is a cut behind byte n. Whether the last part is
 * known to be that makes no difference. */
static void
check_parts(authz_call_kind kind, authz_span body, bool is_told, const char *text,
            uint8_t status, uint8_t status_at_end)
{
    const authz_allocator allocator = authz_system_allocator();
    CHECK(body.length > 0 && body.length <= 14);
    for (uint32_t cuts = 0; cuts < 1u << (body.length - 1); cuts++) {
        authz_call call;
        seen all = {0};
        begin(&call, &allocator, kind);
        size_t from = 0;
        for (size_t at = 0; at < body.length; at++) {
            if ((cuts >> at & 1) != 0 || at + 1 == body.length) {
                /* A block of its own, so that a sanitizer sees a step past its end. */
                uint8_t *part = malloc(at + 1 - from);
                CHECK(part != NULL);
                memcpy(part, body.data + from, at + 1 - from);
                feed(&call, (authz_span){part, at + 1 - from},
                     is_told && at + 1 == body.length, &all);
                free(part);
                from = at + 1;
            }
        }
        CHECK(all.status == status);
        CHECK(all.length == strlen(text) && memcmp(all.text, text, all.length) == 0);
        CHECK(status != 0 || authz_call_end(&call).grpc_status == status_at_end);
        end(&call);
    }
}

static void
check_body(authz_call_kind kind, authz_span body, const char *text, uint8_t status,
           uint8_t status_at_end)
{
    check_parts(kind, body, false, text, status, status_at_end);
    if (kind == AUTHZ_CALL_CHECK) {
        check_parts(kind, body, true, text, status, status_at_end);
    }
}

static void
check_messages(void)
{
    const authz_call_kind check = AUTHZ_CALL_CHECK, host = AUTHZ_CALL_HOST;
    check_body(check, AUTHZ_SPAN("\0\0\0\0\3abc"), "abc|", 0, 0);
    check_body(host, AUTHZ_SPAN("\0\0\0\0\3abc"), "abc|", 0, 0);
    check_body(check, AUTHZ_SPAN("\0\0\0\0\0"), "|", 0, 0);
    check_body(check, AUTHZ_SPAN("\0\0\0\0\010abcdefgh"), "abcdefgh|", 0, 0);
    check_body(check, AUTHZ_SPAN("\0\0\0\0\011abcd"), "", AUTHZ_GRPC_RESOURCE_EXHAUSTED, 0);
    check_body(check, AUTHZ_SPAN("\0\xff\xff\xff\xff"), "", AUTHZ_GRPC_RESOURCE_EXHAUSTED, 0);
    check_body(check, AUTHZ_SPAN("\1\0\0\0\1a"), "", AUTHZ_GRPC_INTERNAL, 0);
    check_body(check, AUTHZ_SPAN("\2\0\0\0\1a"), "", AUTHZ_GRPC_INTERNAL, 0);
    check_body(check, AUTHZ_SPAN("\0\0\0\0\3ab"), "", 0, AUTHZ_GRPC_INTERNAL);
    check_body(check, AUTHZ_SPAN("\0\0\0"), "", 0, AUTHZ_GRPC_INTERNAL);
    check_body(check, AUTHZ_SPAN("\0\0\0\0\1a\0\0\0\0\1b"), "a|", AUTHZ_GRPC_UNIMPLEMENTED,
               0);
    check_body(check, AUTHZ_SPAN("\0\0\0\0\1a\0\0\0"), "a|", 0, AUTHZ_GRPC_INTERNAL);
    check_body(host, AUTHZ_SPAN("\0\0\0\0\1a\0\0\0\0\1b"), "a|b|", 0, 0);
    check_body(host, AUTHZ_SPAN("\0\0\0\0\0\0\0\0\0\0"), "||", 0, 0);
    check_body(host, AUTHZ_SPAN("\0\0\0\0\0\0\0\0"), "|", 0, AUTHZ_GRPC_INTERNAL);

    authz_call call;
    const authz_allocator allocator = authz_system_allocator();
    begin(&call, &allocator, check);
    CHECK(authz_call_end(&call).grpc_status == AUTHZ_GRPC_UNIMPLEMENTED);
    end(&call);
    begin(&call, &allocator, host);
    CHECK(authz_call_end(&call).http_status == NULL);
    end(&call);
}

/* Room is made for what is there, not for what was announced. */
static void
check_room(void)
{
    counting counts = {0};
    const authz_allocator allocator = counting_allocator(&counts);
    authz_call call;
    begin(&call, &allocator, AUTHZ_CALL_CHECK);
    authz_refusal refusal;
    const authz_span prefix = AUTHZ_SPAN("\0\x7f\xff\xff\xff");
    CHECK(authz_call_data(&call, prefix, false, SIZE_MAX, &refusal) == prefix.length);
    CHECK(refusal.http_status == NULL && call.check.raw.capacity < 4096);
    end(&call);
    CHECK(counts.live == 0);

    counts.every = 1;
    begin(&call, &allocator, AUTHZ_CALL_CHECK);
    const authz_span whole = AUTHZ_SPAN("\0\0\0\0\1a");
    (void)authz_call_data(&call, whole, false, 8, &refusal);
    CHECK(refusal.grpc_status == AUTHZ_GRPC_RESOURCE_EXHAUSTED);
    CHECK(!authz_call_say(&call, AUTHZ_SPAN("x")));
    CHECK(!authz_call_complete(&call, 1, AUTHZ_SPAN("x")));
    end(&call);

    /* What is whole in the last part needs none. */
    begin(&call, &allocator, AUTHZ_CALL_CHECK);
    CHECK(authz_call_data(&call, whole, true, 8, &refusal) == whole.length);
    CHECK(refusal.http_status == NULL && call.check.message.data == whole.data + 5);
    end(&call);
}

/* ---- the answer ------------------------------------------------------------------- */

static void
check_answer(void)
{
    const authz_allocator allocator = authz_system_allocator();
    authz_call call;
    begin(&call, &allocator, AUTHZ_CALL_HOST);
    CHECK(authz_call_say(&call, AUTHZ_SPAN("ab")));
    CHECK(authz_call_say(&call, (authz_span){NULL, 0}));
    const authz_span two = AUTHZ_SPAN("\0\0\0\0\2ab\0\0\0\0\0");
    CHECK(call.output.length == two.length &&
          memcmp(call.output.data, two.data, two.length) == 0);
    CHECK(authz_call_complete(&call, 5, AUTHZ_SPAN("a%\n\xc3\xa9~")));
    const authz_span text = AUTHZ_SPAN("a%25%0A%C3%A9~");
    CHECK(call.status == 5 && call.status_text.length == text.length &&
          memcmp(call.status_text.data, text.data, text.length) == 0);
    end(&call);

    /* A peer that is always one byte behind does not make us keep all it ever got. */
    begin(&call, &allocator, AUTHZ_CALL_HOST);
    uint8_t last = 0;
    for (size_t i = 0; i < 10000; i++) {
        uint8_t byte = (uint8_t)i;
        CHECK(authz_call_say(&call, (authz_span){&byte, 1}));
        CHECK(call.output.length < 100);
        call.sent = call.output.length - 1;
        last = call.output.data[call.sent];
        CHECK(last == byte);
    }
    end(&call);
}

int
main(void)
{
    check_headers();
    check_messages();
    check_room();
    check_answer();
    return 0;
}
