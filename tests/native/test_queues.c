/* What threads of the listener hand to one another: misses, letters, happenings, and the
 * standing. With threads they are in threads_listener.c. */

#include <math.h>
#include <poll.h>

#include "extract_harness.h"
#include "host.h"
#include "misses.h"
#include "standing.h"
#include "tally.h"

#define MISSES 6

static bool
is_readable(int descriptor)
{
    struct pollfd one = {descriptor, POLLIN, 0};
    return poll(&one, 1, 0) == 1;
}

static void
check_taken(authz_misses *misses, authz_duty duty, authz_miss *expected,
            authz_wanted wanted)
{
    authz_wanted got;
    CHECK(authz_misses_take(misses, duty, &got) == expected);
    CHECK(expected == NULL || got == wanted);
}

static void
check_misses(void)
{
    const authz_allocator allocator = authz_system_allocator();
    authz_inbox inbox;
    authz_misses misses;
    authz_miss all[MISSES];
    memset(all, 0, sizeof all);
    CHECK(authz_inbox_open(&inbox) && authz_misses_init(&misses, 3));
    for (int i = 0; i < MISSES; i++) {
        all[i].inbox = &inbox;
        authz_buffer_init(&all[i].raw, &allocator, SIZE_MAX);
        CHECK(authz_buffer_reserve(&all[i].raw, 20000));
        all[i].raw.length = i == 1 ? AUTHZ_MAX_ABANDONED_BYTES + 1u : 10;
        CHECK(authz_misses_put(&misses, &all[i]));
    }
    /* Room for three: the others are refused, and need not wait for those. */
    CHECK(misses.open == 3);
    CHECK(authz_misses_await(&misses, AUTHZ_REFUSES));
    check_taken(&misses, AUTHZ_REFUSES, &all[3], AUTHZ_WANT_OVERLOADED);
    /* In the middle, last, and what a worker is at already. */
    check_taken(&misses, AUTHZ_DECIDES, &all[0], AUTHZ_WANT_DECISION);
    authz_misses_abandon(&misses, &all[0]);
    authz_misses_abandon(&misses, &all[1]);
    authz_misses_abandon(&misses, &all[1]);
    authz_misses_abandon(&misses, &all[4]); /* is refused anyway */
    CHECK(misses.open == 2);
    CHECK(all[1].raw.length == 0 && all[4].raw.length == 10);
    check_taken(&misses, AUTHZ_REFUSES, &all[4], AUTHZ_WANT_OVERLOADED);
    check_taken(&misses, AUTHZ_REFUSES, &all[5], AUTHZ_WANT_OVERLOADED);
    check_taken(&misses, AUTHZ_REFUSES, &all[1], AUTHZ_WANT_ABANDONED);
    check_taken(&misses, AUTHZ_DECIDES, &all[2], AUTHZ_WANT_DECISION);
    authz_misses_answer(&misses, &all[2], AUTHZ_WANT_DECISION);
    authz_misses_answer(&misses, &all[3], AUTHZ_WANT_OVERLOADED);
    authz_misses_answer(&misses, &all[1], AUTHZ_WANT_ABANDONED);
    CHECK(misses.open == 1);
    authz_misses_answer(&misses, &all[0], AUTHZ_WANT_DECISION);
    CHECK(misses.open == 0);
    CHECK(is_readable(inbox.wake));
    const authz_letter *letter = authz_inbox_take(&inbox);
    CHECK(letter == &all[2].letter && letter->next == &all[3].letter &&
          letter->next->next == &all[1].letter &&
          letter->next->next->next == &all[0].letter &&
          all[0].letter.next == NULL);
    CHECK(!is_readable(inbox.wake) && authz_inbox_take(&inbox) == NULL);

    /* Closed: what is left is given out, and nothing is taken in. */
    CHECK(authz_misses_put(&misses, &all[0]));
    authz_misses_close(&misses);
    CHECK(!authz_misses_put(&misses, &all[1]));
    CHECK(authz_misses_await(&misses, AUTHZ_DECIDES));
    check_taken(&misses, AUTHZ_DECIDES, &all[0], AUTHZ_WANT_DECISION);
    check_taken(&misses, AUTHZ_DECIDES, NULL, AUTHZ_WANT_DECISION);
    check_taken(&misses, AUTHZ_REFUSES, NULL, AUTHZ_WANT_DECISION);
    CHECK(!authz_misses_await(&misses, AUTHZ_DECIDES));
    CHECK(!authz_misses_await(&misses, AUTHZ_REFUSES));
    authz_misses_destroy(&misses);
    authz_inbox_wake(&inbox);
    CHECK(is_readable(inbox.wake));
    authz_inbox_close(&inbox);
    for (int i = 0; i < MISSES; i++) {
        authz_buffer_release(&all[i].raw);
    }
}

/* Abandoned in any order, from queues of any length: each is given out once. */
static void
check_any_order(void)
{
    enum { MOST = 40 };
    uint64_t random = 1;
    for (int round = 0; round < 300; round++) {
        authz_inbox inbox;
        authz_misses misses;
        authz_miss all[MOST];
        memset(all, 0, sizeof all);
        CHECK(authz_inbox_open(&inbox) && authz_misses_init(&misses, 30));
        size_t put = 0, taken = 0;
        for (int step = 0; step < 150; step++) {
            const uint64_t choice = next_random(&random);
            authz_wanted wanted;
            if (choice % 3 == 0 && put < MOST) {
                all[put].inbox = &inbox;
                CHECK(authz_misses_put(&misses, &all[put++]));
            } else if (choice % 3 == 1 && put > 0) {
                authz_misses_abandon(&misses, &all[choice / 3 % put]);
            } else {
                const authz_duty duty =
                    choice / 3 % 2 == 0 ? AUTHZ_DECIDES : AUTHZ_REFUSES;
                if (misses.queues[duty].first != NULL) {
                    authz_miss *miss = authz_misses_take(&misses, duty, &wanted);
                    authz_misses_answer(&misses, miss, wanted);
                    taken++;
                }
            }
        }
        authz_misses_close(&misses);
        authz_wanted wanted;
        for (int duty = 0; duty < 2; duty++) {
            authz_miss *miss;
            while ((miss = authz_misses_take(&misses, duty == 0 ? AUTHZ_DECIDES
                                                                 : AUTHZ_REFUSES,
                                             &wanted)) != NULL) {
                authz_misses_answer(&misses, miss, wanted);
                taken++;
            }
        }
        CHECK(taken == put && misses.open == 0);
        size_t letters = 0;
        for (authz_letter *at = authz_inbox_take(&inbox); at != NULL; at = at->next) {
            letters++;
        }
        CHECK(letters == put);
        authz_misses_destroy(&misses);
        authz_inbox_close(&inbox);
    }
}

static void
check_standing(void)
{
    authz_standing standing;
    authz_revision_copy copy;
    CHECK(authz_standing_init(&standing));
    CHECK(!authz_standing_get(&standing, -1e300, &copy));
    authz_standing_set(&standing, AUTHZ_SPAN("one"), 10);
    CHECK(authz_standing_get(&standing, 9.999, &copy) && copy.length == 3 &&
          memcmp(copy.bytes, "one", 3) == 0);
    CHECK(!authz_standing_get(&standing, 10, &copy));
    CHECK(!authz_standing_get(&standing, (double)NAN, &copy));
    authz_standing_set(&standing, (authz_span){NULL, 0}, 20);
    CHECK(authz_standing_get(&standing, 15, &copy) && copy.length == 0);
    static uint8_t longest[AUTHZ_MAX_REVISION_BYTES + 1];
    authz_standing_set(&standing, (authz_span){longest, AUTHZ_MAX_REVISION_BYTES}, 20);
    CHECK(authz_standing_get(&standing, 15, &copy) &&
          copy.length == AUTHZ_MAX_REVISION_BYTES);
    /* One that is too long closes, rather than let the one before it stand. */
    authz_standing_set(&standing, (authz_span){longest, sizeof longest}, 20);
    CHECK(!authz_standing_get(&standing, 15, &copy));
    authz_standing_set(&standing, AUTHZ_SPAN("two"), 20);
    authz_standing_close(&standing);
    CHECK(!authz_standing_get(&standing, -1e300, &copy));
    authz_standing_destroy(&standing);
}

static void
check_happenings(void)
{
    counting counts = {0};
    const authz_allocator allocator = counting_allocator(&counts);
    authz_happenings happenings;
    CHECK(authz_happenings_open(&happenings, &allocator));
    CHECK(!is_readable(happenings.wake) && authz_happenings_take(&happenings) == NULL);
    authz_buffer message;
    authz_buffer_init(&message, &allocator, 100);
    CHECK(authz_buffer_bytes(&message, AUTHZ_SPAN("hello")));
    CHECK(authz_happenings_put(&happenings, 7, AUTHZ_CALL_OPENED, 1, NULL));
    CHECK(authz_happenings_put(&happenings, 7, AUTHZ_CALL_MESSAGE, 0, &message));
    CHECK(message.length == 0 && message.data == NULL && message.limit == 100);
    CHECK(is_readable(happenings.wake));
    authz_happening *one = authz_happenings_take(&happenings);
    CHECK(one->kind == AUTHZ_CALL_OPENED && one->call == 7 && one->method == 1);
    authz_happening_free(&happenings, one);
    CHECK(is_readable(happenings.wake));
    one = authz_happenings_take(&happenings);
    CHECK(one->message.length == 5);
    authz_happening_free(&happenings, one);
    CHECK(!is_readable(happenings.wake));

    /* Without memory the message stays whose it was. */
    CHECK(authz_buffer_bytes(&message, AUTHZ_SPAN("hello")));
    counts.every = 1;
    CHECK(!authz_happenings_put(&happenings, 7, AUTHZ_CALL_MESSAGE, 0, &message));
    CHECK(message.length == 5);
    CHECK(authz_word_new(&allocator, 7, AUTHZ_SAY_END, AUTHZ_SPAN("x")) == NULL);
    counts.every = 0;
    CHECK(authz_happenings_put(&happenings, 7, AUTHZ_CALL_MESSAGE, 0, &message));
    authz_happenings_close(&happenings);
    counts.calls = 0;
    counts.every = 2;
    CHECK(authz_word_new(&allocator, 7, AUTHZ_SAY_END, AUTHZ_SPAN("x")) == NULL);
    CHECK(counts.live == 0);
}

static void
check_tally(void)
{
    static const double bounds_s[AUTHZ_MAX_BUCKETS + 1] = {1, 2};
    authz_tally tally;
    CHECK(!authz_tally_init(&tally, bounds_s, AUTHZ_MAX_BUCKETS + 1));
    CHECK(authz_tally_init(&tally, bounds_s, 2));
    authz_tally_add(&tally, 0, -1);
    authz_tally_add(&tally, 0, 1);
    authz_tally_add(&tally, 255, 1.5);
    authz_tally_add(&tally, 255, 3);
    authz_counts counts;
    authz_tally_read(&tally, &counts);
    CHECK(counts.reasons[0] == 2 && counts.reasons[255] == 2);
    CHECK(counts.buckets[0] == 2 && counts.buckets[1] == 1 && counts.buckets[2] == 1);
    CHECK(fabs(counts.sum_s - 4.5) < 1e-9);
    authz_tally_destroy(&tally);
}

int
main(void)
{
    check_misses();
    check_any_order();
    check_standing();
    check_happenings();
    check_tally();
    return 0;
}
