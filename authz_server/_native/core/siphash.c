#include "siphash.h"

#define ROTATE(x, bits) (((x) << (bits)) | ((x) >> (64 - (bits))))

/* Byte by byte, so the machine's byte order does not matter; compilers make one load
 * of it where that is right. */
static inline uint64_t
little_endian(const unsigned char *bytes)
{
    return (uint64_t)bytes[0] | (uint64_t)bytes[1] << 8 | (uint64_t)bytes[2] << 16 |
           (uint64_t)bytes[3] << 24 | (uint64_t)bytes[4] << 32 |
           (uint64_t)bytes[5] << 40 | (uint64_t)bytes[6] << 48 |
           (uint64_t)bytes[7] << 56;
}

static inline void
rounds(uint64_t v[4], int count)
{
    for (int i = 0; i < count; i++) {
        v[0] += v[1];
        v[2] += v[3];
        v[1] = ROTATE(v[1], 13) ^ v[0];
        v[3] = ROTATE(v[3], 16) ^ v[2];
        v[0] = ROTATE(v[0], 32);
        v[2] += v[1];
        v[0] += v[3];
        v[1] = ROTATE(v[1], 17) ^ v[2];
        v[3] = ROTATE(v[3], 21) ^ v[0];
        v[2] = ROTATE(v[2], 32);
    }
}

static inline uint64_t
siphash(authz_siphash_key key, const void *data, size_t len, int in, int out)
{
    const unsigned char *bytes = data;
    const size_t words = len / 8;
    uint64_t v[4] = {
        key.k0 ^ 0x736f6d6570736575u, /* "somepseu" */
        key.k1 ^ 0x646f72616e646f6du, /* "dorandom" */
        key.k0 ^ 0x6c7967656e657261u, /* "lygenera" */
        key.k1 ^ 0x7465646279746573u, /* "tedbytes" */
    };
    for (size_t i = 0; i < words; i++) {
        const uint64_t word = little_endian(bytes + 8 * i);
        v[3] ^= word;
        rounds(v, in);
        v[0] ^= word;
    }
    uint64_t last = (uint64_t)len << 56;
    for (size_t i = 8 * words; i < len; i++) {
        last |= (uint64_t)bytes[i] << (8 * (i % 8));
    }
    v[3] ^= last;
    rounds(v, in);
    v[0] ^= last;
    v[2] ^= 0xff;
    rounds(v, out);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

authz_siphash_key
authz_siphash_key_of(const unsigned char seed[AUTHZ_SEED_BYTES])
{
    return (authz_siphash_key){little_endian(seed), little_endian(seed + 8)};
}

uint64_t
authz_siphash_1_3(authz_siphash_key key, const void *data, size_t len)
{
    return siphash(key, data, len, 1, 3);
}

uint64_t
authz_siphash_2_4(authz_siphash_key key, const void *data, size_t len)
{
    return siphash(key, data, len, 2, 4);
}
