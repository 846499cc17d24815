#include "connection.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "loop.h"

/* The window of a whole connection, in messages of the greatest length; the bytes of
 * what is not answered yet are never more. */
#define WINDOW_MESSAGES 4
#define LEAST_WINDOW_BYTES ((int32_t)1 << 22)

struct authz_protocol {
    nghttp2_session_callbacks *callbacks;
    nghttp2_option *options;
};

/* ---- responses ---------------------------------------------------------------------- */

#define NAME_VALUE(name, value)                                                        \
    {(uint8_t *)(uintptr_t)(name), (uint8_t *)(uintptr_t)(value), sizeof(name) - 1,    \
     sizeof(value) - 1, NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE}

static nghttp2_nv
header(const char *name, authz_span value)
{
    return (nghttp2_nv){(uint8_t *)(uintptr_t)name, (uint8_t *)(uintptr_t)value.data,
                        strlen(name), value.length, NGHTTP2_NV_FLAG_NO_COPY_NAME};
}

/* The status of a call, in trailers or in the place of them. */
static size_t
put_status(const authz_call *call, nghttp2_nv *headers, char number[4])
{
    size_t length = 0;
    if (call->status >= 10) {
        number[length++] = (char)('0' + call->status / 10 % 10);
    }
    number[length++] = (char)('0' + call->status % 10);
    headers[0] = header("grpc-status", (authz_span){(const uint8_t *)number, length});
    if (call->status_text.length == 0) {
        return 1;
    }
    headers[1] = header("grpc-message", (authz_span){call->status_text.data,
                                                     call->status_text.length});
    return 2;
}

static ssize_t
read_output(nghttp2_session *session, int32_t stream, uint8_t *buffer, size_t room,
            uint32_t *flags, nghttp2_data_source *source, void *context)
{
    (void)context;
    authz_call *call = source->ptr;
    size_t length = call->output.length - call->sent;
    if (length == 0 && !call->is_complete) {
        call->is_waiting = true;
        return NGHTTP2_ERR_DEFERRED;
    }
    if (length > room) {
        length = room;
    }
    if (length > 0) {
        memcpy(buffer, call->output.data + call->sent, length);
        call->sent += length;
    }
    if (call->sent < call->output.length) {
        return (ssize_t)length;
    }
    call->output.length = call->sent = 0;
    if (call->is_complete) {
        nghttp2_nv headers[2];
        char number[4];
        const size_t count = put_status(call, headers, number);
        *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
        if (nghttp2_submit_trailer(session, stream, headers, count) != 0) {
            return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
        }
    }
    return (ssize_t)length;
}

/* Nothing but headers: what is wrong. */
static int
submit_refusal(authz_connection *connection, const authz_call *call, const char *http_status)
{
    nghttp2_nv headers[4] = {
        header(":status", (authz_span){(const uint8_t *)http_status, strlen(http_status)}),
        NAME_VALUE("content-type", "application/grpc"),
    };
    char number[4];
    const size_t count = put_status(call, headers + 2, number);
    return nghttp2_submit_response(connection->session, call->stream, headers, 2 + count,
                                   NULL);
}

static void
reset(authz_connection *connection, const authz_call *call, uint32_t code)
{
    (void)nghttp2_submit_rst_stream(connection->session, NGHTTP2_FLAG_NONE, call->stream,
                                    code);
    authz_loop_stir(connection->loop, connection);
}

static void
refuse(authz_connection *connection, authz_call *call, authz_refusal refusal)
{
    call->is_refused = true;
    call->since_s = connection->loop->now.steady_s;
    const authz_span text = {(const uint8_t *)refusal.text, strlen(refusal.text)};
    if (!authz_call_complete(call, refusal.grpc_status, text) ||
        submit_refusal(connection, call, refusal.http_status) != 0) {
        reset(connection, call, NGHTTP2_INTERNAL_ERROR);
    }
    call->is_answering = true;
    authz_loop_stir(connection->loop, connection);
}

void
authz_connection_answer(authz_connection *connection, authz_call *call)
{
    static const nghttp2_nv headers[] = {
        NAME_VALUE(":status", "200"),
        NAME_VALUE("content-type", "application/grpc"),
    };
    if (call->is_refused) {
        return;
    }
    int error = 0;
    call->since_s = connection->loop->now.steady_s;
    connection->calm += AUTHZ_CALM_PER_ANSWER;
    if (!call->is_answering && call->is_complete && call->output.length == 0) {
        error = submit_refusal(connection, call, "200");
    } else if (!call->is_answering) {
        nghttp2_data_provider provider = {{.ptr = call}, read_output};
        error = nghttp2_submit_response(connection->session, call->stream, headers,
                                        sizeof headers / sizeof *headers, &provider);
    } else if (call->is_waiting) {
        call->is_waiting = false;
        error = nghttp2_session_resume_data(connection->session, call->stream);
    }
    call->is_answering = true;
    if (error != 0) {
        reset(connection, call, NGHTTP2_INTERNAL_ERROR);
    }
    authz_loop_stir(connection->loop, connection);
}

void
authz_connection_fail(authz_connection *connection, const authz_call *call)
{
    reset(connection, call, NGHTTP2_INTERNAL_ERROR);
}

void
authz_connection_taken(authz_connection *connection, authz_call *call, size_t length)
{
    call->untaken -= call->untaken > 0;
    length += sizeof call->prefix;
    if (length > call->held) {
        length = call->held;
    }
    call->held -= length;
    (void)nghttp2_session_consume(connection->session, call->stream, length);
    authz_loop_stir(connection->loop, connection);
}

/* ---- requests ----------------------------------------------------------------------- */

static void
begin_call(authz_connection *connection, int32_t stream)
{
    authz_call *call = authz_calls_take(&connection->loop->calls);
    if (call == NULL) {
        (void)nghttp2_submit_rst_stream(connection->session, NGHTTP2_FLAG_NONE, stream,
                                        NGHTTP2_REFUSED_STREAM);
        return;
    }
    call->connection = connection;
    call->stream = stream;
    call->since_s = connection->loop->now.steady_s;
    call->next = connection->calls;
    if (call->next != NULL) {
        call->next->previous = call;
    }
    connection->calls = connection->heading = call;
    connection->call_count++;
    (void)nghttp2_session_set_stream_user_data(connection->session, stream, call);
}

/* Takes a call out of its connection, whose stream is gone. */
static void
end_call(authz_connection *connection, authz_call *call)
{
    authz_loop *loop = connection->loop;
    if (call->previous != NULL) {
        call->previous->next = call->next;
    } else {
        connection->calls = call->next;
    }
    if (call->next != NULL) {
        call->next->previous = call->previous;
    }
    call->previous = call->next = NULL;
    call->connection = NULL;
    if (connection->heading == call) {
        connection->heading = NULL;
    }
    if (--connection->call_count == 0) {
        connection->idle_s = loop->now.steady_s;
    }
    (void)nghttp2_session_consume_connection(connection->session, call->held);
    if (call->kind == AUTHZ_CALL_HOST && call->number != 0) {
        authz_calls_forget(&loop->calls, call);
        /* Without memory for it the host goes on, and what it says is dropped. */
        (void)authz_happenings_put(&loop->terms->happenings, call->number,
                                   AUTHZ_CALL_GONE, 0, NULL);
    }
    if (call->is_asked) {
        authz_checks_give_up(&loop->checks, &call->check); /* freed once given back */
    } else {
        authz_calls_give_back(&loop->calls, call);
    }
}

/* The peer has said all. */
static void
end_request(authz_connection *connection, authz_call *call)
{
    call->has_ended = true;
    if (call->is_refused) {
        return;
    }
    const authz_refusal refusal = authz_call_end(call);
    if (refusal.http_status != NULL) {
        refuse(connection, call, refusal);
    } else if (call->kind == AUTHZ_CALL_CHECK) {
        call->check.arrived = connection->loop->now;
        call->is_asked = true;
        authz_checks_ask(&connection->loop->checks, &call->check);
    } else if (!authz_happenings_put(&connection->loop->terms->happenings, call->number,
                                     AUTHZ_CALL_ENDED, 0, NULL)) {
        reset(connection, call, NGHTTP2_INTERNAL_ERROR);
    }
}

static void
begin_request(authz_connection *connection, authz_call *call)
{
    call->has_headers = true;
    const authz_refusal refusal = authz_call_judge(call);
    if (refusal.http_status != NULL) {
        refuse(connection, call, refusal);
    } else if (call->kind == AUTHZ_CALL_HOST &&
               (!authz_calls_name(&connection->loop->calls, call) ||
                !authz_happenings_put(&connection->loop->terms->happenings, call->number,
                                      AUTHZ_CALL_OPENED, call->method, NULL))) {
        refuse(connection, call, (authz_refusal){"200", AUTHZ_GRPC_RESOURCE_EXHAUSTED,
                                                 "too many calls are open"});
    }
}

/* ---- what libnghttp2 calls ---------------------------------------------------------- */

static authz_call *
call_of(nghttp2_session *session, int32_t stream)
{
    return nghttp2_session_get_stream_user_data(session, stream);
}

static int
on_begin_frame(nghttp2_session *session, const nghttp2_frame_hd *frame, void *context)
{
    (void)session;
    authz_connection *connection = context;
    connection->calm -= 1;
    connection->frame_length = frame->length;
    if (frame->type == NGHTTP2_CONTINUATION) {
        connection->header_frames++;
    } else {
        connection->header_frames = 1;
    }
    if (connection->calm < 0 || connection->header_frames > AUTHZ_MAX_HEADER_FRAMES) {
        connection->is_wild = true;
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    }
    return 0;
}

static int
on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *context)
{
    (void)session;
    authz_connection *connection = context;
    connection->heading = NULL;
    if (frame->headers.cat == NGHTTP2_HCAT_REQUEST) {
        begin_call(connection, frame->hd.stream_id);
    }
    return 0;
}

static int
on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
          size_t name_length, const uint8_t *value, size_t value_length, uint8_t flags,
          void *context)
{
    (void)session;
    (void)frame;
    (void)flags;
    const authz_connection *connection = context;
    if (connection->heading != NULL) {
        authz_call_header(connection->heading, &connection->loop->terms->paths,
                          (authz_span){name, name_length},
                          (authz_span){value, value_length});
    }
    return 0;
}

static int
on_frame_recv(nghttp2_session *session, const nghttp2_frame *frame, void *context)
{
    if (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA) {
        return 0;
    }
    authz_call *call = call_of(session, frame->hd.stream_id);
    if (call == NULL) {
        return 0;
    }
    if (frame->hd.type == NGHTTP2_HEADERS &&
        frame->headers.cat == NGHTTP2_HCAT_REQUEST) {
        begin_request(context, call);
    }
    if ((frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0) {
        end_request(context, call);
    }
    return 0;
}

/* Gives a whole message to the host. */
static void
pass_on(authz_connection *connection, authz_call *call)
{
    if (call->untaken == AUTHZ_MAX_UNTAKEN) {
        refuse(connection, call, (authz_refusal){"200", AUTHZ_GRPC_RESOURCE_EXHAUSTED,
                                                 "messages come faster than they are taken"});
        return;
    }
    call->untaken++;
    if (!authz_happenings_put(&connection->loop->terms->happenings, call->number,
                              AUTHZ_CALL_MESSAGE, 0, &call->check.raw)) {
        reset(connection, call, NGHTTP2_INTERNAL_ERROR);
    }
}

static int
on_data(nghttp2_session *session, uint8_t flags, int32_t stream, const uint8_t *bytes,
        size_t length, void *context)
{
    authz_connection *connection = context;
    authz_call *call = call_of(session, stream);
    if (call == NULL) {
        (void)nghttp2_session_consume_connection(session, length);
        return 0;
    }
    call->held += length;
    const size_t max_message_bytes = connection->loop->terms->common.max_message_bytes;
    /* The whole of a frame behind which none of the call comes: `on_frame_recv` is told of
     * it before anything else is read. */
    const bool is_last = (flags & NGHTTP2_FLAG_END_STREAM) != 0 &&
                         length == connection->frame_length &&
                         call->kind == AUTHZ_CALL_CHECK;
    authz_span data = {bytes, length};
    while (data.length > 0 && !call->is_refused) {
        authz_refusal refusal;
        const size_t used =
            authz_call_data(call, data, is_last, max_message_bytes, &refusal);
        data.data += used;
        data.length -= used;
        if (refusal.http_status != NULL) {
            refuse(connection, call, refusal);
        } else if (call->kind == AUTHZ_CALL_HOST && call->has_message) {
            call->has_message = false;
            pass_on(connection, call);
        }
    }
    return 0;
}

static int
on_stream_close(nghttp2_session *session, int32_t stream, uint32_t code, void *context)
{
    (void)code;
    authz_call *call = call_of(session, stream);
    if (call != NULL) {
        end_call(context, call);
    }
    return 0;
}

/* An answer that was given early: the peer need not send the rest (RFC 9113 8.1). */
static int
on_frame_send(nghttp2_session *session, const nghttp2_frame *frame, void *context)
{
    if (frame->hd.type != NGHTTP2_HEADERS ||
        (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) == 0) {
        return 0;
    }
    const authz_call *call = call_of(session, frame->hd.stream_id);
    if (call != NULL && !call->has_ended) {
        reset(context, call, NGHTTP2_NO_ERROR);
    }
    return 0;
}

/* ---- what is the same for all ------------------------------------------------------- */

authz_protocol *
authz_protocol_new(const authz_allocator *allocator)
{
    authz_protocol *protocol = allocator->allocate(allocator->context, sizeof *protocol);
    if (protocol == NULL) {
        return NULL;
    }
    nghttp2_session_callbacks *callbacks = NULL;
    nghttp2_option *options = NULL;
    if (nghttp2_session_callbacks_new(&callbacks) != 0 ||
        nghttp2_option_new(&options) != 0) {
        nghttp2_session_callbacks_del(callbacks);
        allocator->release(allocator->context, protocol);
        return NULL;
    }
    nghttp2_session_callbacks_set_on_begin_frame_callback(callbacks, on_begin_frame);
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame_recv);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
    nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, on_frame_send);
    nghttp2_option_set_no_auto_window_update(options, 1);
    /* A closed stream is kept for priorities only, which are not looked at. */
    nghttp2_option_set_no_closed_streams(options, 1);
    nghttp2_option_set_max_deflate_dynamic_table_size(options, 4096);
    nghttp2_option_set_max_send_header_block_length(options, 65536);
    nghttp2_option_set_max_outbound_ack(options, 1000);
    /* The library's own limit is 33 a second, which proxies that time out exceed. */
    nghttp2_option_set_stream_reset_rate_limit(options, (uint64_t)AUTHZ_CALM_MOST,
                                               (uint64_t)AUTHZ_CALM_PER_SECOND);
    protocol->callbacks = callbacks;
    protocol->options = options;
    return protocol;
}

void
authz_protocol_free(authz_protocol *protocol, const authz_allocator *allocator)
{
    nghttp2_session_callbacks_del(protocol->callbacks);
    nghttp2_option_del(protocol->options);
    allocator->release(allocator->context, protocol);
}

/* ---- a connection's life ------------------------------------------------------------ */

static int
begin_session(authz_connection *connection)
{
    const authz_terms *terms = connection->loop->terms;
    const authz_protocol *protocol = terms->protocol;
    const size_t message = terms->common.max_message_bytes + sizeof((authz_call *)0)->prefix;
    const uint32_t stream_window = message > 65535 ? (uint32_t)message : 65535;
    int32_t window = LEAST_WINDOW_BYTES;
    if (stream_window > (uint32_t)(LEAST_WINDOW_BYTES / WINDOW_MESSAGES)) {
        window = stream_window < INT32_MAX / WINDOW_MESSAGES
                     ? (int32_t)(stream_window * WINDOW_MESSAGES)
                     : INT32_MAX;
    }
    const nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, terms->max_streams},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, stream_window},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, AUTHZ_MAX_HEADER_BYTES},
    };
    if (nghttp2_session_server_new3(&connection->session, protocol->callbacks, connection,
                                    protocol->options,
                                    &connection->loop->http2_memory.functions) != 0) {
        return -1;
    }
    return nghttp2_submit_settings(connection->session, NGHTTP2_FLAG_NONE, settings,
                                   sizeof settings / sizeof *settings) != 0 ||
                   nghttp2_session_set_local_window_size(
                       connection->session, NGHTTP2_FLAG_NONE, 0, window) != 0
               ? -1
               : 0;
}

authz_connection *
authz_connection_open(authz_loop *loop, int socket)
{
    const authz_allocator *allocator = loop->terms->common.allocator;
    authz_connection *connection =
        allocator->allocate(allocator->context, sizeof *connection);
    if (connection == NULL) {
        close(socket);
        return NULL;
    }
    *connection = (authz_connection){.loop = loop,
                                     .socket = socket,
                                     .calm = AUTHZ_CALM_MOST,
                                     .calm_s = loop->now.steady_s,
                                     .idle_s = loop->now.steady_s};
    authz_buffer_init(&connection->output, allocator, SIZE_MAX);
    connection->next = loop->connections;
    if (connection->next != NULL) {
        connection->next->previous = connection;
    }
    loop->connections = connection;
    loop->connection_count++;
    atomic_fetch_add(&loop->terms->connection_count, 1);
    if (begin_session(connection) != 0) {
        authz_connection_close(connection);
        return NULL;
    }
    authz_loop_stir(loop, connection);
    return connection;
}

void
authz_connection_close(authz_connection *connection)
{
    authz_loop *loop = connection->loop;
    const authz_allocator *allocator = loop->terms->common.allocator;
    while (connection->calls != NULL) {
        end_call(connection, connection->calls);
    }
    nghttp2_session_del(connection->session);
    close(connection->socket);
    if (connection->previous != NULL) {
        connection->previous->next = connection->next;
    } else {
        loop->connections = connection->next;
    }
    if (connection->next != NULL) {
        connection->next->previous = connection->previous;
    }
    loop->connection_count--;
    atomic_fetch_sub(&loop->terms->connection_count, 1);
    authz_buffer_release(&connection->output);
    allocator->release(allocator->context, connection);
}

static void
end_connection(authz_connection *connection)
{
    connection->is_over = true;
    authz_loop_stir(connection->loop, connection);
}

/* Gives points back for the time that has passed. */
static void
calm_down(authz_connection *connection)
{
    const double now_s = connection->loop->now.steady_s;
    connection->calm += (now_s - connection->calm_s) * AUTHZ_CALM_PER_SECOND;
    connection->calm_s = now_s;
    if (connection->calm > AUTHZ_CALM_MOST) {
        connection->calm = AUTHZ_CALM_MOST;
    }
}

void
authz_connection_read(authz_connection *connection)
{
    authz_loop *loop = connection->loop;
    const ssize_t length = recv(connection->socket, loop->input, sizeof loop->input, 0);
    if (length < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) {
        return;
    }
    if (length <= 0) {
        end_connection(connection);
        return;
    }
    loop->now = authz_now();
    calm_down(connection);
    const ssize_t used =
        nghttp2_session_mem_recv(connection->session, loop->input, (size_t)length);
    if (used < 0) {
        (void)nghttp2_session_terminate_session(
            connection->session, connection->is_wild ? NGHTTP2_ENHANCE_YOUR_CALM
                                                     : NGHTTP2_PROTOCOL_ERROR);
        authz_connection_write(connection);
        end_connection(connection);
        return;
    }
    authz_loop_stir(loop, connection);
}

/* Fills the output with frames; false: the session has failed. */
static bool
gather(authz_connection *connection)
{
    connection->output.length = connection->sent = 0;
    while (connection->output.length < AUTHZ_OUTPUT_BYTES) {
        const uint8_t *data;
        const ssize_t length = nghttp2_session_mem_send(connection->session, &data);
        if (length < 0) {
            return false;
        }
        if (length == 0) {
            return true;
        }
        if (!authz_buffer_bytes(&connection->output, (authz_span){data, (size_t)length})) {
            return false;
        }
    }
    return true;
}

static void
set_blocked(authz_connection *connection, bool is_blocked)
{
    if (connection->is_blocked != is_blocked) {
        connection->is_blocked = is_blocked;
        connection->blocked_s = connection->loop->now.steady_s;
        authz_loop_watch(connection->loop, connection, is_blocked);
    }
}

void
authz_connection_write(authz_connection *connection)
{
    for (;;) {
        if (connection->sent == connection->output.length) {
            if (!gather(connection)) {
                end_connection(connection);
                return;
            }
            if (connection->output.length == 0) {
                break;
            }
        }
        const ssize_t length =
            send(connection->socket, connection->output.data + connection->sent,
                 connection->output.length - connection->sent, MSG_NOSIGNAL);
        if (length < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            set_blocked(connection, true);
            return;
        }
        if (length < 0 && errno != EINTR) {
            end_connection(connection);
            return;
        }
        connection->sent += length > 0 ? (size_t)length : 0;
    }
    set_blocked(connection, false);
    if (!nghttp2_session_want_read(connection->session) &&
        !nghttp2_session_want_write(connection->session)) {
        end_connection(connection);
    }
}

void
authz_connection_go_away(authz_connection *connection)
{
    /* A notice alone ends nothing: what is under way to us is still answered. */
    if (connection->is_going) {
        (void)nghttp2_submit_goaway(
            connection->session, NGHTTP2_FLAG_NONE,
            nghttp2_session_get_last_proc_stream_id(connection->session),
            NGHTTP2_NO_ERROR, NULL, 0);
    } else {
        (void)nghttp2_submit_shutdown_notice(connection->session);
    }
    connection->is_going = true;
    authz_loop_stir(connection->loop, connection);
}

/* Whether the peer is what the call waits for. */
static bool
is_peers_turn(const authz_call *call)
{
    if (call->is_answering) {
        return !call->is_waiting;
    }
    return call->kind != AUTHZ_CALL_HOST && !call->has_ended;
}

void
authz_connection_look(authz_connection *connection, double now_s, double patience_s)
{
    if (connection->is_blocked && now_s - connection->blocked_s > patience_s) {
        end_connection(connection);
        return;
    }
    for (authz_call *call = connection->calls; call != NULL; call = call->next) {
        if (is_peers_turn(call) && now_s - call->since_s > patience_s) {
            /* Within a block of headers there is no other frame, so a peer that does not
             * end it cannot be told. */
            if (!call->has_headers) {
                end_connection(connection);
                return;
            }
            reset(connection, call, NGHTTP2_CANCEL);
            call->since_s = now_s;
        }
    }
}
