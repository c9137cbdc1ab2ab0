/* Vectors as wide as the processor has them, and the functions of numbers that the kernels share. */
#ifndef TUNESMITH_LANES_H
#define TUNESMITH_LANES_H
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

/* The widest vectors of any processor: space is measured in them. */
enum { MOST_LANES = 16 };
/* Below so many numbers a team of threads takes longer to come together than the work. */
enum { FEW_NUMBERS = 16384 };

#define INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__) && defined(__AVX512BW__)
enum { LANES = 16 };
#define LANES_ARE_16 1
#ifdef __AVX512BF16__
#define HAS_PAIRS 1
#else
#define HAS_PAIRS 0
#endif
typedef __m512 Lanes;
typedef int32_t Whole __attribute__((vector_size(64)));
INLINE Lanes load(const float *x) { return _mm512_loadu_ps(x); }
INLINE void store(float *x, Lanes v) { _mm512_storeu_ps(x, v); }
INLINE Lanes all_of(float x) { return _mm512_set1_ps(x); }
INLINE Lanes larger(Lanes a, Lanes b) { return _mm512_max_ps(a, b); }
INLINE float largest_of(Lanes v) { return _mm512_reduce_max_ps(v); }
INLINE float sum_of(Lanes v) { return _mm512_reduce_add_ps(v); }
/* Four sums that together are the sum of all. */
INLINE __m128 quarter(Lanes v) {
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(v), (__m256)_mm512_extractf64x4_pd((__m512d)v, 1));
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}
INLINE Lanes load_bf16(const uint16_t *x) {
    return (Lanes)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)x)), 16);
}
INLINE Lanes load_fp16(const uint16_t *x) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)x)); }
/* Two bytes a word, in 16 bits each. */
INLINE Whole load_int8(const int8_t *x) { return (Whole)_mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)x)); }
INLINE Whole nearest(Lanes v) { return (Whole)_mm512_cvtps_epi32(v); }
/* The lower halves of words. */
INLINE void store_words(uint16_t *x, Whole v) { _mm256_storeu_si256((__m256i *)x, _mm512_cvtepi32_epi16((__m512i)v)); }
#else
enum { LANES = 8 };
#define LANES_ARE_16 0
#define HAS_PAIRS 0
typedef __m256 Lanes;
typedef int32_t Whole __attribute__((vector_size(32)));
INLINE Lanes load(const float *x) { return _mm256_loadu_ps(x); }
INLINE void store(float *x, Lanes v) { _mm256_storeu_ps(x, v); }
INLINE Lanes all_of(float x) { return _mm256_set1_ps(x); }
INLINE Lanes larger(Lanes a, Lanes b) { return _mm256_max_ps(a, b); }
INLINE __m128 quarter(Lanes v) { return _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1)); }
INLINE float largest_of(Lanes v) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_shuffle_ps(s, s, 1)));
}
INLINE float sum_of(Lanes v) {
    __m128 s = quarter(v);
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}
INLINE Lanes load_bf16(const uint16_t *x) {
    return (Lanes)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)x)), 16);
}
INLINE Lanes load_fp16(const uint16_t *x) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)x)); }
INLINE Whole load_int8(const int8_t *x) { return (Whole)_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)x)); }
INLINE Whole nearest(Lanes v) { return (Whole)_mm256_cvtps_epi32(v); }
INLINE void store_words(uint16_t *x, Whole v) {
    const __m256i low = (__m256i)(v & 0xffff), both = _mm256_packus_epi32(low, low);
    _mm_storeu_si128((__m128i *)x, _mm256_castsi256_si128(_mm256_permute4x64_epi64(both, 0x08)));
}
#endif

/* sum + a0 b0 + a1 b1 of the two 16-bit numbers of each word. */
INLINE Whole add_products(Whole sum, Whole a, Whole b) {
#if LANES_ARE_16 && defined(__AVX512VNNI__)
    return (Whole)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);
#elif LANES_ARE_16
    return sum + (Whole)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#else
    return sum + (Whole)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#endif
}
#if LANES_ARE_16
#define ANY_REGISTER(v) "+v"(v)
#else
#define ANY_REGISTER(v) "+x"(v)
#endif

INLINE Whole bits_of(Lanes v) { return (Whole)v; }
INLINE Lanes from_bits(Whole v) { return (Lanes)v; }
INLINE Whole all_whole(int32_t x) { return x - (Whole){0}; }

/* exp to two units in the last place: 2^n times Taylor's polynomial on |r| <= ln(2) / 2, where its next term is below
 * 2^-24. Below -87 it is 0; no number gives no number.
 */
INLINE Lanes exponential(Lanes x) {
    const Whole none = x<all_of(-87.0f), over = x> all_of(88.0f);
    x = from_bits((bits_of(all_of(88.0f)) & over) | (bits_of(x) & ~over & ~none));
    /* Adding and taking away 1.5 * 2^23 rounds to a whole number, which then lies in the lowest bits. */
    const Lanes shifted = x * 1.44269504f + 12582912.0f, n = shifted - 12582912.0f;
    Lanes r = x - n * 0.693145752f;
    r -= n * 1.42860677e-6f;
    Lanes p = r * (1.0f / 5040) + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    const Whole power = (bits_of(shifted) << 23) + (127 << 23);
    return from_bits(bits_of(p * from_bits(power)) & ~none);
}

INLINE Lanes sigmoid(Lanes x) { return 1.0f / (1.0f + exponential(-x)); }

/* bf16 in the upper half of each word, rounded to even; the lower half is to be cut off. */
INLINE Whole rounded(Lanes v) {
#if HAS_PAIRS
    return (Whole)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(v)), 16);
#else
    const Whole bits = bits_of(v), wrong = v != v, near = bits + 0x7fff + ((bits >> 16) & 1);
    return (near & ~wrong) | ((bits | 0x400000) & wrong);
#endif
}

/* As near as bf16 comes. */
INLINE Lanes as_bf16(Lanes v) { return from_bits(rounded(v) & ~0xffff); }

/* Words of two bf16 numbers, the first in the lower half. */
INLINE Lanes pair_of(Lanes first, Lanes second) {
    return from_bits(((rounded(first) >> 16) & 0xffff) | (rounded(second) & ~0xffff));
}

INLINE void store_bf16(uint16_t *x, Lanes v) {
#if HAS_PAIRS
    _mm256_storeu_si256((__m256i *)x, (__m256i)_mm512_cvtneps_pbh(v));
#else
    store_words(x, rounded(v) >> 16);
#endif
}

/* Numbers ``at`` and on of an fp32 array, or bf16 if half; of fewer than LANES the others are 0. */
INLINE Lanes get(const void *x, int64_t at, int half, int64_t n) {
    const float *wide = (const float *)x + at;
    const uint16_t *narrow = (const uint16_t *)x + at;
    if (n >= LANES) return half ? load_bf16(narrow) : load(wide);
    float few[LANES] = {0};
    uint16_t halves[LANES] = {0};
    memcpy(half ? (void *)halves : (void *)few, half ? (const void *)narrow : (const void *)wide, n * (half ? 2 : 4));
    return half ? load_bf16(halves) : load(few);
}

INLINE void put(void *x, int64_t at, int half, int64_t n, Lanes v) {
    float *wide = (float *)x + at;
    uint16_t *narrow = (uint16_t *)x + at;
    if (n >= LANES) {
        if (half)
            store_bf16(narrow, v);
        else
            store(wide, v);
        return;
    }
    float few[LANES];
    uint16_t halves[LANES];
    store(few, v);
    store_bf16(halves, v);
    memcpy(half ? (void *)narrow : (void *)wide, half ? (const void *)halves : (const void *)few, n * (half ? 2 : 4));
}

#endif
