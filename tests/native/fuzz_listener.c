/* What one peer sends on one connection. The first byte: 1 begins with a preface and
 * SETTINGS, 2 waits a moment for what comes back.
 *
 * Beside what the sanitizers see, another peer is answered before and after. */

#include "listener_harness.h"

#define WAIT_MS 20000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static site all;

static void
end_site(void)
{
    site_close(&all);
}

static void
check_served(void)
{
    static client other;
    uint8_t room[32];
    client_open(&other, &all);
    const reply result =
        client_call(&other, CHECK_PATH, request_of('a', room), WAIT_MS);
    CHECK(result.has_data && !result.is_denial);
    close(other.socket);
}

static void
attack(const uint8_t *data, size_t size)
{
    static client one;
    client_open(&one, &all);
    if ((data[0] & 1) == 0) {
        close(one.socket);
        one.socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        CHECK(one.socket >= 0);
        CHECK(connect(one.socket, (const struct sockaddr *)&all.address,
                      all.address_length) == 0);
    }
    if (client_send(&one, data + 1, size - 1) && (data[0] & 2) != 0) {
        (void)client_wait(&one, UINT32_MAX, 2);
    }
    (void)shutdown(one.socket, SHUT_WR);
    /* Until the listener is done with it. */
    struct timeval patience = {2, 0};
    CHECK(setsockopt(one.socket, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) ==
          0);
    while (recv(one.socket, one.input, sizeof one.input, 0) > 0) {
    }
    close(one.socket);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static bool is_open;
    static unsigned turn;
    if (!is_open) {
        is_open = site_open(&all, "/dev/null", 5, 100);
        CHECK(is_open);
        site_start(&all);
        CHECK(atexit(end_site) == 0);
    }
    /* More than a socket takes at once could wait for a reader, and nobody reads. */
    if (size > 0 && size < 50000) {
        attack(data, size);
    }
    if (turn++ % 16 == 0) {
        check_served();
    }
    return 0;
}
