#include "keyed_hash.h"

#include <string.h>

/* Of so many blocks digests are gathered before they are hashed. */
#define BLOCKS 16

/* Where the server runs there is such a type: WebAssembly's engine needs 64 bits too. */
__extension__ typedef unsigned __int128 wide;

authz_hash_key
authz_hash_key_of(const unsigned char seed[AUTHZ_SEED_BYTES])
{
    authz_hash_key key = {.siphash = authz_siphash_key_of(seed)};
    /* One byte long, so none of these is ever asked for below. */
    for (unsigned char i = 0; i < sizeof key.nh / sizeof *key.nh; i++) {
        key.nh[i] = authz_siphash_2_4(key.siphash, &i, 1);
    }
    return key;
}

static inline wide
product(const unsigned char *pair, const uint64_t *key)
{
    uint64_t words[2];
    memcpy(words, pair, sizeof words);
    return (wide)(words[0] + key[0]) * (words[1] + key[1]);
}

/* Of up to AUTHZ_HASH_BLOCK_BYTES, filled up with zeros. */
static inline wide
nh(const uint64_t *key, const unsigned char *bytes, size_t len)
{
    /* Two sums: neither waits for the other's carry. */
    wide sum = 0, other = 0;
    for (; len >= 32; bytes += 32, len -= 32, key += 4) {
        sum += product(bytes, key);
        other += product(bytes + 16, key + 2);
    }
    sum += other;
    if (len >= 16) {
        sum += product(bytes, key);
        bytes += 16;
        len -= 16;
        key += 2;
    }
    if (len > 0) {
        unsigned char last[16] = {0};
        memcpy(last, bytes, len);
        sum += product(last, key);
    }
    return sum;
}

uint64_t
authz_keyed_hash(const authz_hash_key *key, const void *data, size_t len)
{
    uint64_t digests[2 * BLOCKS + 1];
    size_t count = 0;
    const unsigned char *bytes = data;
    for (size_t left = len; left > 0;) {
        const size_t part = left < AUTHZ_HASH_BLOCK_BYTES ? left : AUTHZ_HASH_BLOCK_BYTES;
        const wide sum = nh(key->nh, bytes, part);
        if (count + 2 >= sizeof digests / sizeof *digests) {
            digests[0] = authz_siphash_1_3(key->siphash, digests, count * sizeof *digests);
            count = 1;
        }
        digests[count++] = (uint64_t)sum;
        digests[count++] = (uint64_t)(sum >> 64);
        bytes += part;
        left -= part;
    }
    digests[count++] = len;
    return authz_siphash_1_3(key->siphash, digests, count * sizeof *digests);
}
