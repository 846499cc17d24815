/* SipHash (Aumasson, Bernstein: "SipHash: a fast short-input PRF", 2012): a hash that
 * nobody can find collisions for who does not know its key. */

#ifndef AUTHZ_CORE_SIPHASH_H
#define AUTHZ_CORE_SIPHASH_H

#include <stddef.h>
#include <stdint.h>

#define AUTHZ_SEED_BYTES 16

typedef struct {
    uint64_t k0, k1;
} authz_siphash_key;

/* The two halves of a seed, little-endian as in the paper. */
authz_siphash_key authz_siphash_key_of(const unsigned char seed[AUTHZ_SEED_BYTES]);

/* SipHash-1-3: what a hash table needs. Rust and CPython chose the same for theirs: the
 * outputs are never shown, so an attacker has only timing to go by. */
uint64_t authz_siphash_1_3(authz_siphash_key key, const void *data, size_t len);

/* SipHash-2-4, the paper's own parameters, for its test vectors. */
uint64_t authz_siphash_2_4(authz_siphash_key key, const void *data, size_t len);

#endif
