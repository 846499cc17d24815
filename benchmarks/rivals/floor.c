/* The floor: an ext_authz server that does nothing, as lean as libnghttp2 lets it be.
 *
 *   floor SOCKET ANSWER
 *
 * Listens on the unix socket SOCKET and answers every request of any method with the
 * bytes of file ANSWER (a CheckResponse, up to 1,000 bytes) as one gRPC message. It looks
 * at nothing: no path, no body. What another ext_authz server costs more than this is
 * what it does; what this costs is HTTP/2, gRPC's framing and the kernel.
 *
 * One thread. A turn is one recv, all frames in it, one send. The session checks what
 * comes as HTTP (`nghttp2_option_set_no_http_messaging` is not set), as any server must
 * that reads from a socket. Memory is freed with the connection; out of memory ends it. */

#define _GNU_SOURCE
#include <errno.h>
#include <nghttp2/nghttp2.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    PREFIX = 5,           /* gRPC's: a flag and the length */
    MAX_ANSWER = 1000,    /* far below a frame's 16,384 */
    CHUNK = 256 * 1024,   /* read at once */
    EVENTS = 64,
    WINDOW = 1 << 24,     /* so large that few WINDOW_UPDATEs are sent */
    MAX_STREAMS = 4096,
};

typedef struct {
    int fd;
    nghttp2_session *session;
    uint8_t *out; /* what the kernel did not take yet: from `sent` to `len` */
    size_t sent, len, capacity;
    int waits_to_write;
} connection;

static uint8_t message[PREFIX + MAX_ANSWER];
static size_t message_len;

/* No name or value is copied: they outlive every session. */
#define HEADER(name, value)                                                              \
    {(uint8_t *)(name), (uint8_t *)(value), sizeof(name) - 1, sizeof(value) - 1,         \
     NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE}

static const nghttp2_nv HEADERS[] = {HEADER(":status", "200"),
                                     HEADER("content-type", "application/grpc")};
static const nghttp2_nv TRAILERS[] = {HEADER("grpc-status", "0")};

static void
fail(const char *what)
{
    perror(what);
    exit(1);
}

/* Gives the whole message at once, and says that trailers follow. */
static ssize_t
read_message(nghttp2_session *session, int32_t stream_id, uint8_t *buffer, size_t length,
             uint32_t *flags, nghttp2_data_source *source, void *user_data)
{
    (void)source;
    (void)user_data;
    if (length < message_len)
        return NGHTTP2_ERR_CALLBACK_FAILURE; /* a frame is never that short */
    memcpy(buffer, message, message_len);
    *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
    if (nghttp2_submit_trailer(session, stream_id, TRAILERS, 1) != 0)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    return (ssize_t)message_len;
}

static int
on_frame_recv(nghttp2_session *session, const nghttp2_frame *frame, void *user_data)
{
    const int is_request =
        frame->hd.type == NGHTTP2_DATA || frame->hd.type == NGHTTP2_HEADERS;
    const nghttp2_data_provider provider = {.read_callback = read_message};

    (void)user_data;
    if (!is_request || !(frame->hd.flags & NGHTTP2_FLAG_END_STREAM))
        return 0;
    return nghttp2_submit_response(session, frame->hd.stream_id, HEADERS, 2, &provider);
}

static void
close_connection(connection *it)
{
    nghttp2_session_del(it->session);
    close(it->fd);
    free(it->out);
    free(it);
}

static connection *
open_connection(int fd, const nghttp2_session_callbacks *callbacks,
                const nghttp2_option *option)
{
    const nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, MAX_STREAMS},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, WINDOW}};
    connection *it = calloc(1, sizeof *it);

    if (it == NULL)
        fail("memory");
    it->fd = fd;
    if (nghttp2_session_server_new2(&it->session, callbacks, it, option) != 0 ||
        nghttp2_submit_settings(it->session, NGHTTP2_FLAG_NONE, settings, 2) != 0 ||
        nghttp2_session_set_local_window_size(it->session, NGHTTP2_FLAG_NONE, 0, WINDOW) !=
            0)
        fail("session");
    return it;
}

/* Appends all frames that wait to what is to be sent. Returns -1 if it cannot. */
static int
collect(connection *it)
{
    const uint8_t *frame;
    ssize_t length;

    while ((length = nghttp2_session_mem_send(it->session, &frame)) > 0) {
        const size_t need = it->len + (size_t)length;
        if (need > it->capacity) {
            const size_t capacity = need * 2;
            uint8_t *larger = realloc(it->out, capacity);
            if (larger == NULL)
                return -1;
            it->out = larger;
            it->capacity = capacity;
        }
        memcpy(it->out + it->len, frame, (size_t)length);
        it->len = need;
    }
    return length < 0 ? -1 : 0;
}

/* Sends what there is; asks epoll for the rest of the way only if the socket is full. */
static int
flush(int poll, connection *it)
{
    int waits = 0;

    if (it->sent < it->len) {
        const ssize_t sent = send(it->fd, it->out + it->sent, it->len - it->sent,
                                  MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN)
            return -1;
        it->sent += sent > 0 ? (size_t)sent : 0;
    }
    if (it->sent == it->len)
        it->sent = it->len = 0;
    else
        waits = 1;
    if (waits != it->waits_to_write) {
        struct epoll_event event = {.events = EPOLLIN | (waits ? EPOLLOUT : 0),
                                    .data.ptr = it};
        it->waits_to_write = waits;
        return epoll_ctl(poll, EPOLL_CTL_MOD, it->fd, &event);
    }
    return 0;
}

/* One turn of one connection. Returns -1 when it is over. */
static int
turn(int poll, connection *it, uint32_t events)
{
    static uint8_t chunk[CHUNK];

    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        const ssize_t length = recv(it->fd, chunk, sizeof chunk, MSG_DONTWAIT);
        if (length == 0 || (length < 0 && errno != EAGAIN))
            return -1;
        if (length > 0 &&
            nghttp2_session_mem_recv(it->session, chunk, (size_t)length) < 0)
            return -1;
    }
    if (collect(it) != 0 || flush(poll, it) != 0)
        return -1;
    return nghttp2_session_want_read(it->session) ||
                   nghttp2_session_want_write(it->session) || it->len > 0
               ? 0
               : -1;
}

static int
listen_at(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (strlen(path) >= sizeof address.sun_path) {
        fputs("the socket's path is too long\n", stderr);
        exit(2);
    }
    strcpy(address.sun_path, path);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) != 0 ||
        listen(fd, 128) != 0)
        fail(path);
    return fd;
}

static void
read_answer(const char *path)
{
    FILE *file = fopen(path, "rb");
    size_t length;

    if (file == NULL)
        fail(path);
    length = fread(message + PREFIX, 1, MAX_ANSWER, file);
    fclose(file);
    message[3] = (uint8_t)(length >> 8);
    message[4] = (uint8_t)length;
    message_len = PREFIX + length;
}

int
main(int argc, char **argv)
{
    nghttp2_session_callbacks *callbacks;
    nghttp2_option *option;
    struct epoll_event events[EVENTS];
    int listener, poll;

    if (argc != 3) {
        fputs("usage: floor SOCKET ANSWER\n", stderr);
        return 2;
    }
    read_answer(argv[2]);
    if (nghttp2_session_callbacks_new(&callbacks) != 0 || nghttp2_option_new(&option) != 0)
        fail("memory");
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame_recv);
    nghttp2_option_set_no_closed_streams(option, 1); /* they serve priorities only */
    listener = listen_at(argv[1]);
    poll = epoll_create1(EPOLL_CLOEXEC);
    /* The listener is the one without a connection. */
    events[0] = (struct epoll_event){.events = EPOLLIN, .data.ptr = NULL};
    if (poll < 0 || epoll_ctl(poll, EPOLL_CTL_ADD, listener, &events[0]) != 0)
        fail("epoll");
    for (;;) {
        const int count = epoll_wait(poll, events, EVENTS, -1);
        if (count < 0 && errno != EINTR)
            fail("epoll_wait");
        for (int i = 0; i < count; i++) {
            connection *it = events[i].data.ptr;
            if (it == NULL) {
                const int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
                if (fd < 0)
                    continue;
                it = open_connection(fd, callbacks, option);
                struct epoll_event event = {.events = EPOLLIN, .data.ptr = it};
                if (epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event) != 0)
                    fail("epoll_ctl");
            } else if (turn(poll, it, events[i].events) != 0) {
                close_connection(it);
            }
        }
    }
}
