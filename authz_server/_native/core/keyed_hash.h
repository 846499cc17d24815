/* A hash for tables whose keys callers choose: who does not know its key finds no two
 * texts that meet, and long texts cost little.
 *
 *     text ─► blocks of 256 bytes ─► NH: 16 bytes each ─► SipHash-1-3 ─► 64 bits
 *
 * That is how UMAC and VMAC are built (Black, Halevi, Krawczyk, Krovetz, Rogaway: "UMAC:
 * fast and secure message authentication", 1999). NH takes one multiplication for 16
 * bytes, and two blocks meet in it with a probability of 2^-64, whatever they are; but what
 * it gives would tell of its key, so a pseudorandom function is put behind it.
 *
 * The result depends on the byte order of the machine: it is not for storing. */

#ifndef AUTHZ_CORE_KEYED_HASH_H
#define AUTHZ_CORE_KEYED_HASH_H

#include "siphash.h"

#define AUTHZ_HASH_BLOCK_BYTES 256

typedef struct authz_hash_key {
    authz_siphash_key siphash;
    uint64_t nh[AUTHZ_HASH_BLOCK_BYTES / 8];
} authz_hash_key;

authz_hash_key authz_hash_key_of(const unsigned char seed[AUTHZ_SEED_BYTES]);

uint64_t authz_keyed_hash(const authz_hash_key *key, const void *data, size_t len);

#endif
