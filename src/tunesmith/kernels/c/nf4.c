/* Weights in 4 bits, unpacked: two values a byte, the first in the high half, in blocks of 64 with one magnitude. */
#include "lanes.h"
#include <omp.h>

enum { BLOCK_VALUES = 64 };

#if LANES_ARE_16
typedef Lanes Table;
INLINE Table table_of(const float *level) { return load(level); }
INLINE Lanes look_up(Table t, Whole at) { return _mm512_permutexvar_ps((__m512i)at, t); }
INLINE Whole numbers_of(const uint8_t *codes) {
    const __m128i b = _mm_loadl_epi64((const __m128i *)codes), mask = _mm_set1_epi8(15);
    const __m128i first = _mm_and_si128(_mm_srli_epi16(b, 4), mask), second = _mm_and_si128(b, mask);
    return (Whole)_mm512_cvtepu8_epi32(_mm_unpacklo_epi8(first, second));
}
#else
typedef struct {
    Lanes low, high;
} Table;
INLINE Table table_of(const float *level) { return (Table){load(level), load(level + 8)}; }
INLINE Lanes look_up(Table t, Whole at) {
    const __m256i i = (__m256i)at;
    const Lanes low = _mm256_permutevar8x32_ps(t.low, i), high = _mm256_permutevar8x32_ps(t.high, i);
    /* The sign bit chooses. */
    return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(i, 28)));
}
INLINE Whole numbers_of(const uint8_t *codes) {
    int32_t four;
    memcpy(&four, codes, 4);
    const __m128i b = _mm_cvtsi32_si128(four), mask = _mm_set1_epi8(15);
    const __m128i first = _mm_and_si128(_mm_srli_epi16(b, 4), mask), second = _mm_and_si128(b, mask);
    return (Whole)_mm256_cvtepu8_epi32(_mm_unpacklo_epi8(first, second));
}
#endif

/* count values in fp32, or bf16 if half: the level (of 16) times its block's magnitude, rounded once. */
void unpack_nf4(int64_t half, int64_t count, const uint8_t *codes, const float *magnitude, const float *level,
                void *out, int64_t threads) {
    const int64_t blocks = (count + BLOCK_VALUES - 1) / BLOCK_VALUES, num_codes = (count + 1) / 2;
#pragma omp parallel for num_threads(threads) if (count > FEW_NUMBERS)
    for (int64_t b = 0; b < blocks; b++) {
        const Table table = table_of(level);
        for (int64_t i = b * BLOCK_VALUES; i < (b + 1) * BLOCK_VALUES && i < count; i += LANES) {
            uint8_t last[LANES / 2] = {0};
            const uint8_t *from = codes + i / 2;
            if (i / 2 + LANES / 2 > num_codes) from = memcpy(last, from, num_codes - i / 2);
            put(out, i, half, count - i, look_up(table, numbers_of(from)) * magnitude[b]);
        }
    }
}
