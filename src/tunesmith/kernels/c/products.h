/* Products with packed weights, and the few functions of numbers that a token needs besides.
 *
 * Weights lie in panels of 16 outputs: half: [panel][in][16] in fp16; int8: [panel][in / 2][16][2] in bytes, so that
 * two neighbouring inputs meet two neighbouring bytes in one multiply-add. Every number of a row is a sum in an order
 * that depends neither on the rows beside it nor on the threads.
 */
#include <immintrin.h>
#include <math.h>
#include <omp.h>
#include <sched.h>
#include <stdint.h>
#include <string.h>

enum { PANEL = 16, MOST_ROWS = 6, MOST_PANELS = 4, HALF = 0, INT8 = 1 };
/* Sums of 512 products of 15 and 7 bits fit 32 bits; longer ones go on in fp32. */
enum { LEVELS = 32767, PAIRS = 256 };
enum { SPINS = 2000 };

typedef struct {
    const void *weight;
    const float *step; /* int8: what one step of each output is */
    const float *bias; /* or NULL */
    int64_t in, out, kind;
} Linear;

typedef struct {
    int64_t arrived, turn;
} Meeting;

/* Threads wait here until all of them have come. */
static void meet(Meeting *m, int64_t of) {
    if (of == 1) return;
    const int64_t turn = __atomic_load_n(&m->turn, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&m->arrived, 1, __ATOMIC_ACQ_REL) == of) {
        __atomic_store_n(&m->arrived, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&m->turn, turn + 1, __ATOMIC_RELEASE);
        return;
    }
    for (int64_t spun = 0; __atomic_load_n(&m->turn, __ATOMIC_ACQUIRE) == turn; spun++) {
        /* Whoever is awaited may have no core: then give it ours. */
        if (spun < SPINS)
            _mm_pause();
        else
            sched_yield();
    }
}

#define INLINE static inline __attribute__((always_inline))

INLINE float sum8(__m256 v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}

/* exp to two units in the last place: 2^n times a polynomial on half a power of two around 0. */
INLINE __m256 exp8(__m256 x) {
    x = _mm256_min_ps(_mm256_max_ps(x, _mm256_set1_ps(-87.0f)), _mm256_set1_ps(88.0f));
    const __m256 n =
        _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693145752f), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(1.42860677e-6f), r);
    /* Taylor's coefficients; on |r| <= ln(2) / 2 the next term is below 2^-24. */
    __m256 p = _mm256_set1_ps(1.0f / 5040);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 720));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 120));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 24));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 6));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.5f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    const __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(p, _mm256_castsi256_ps(power));
}

static float dot(const float *a, const float *b, int64_t n) {
    __m256 s0 = _mm256_setzero_ps(), s1 = s0;
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        s0 = _mm256_fmadd_ps(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i), s0);
        s1 = _mm256_fmadd_ps(_mm256_loadu_ps(a + i + 8), _mm256_loadu_ps(b + i + 8), s1);
    }
    float s = sum8(_mm256_add_ps(s0, s1));
    for (; i < n; i++) s += a[i] * b[i];
    return s;
}

static void rms_norm(const float *x, const float *weight, float *y, int64_t n, float epsilon) {
    const float inverse = 1.0f / sqrtf(dot(x, x, n) / (float)n + epsilon);
    for (int64_t i = 0; i < n; i++) y[i] = x[i] * inverse * weight[i];
}

/* A row in 16 bits, an odd end filled with 0; returns what one of its steps is, which is no number if one of x is not.
 */
static float to_digits(const float *x, int16_t *digits, int64_t n) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 most = _mm256_setzero_ps(), wrong = most;
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m256 v = _mm256_loadu_ps(x + i);
        /* The largest of a number and no number is the number. */
        wrong = _mm256_or_ps(wrong, _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
        most = _mm256_max_ps(most, _mm256_andnot_ps(sign, v));
    }
    int no_number = _mm256_movemask_ps(wrong);
    float lanes[8], largest = 0;
    _mm256_storeu_ps(lanes, most);
    for (int lane = 0; lane < 8; lane++) largest = fmaxf(largest, lanes[lane]);
    for (; i < n; i++) {
        no_number |= isnan(x[i]);
        largest = fmaxf(largest, fabsf(x[i]));
    }
    const float factor = largest > 1e-30f ? LEVELS / largest : 0.0f;
    for (i = 0; i + 8 <= n; i += 8) {
        const __m256i whole = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i), _mm256_set1_ps(factor)));
        const __m128i low = _mm256_castsi256_si128(whole), high = _mm256_extracti128_si256(whole, 1);
        _mm_storeu_si128((__m128i *)(digits + i), _mm_packs_epi32(low, high));
    }
    for (; i < n; i++) digits[i] = (int16_t)lrintf(x[i] * factor);
    if (n & 1) digits[n] = 0;
    return no_number ? NAN : largest / LEVELS;
}

typedef __m256 Block[MOST_ROWS][2 * MOST_PANELS];

/* rows x panels of a half product; both are constants wherever this is compiled into. */
INLINE void half_block(const int rows, const int panels, const uint16_t *w, int64_t in, const float *x, Block acc) {
    __m256 sum[MOST_ROWS][2 * MOST_PANELS], b[2 * MOST_PANELS];
    const float *at[MOST_ROWS];
    for (int r = 0; r < rows; r++) {
        at[r] = x + r * in;
        for (int p = 0; p < 2 * panels; p++) sum[r][p] = _mm256_setzero_ps();
    }
    for (int64_t k = 0; k < in; k++, w += PANEL) {
        for (int p = 0; p < 2 * panels; p++)
            b[p] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(w + (p / 2) * in * PANEL + (p & 1) * 8)));
        for (int r = 0; r < rows; r++) {
            const __m256 a = _mm256_broadcast_ss(at[r] + k);
            for (int p = 0; p < 2 * panels; p++) sum[r][p] = _mm256_fmadd_ps(a, b[p], sum[r][p]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int p = 0; p < 2 * panels; p++) acc[r][p] = sum[r][p];
}

INLINE __m256i multiply_add(__m256i sum, __m256i a, __m256i b) {
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
    return _mm256_dpwssd_epi32(sum, a, b);
#else
    return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
#endif
}

INLINE void int8_block(const int rows, const int panels, const int8_t *w, int64_t in, const int16_t *x,
                       const float *row_step, const float *step, Block acc) {
    const int64_t pairs = (in + 1) / 2;
    for (int r = 0; r < rows; r++)
        for (int p = 0; p < 2 * panels; p++) acc[r][p] = _mm256_setzero_ps();
    for (int64_t first = 0; first < pairs; first += PAIRS) {
        const int64_t end = first + PAIRS < pairs ? first + PAIRS : pairs;
        __m256i sum[MOST_ROWS][2 * MOST_PANELS];
        for (int r = 0; r < rows; r++)
            for (int p = 0; p < 2 * panels; p++) sum[r][p] = _mm256_setzero_si256();
        for (int64_t k = first; k < end; k++) {
            __m256i b[2 * MOST_PANELS];
            for (int p = 0; p < 2 * panels; p++)
                b[p] = _mm256_cvtepi8_epi16(
                    _mm_loadu_si128((const __m128i *)(w + ((p / 2) * pairs + k) * 2 * PANEL + (p & 1) * 16)));
            for (int r = 0; r < rows; r++) {
                int32_t two;
                memcpy(&two, x + r * 2 * pairs + 2 * k, 4);
                const __m256i a = _mm256_set1_epi32(two);
                for (int p = 0; p < 2 * panels; p++) {
                    sum[r][p] = multiply_add(sum[r][p], a, b[p]);
                    /* Keeps the order: with all broadcasts first there are too few registers for the sums. */
                    __asm__ volatile("" : "+x"(sum[r][p]));
                }
            }
        }
        for (int r = 0; r < rows; r++)
            for (int p = 0; p < 2 * panels; p++) acc[r][p] = _mm256_add_ps(acc[r][p], _mm256_cvtepi32_ps(sum[r][p]));
    }
    for (int r = 0; r < rows; r++)
        for (int p = 0; p < 2 * panels; p++)
            acc[r][p] =
                _mm256_mul_ps(_mm256_mul_ps(acc[r][p], _mm256_loadu_ps(step + 8 * p)), _mm256_set1_ps(row_step[r]));
}

/* Adds a block to y, or sets it; the last panel may be wider than what is left of y. */
INLINE void store(const int rows, const int panels, const Linear *w, int64_t panel, float *y, int adds, Block acc) {
    for (int r = 0; r < rows; r++)
        for (int p = 0; p < 2 * panels; p++) {
            const int64_t first = panel * PANEL + 8 * p, left = w->out - first;
            float *out = y + r * w->out + first;
            __m256 sum = acc[r][p];
            if (left >= 8) {
                if (w->bias) sum = _mm256_add_ps(sum, _mm256_loadu_ps(w->bias + first));
                if (adds) sum = _mm256_add_ps(_mm256_loadu_ps(out), sum);
                _mm256_storeu_ps(out, sum);
                continue;
            }
            float kept[8];
            _mm256_storeu_ps(kept, sum);
            for (int64_t i = 0; i < left; i++) {
                if (w->bias) kept[i] += w->bias[first + i];
                out[i] = adds ? out[i] + kept[i] : kept[i];
            }
        }
}

#define BLOCK(R, P)                                                                                             \
    {                                                                                                           \
        Block acc;                                                                                              \
        if (w->kind == HALF)                                                                                    \
            half_block(R, P, (const uint16_t *)w->weight + panel * PANEL * w->in, w->in, x + row * w->in, acc); \
        else                                                                                                    \
            int8_block(R, P, (const int8_t *)w->weight + panel * PANEL * even, w->in, digits + row * even,      \
                       row_step + row, w->step + panel * PANEL, acc);                                           \
        store(R, P, w, panel, y + row * w->out, adds, acc);                                                     \
        break;                                                                                                  \
    }

/* Panels first..end of y (rows, out) = or += x W^T + bias; digits and row_step are x's for int8. */
static void panels_of(const Linear *w, const float *x, const int16_t *digits, const float *row_step, int64_t rows,
                      float *y, int adds, int64_t first, int64_t end) {
    const int64_t blocks = (rows + MOST_ROWS - 1) / MOST_ROWS, even = (w->in + 1) / 2 * 2;
    int64_t panel = first;
    /* One row leaves most of the registers free: four panels at once hide the time an addition takes. */
    for (int64_t row = 0; rows == 1 && panel + 4 <= end; panel += 4) do
            BLOCK(1, 4) while (0);
    for (int64_t row = 0; (rows == 2 || rows == 3) && panel + 2 <= end; panel += 2) switch (rows) {
            case 2:
            BLOCK(2, 2) case 3:
                BLOCK(3, 2)
        }
    for (; panel < end; panel++)
        for (int64_t block = 0; block < blocks; block++) {
            const int64_t row = rows * block / blocks;
            switch (rows * (block + 1) / blocks - row) {
                case 1:
                    BLOCK(1, 1)
                case 2:
                    BLOCK(2, 1)
                case 3:
                    BLOCK(3, 1)
                case 4:
                    BLOCK(4, 1)
                case 5:
                    BLOCK(5, 1)
                case 6:
                    BLOCK(6, 1)
            }
        }
}

static int64_t share(int64_t n, int64_t me, int64_t of) { return n * me / of; }

static int64_t num_panels(const Linear *w) { return (w->out + PANEL - 1) / PANEL; }
