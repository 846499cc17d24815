/* Answers checks from memory, for one thread: extract, recall, record.
 *
 *     ask ──► remembered: its event is written with those of the turn, then it is given
 *         ──► the same is being decided: waits, and asks again once it has been
 *         ──► else a miss: a worker of the host decides it
 *
 * An answer is given only after its event is written, and many events are written at
 * once: `settle` ends a turn, all that one read has brought. If they cannot be written,
 * nothing of the turn is given, and the host is asked instead: it says no, and why. */

#ifndef AUTHZ_CORE_CHECKS_H
#define AUTHZ_CORE_CHECKS_H

#include "audit_event.h"
#include "audit_file.h"
#include "cache.h"
#include "extract.h"
#include "keyed_hash.h"
#include "misses.h"
#include "standing.h"
#include "tally.h"

/* Where in authz_checks.recalled a check has what was remembered of it and what its event
 * is to say: one behind the other. */
typedef struct authz_recalled {
    size_t at;
    size_t response_length, record_length, request_id_length, source_length;
    uint8_t reason;
} authz_recalled;

/* One question. Whoever asks makes it, and has it back with `give`. */
typedef struct authz_check {
    authz_buffer raw;    /* may be empty once the check is given back */
    authz_span message;  /* CheckRequest: `raw`, or what is there until the turn is settled */
    authz_instant arrived;
    bool is_given_up;        /* nobody waits for the answer; it goes on record */
    struct authz_miss *miss; /* that was made of it; NULL: none, or answered */
    struct authz_check *next;
    authz_recalled recalled; /* of one that memory answers, until it is settled */
} authz_check;

/* What all threads share. It outlives them. */
typedef struct authz_common {
    const authz_allocator *allocator;
    const authz_plan *plan;
    authz_cache *cache;
    authz_audit_file *audit;
    authz_standing *standing;
    authz_tally *tally;
    authz_misses *misses;
    authz_hash_key hash_key;
    size_t max_message_bytes;
} authz_common;

/* Gives a check back, with its CheckResponse; an empty one: there will be none. Must not
 * ask. */
typedef void (*authz_give)(void *context, authz_check *check, authz_span answer);

#define AUTHZ_MISS_BUCKETS 1024

typedef struct authz_checks {
    const authz_common *common;
    authz_inbox *inbox;
    authz_give give;
    void *context;
    authz_extraction extraction;
    authz_revision_copy revision;
    authz_buffer recalled; /* of the checks that memory answers in this turn */
    authz_buffer events;
    authz_date date;
    authz_check *remembered, **remembered_end; /* of this turn */
    authz_miss *being_decided[AUTHZ_MISS_BUCKETS];
    size_t open; /* asked and not given back */
} authz_checks;

void authz_checks_init(authz_checks *checks, const authz_common *common,
                       authz_inbox *inbox, authz_give give, void *context);

/* Frees what it holds. No check may be open. */
void authz_checks_release(authz_checks *checks);

/* Asks. The check is out of the caller's hands until it is given back. */
void authz_checks_ask(authz_checks *checks, authz_check *check);

/* Notes that nobody waits for the answer of a check that is out any more. */
void authz_checks_give_up(authz_checks *checks, authz_check *check);

/* Takes what a worker has answered. */
void authz_checks_decided(authz_checks *checks, authz_miss *miss);

/* Puts the events of this turn on record, and gives its answers. */
void authz_checks_settle(authz_checks *checks);

#endif
