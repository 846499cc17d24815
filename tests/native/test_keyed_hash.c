/* The hash of the tables: what it is, by another way to multiply, and that every bit of
 * text and key counts. */

#include <stdbool.h>
#include <string.h>

#include "keyed_hash.h"
#include "testing.h"

#define MOST 20000

static unsigned char text[MOST];

static authz_hash_key
key_of(unsigned char first)
{
    const unsigned char seed[AUTHZ_SEED_BYTES] = {first, 1, 2, 3};
    return authz_hash_key_of(seed);
}

/* `sum` += a * b, by halves as at school. */
static void
add_product(uint64_t sum[2], uint64_t a, uint64_t b)
{
    const uint64_t al = a & 0xffffffff, ah = a >> 32, bl = b & 0xffffffff, bh = b >> 32;
    const uint64_t low = al * bl, one = ah * bl, other = al * bh;
    const uint64_t middle = (low >> 32) + (one & 0xffffffff) + (other & 0xffffffff);
    const uint64_t product = (low & 0xffffffff) | middle << 32;
    sum[0] += product;
    sum[1] += ah * bh + (one >> 32) + (other >> 32) + (middle >> 32) + (sum[0] < product);
}

/* The same hash, slowly, of a text of up to 16 blocks. */
static uint64_t
slowly(const authz_hash_key *key, size_t len)
{
    uint64_t digests[33];
    size_t count = 0;
    for (size_t begin = 0; begin < len; begin += AUTHZ_HASH_BLOCK_BYTES) {
        uint64_t sum[2] = {0, 0};
        for (size_t i = 0; i < AUTHZ_HASH_BLOCK_BYTES && begin + i < len; i += 16) {
            uint64_t words[2] = {0, 0};
            const size_t left = len - begin - i;
            memcpy(words, text + begin + i, left < 16 ? left : 16);
            add_product(sum, words[0] + key->nh[i / 8], words[1] + key->nh[i / 8 + 1]);
        }
        digests[count++] = sum[0];
        digests[count++] = sum[1];
    }
    digests[count++] = len;
    return authz_siphash_1_3(key->siphash, digests, 8 * count);
}

static void
check_what_it_is(void)
{
    const authz_hash_key key = key_of(0);
    for (size_t len = 0; len <= 16 * AUTHZ_HASH_BLOCK_BYTES; len++) {
        CHECK(authz_keyed_hash(&key, text, len) == slowly(&key, len));
    }
}

/* Also at the lengths where digests are gathered anew. */
static void
check_that_every_bit_counts(void)
{
    static const size_t lengths[] = {1,    15,   16,   17,   255,  256,  257,
                                     4095, 4096, 4097, 8191, 8192, 8193, MOST};
    const authz_hash_key key = key_of(0), other = key_of(1);
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        const size_t len = lengths[i];
        const uint64_t hash = authz_keyed_hash(&key, text, len);
        CHECK(hash != authz_keyed_hash(&other, text, len));
        CHECK(hash != authz_keyed_hash(&key, text, len - 1));
        for (size_t bit = 0; bit < 8 * len; bit += len > 300 ? 7 : 1) {
            text[bit / 8] ^= (unsigned char)(1 << bit % 8);
            CHECK(hash != authz_keyed_hash(&key, text, len));
            text[bit / 8] ^= (unsigned char)(1 << bit % 8);
        }
    }
}

/* Zeros behind a text make another one, though a block is filled up with zeros. */
static void
check_lengths(void)
{
    static const unsigned char zeros[1000];
    static uint64_t hashes[sizeof zeros + 1];
    const authz_hash_key key = key_of(0);
    for (size_t len = 0; len <= sizeof zeros; len++) {
        hashes[len] = authz_keyed_hash(&key, zeros, len);
        for (size_t shorter = 0; shorter < len; shorter++) {
            CHECK(hashes[shorter] != hashes[len]);
        }
    }
}

/* Texts that differ in a number fill 2^16 places as chance would: of as many, 1/e stay
 * empty, give or take 0.2 %. */
static void
check_places(void)
{
    enum { PLACES = 1 << 16 };
    const authz_hash_key key = key_of(0);
    for (unsigned shift = 0; shift <= 48; shift += 16) {
        static bool is_taken[PLACES];
        memset(is_taken, 0, sizeof is_taken);
        size_t empty = PLACES;
        for (uint32_t number = 0; number < PLACES; number++) {
            memcpy(text + 500, &number, sizeof number);
            const size_t place =
                (size_t)(authz_keyed_hash(&key, text, 900) >> shift) % PLACES;
            empty -= !is_taken[place];
            is_taken[place] = true;
        }
        CHECK(empty > 23600 && empty < 24620);
    }
}

int
main(void)
{
    uint64_t state = 1;
    for (size_t i = 0; i < MOST; i++) {
        text[i] = (unsigned char)next_random(&state);
    }
    check_what_it_is();
    check_that_every_bit_counts();
    check_lengths();
    check_places();
    return 0;
}
