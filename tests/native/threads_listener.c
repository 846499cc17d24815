/* Clients, workers and a host at once, while what stands changes, and peers go away in
 * the middle of it. */

#include "listener_harness.h"

#define CLIENTS 4
#define CALLS 150
#define WAIT_MS 30000

static site all;

static void *
run_client(void *context)
{
    uint64_t random = (uint64_t)(uintptr_t)context;
    client *one = malloc(sizeof *one);
    CHECK(one != NULL);
    client_open(one, &all);
    for (int i = 0; i < CALLS; i++) {
        uint8_t room[32];
        const uint64_t choice = next_random(&random);
        const authz_span request = request_of((char)('a' + choice % 8), room);
        if (choice / 8 % 8 == 0) {
            CHECK(client_call(one, HOST_PATH, AUTHZ_SPAN("hello"), WAIT_MS).has_data);
        } else if (choice / 8 % 8 == 1) { /* asks, and goes without an answer */
            uint8_t call[1024];
            (void)client_send(one, call, put_call(call, one->stream, CHECK_PATH, request));
            close(one->socket);
            client_open(one, &all);
        } else {
            const reply result = client_call(one, CHECK_PATH, request, WAIT_MS);
            CHECK(result.has_data && !result.is_reset);
        }
    }
    close(one->socket);
    free(one);
    return NULL;
}

int
main(void)
{
    CHECK(site_open(&all, "/dev/null", 5, 3));
    site_start(&all);
    pthread_t clients[CLIENTS];
    for (uintptr_t i = 0; i < CLIENTS; i++) {
        CHECK(pthread_create(&clients[i], NULL, run_client, (void *)(i + 1)) == 0);
    }
    for (int number = 0; number < 200; number++) {
        site_hold(&all, number);
        authz_counts counts;
        authz_listener_count(all.listener, &counts);
        (void)authz_listener_refused(all.listener);
        usleep(500);
        if (number % 10 == 9) {
            authz_standing_close(authz_listener_standing(all.listener));
        }
    }
    site_hold(&all, 1);
    for (uintptr_t i = 0; i < CLIENTS; i++) {
        CHECK(pthread_join(clients[i], NULL) == 0);
    }
    authz_listener_drain(all.listener);
    site_close(&all);
    return 0;
}
