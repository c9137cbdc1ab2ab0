/* Products with packed weights, and the few functions of numbers that a token needs besides.
 *
 * Weights lie in panels of 16 outputs: half: [panel][in][16] in fp16; int8: [panel][in / 2][16][2] in bytes, so that
 * two neighbouring inputs meet two neighbouring bytes in one multiply-add. Every number of a row is a sum in an order
 * that depends neither on the rows beside it nor on the threads.
 */
#include "lanes.h"
#include <omp.h>
#include <sched.h>

enum { PANEL = 16, PARTS = PANEL / LANES, HALF = 0, INT8 = 1 };
/* A block has as many sums as hide the time of an addition and fit the registers: 16 of them, or 32 with wide lanes. */
enum { MOST_ROWS = LANES == 16 ? 12 : 6, MOST_PANELS = 4 };
/* Sums of 512 products of 15 and 7 bits fit 32 bits; longer ones go on in fp32. */
enum { LEVELS = 32767, PAIRS = 256 };
/* How many bytes ahead weights are fetched: the processor's own fetching hides nothing behind the work of many rows. */
enum { AHEAD = 2048 };
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

static float dot(const float *a, const float *b, int64_t n) {
    Lanes s0 = all_of(0), s1 = s0;
    int64_t i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        s0 += load(a + i) * load(b + i);
        s1 += load(a + i + LANES) * load(b + i + LANES);
    }
    float s = sum_of(s0 + s1);
    for (; i < n; i++) s += a[i] * b[i];
    return s;
}

/* Four at once: of a and of rows of b that lie one behind the other. */
static void four_dots(const float *a, const float *b, int64_t n, float *out) {
    Lanes s0 = all_of(0), s1 = s0, s2 = s0, s3 = s0;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const Lanes v = load(a + i);
        s0 += v * load(b + i);
        s1 += v * load(b + n + i);
        s2 += v * load(b + 2 * n + i);
        s3 += v * load(b + 3 * n + i);
    }
    _mm_storeu_ps(out, _mm_hadd_ps(_mm_hadd_ps(quarter(s0), quarter(s1)), _mm_hadd_ps(quarter(s2), quarter(s3))));
    for (; i < n; i++)
        for (int r = 0; r < 4; r++) out[r] += a[i] * b[r * n + i];
}

static void rms_norm(const float *x, const float *weight, float *y, int64_t n, float epsilon) {
    const float inverse = 1.0f / sqrtf(dot(x, x, n) / (float)n + epsilon);
    for (int64_t i = 0; i < n; i++) y[i] = x[i] * inverse * weight[i];
}

/* A row in 16 bits, an odd end filled with 0; returns what one of its steps is, which is no number if one of x is not.
 */
static float to_digits(const float *x, int16_t *digits, int64_t n) {
    Lanes most = all_of(0);
    Whole wrong = bits_of(most);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const Lanes v = load(x + i);
        /* The largest of a number and no number is the number. */
        wrong |= v != v;
        most = larger(most, from_bits(bits_of(v) & 0x7fffffff));
    }
    /* All bits set are no number, which differs from itself. */
    int no_number = !(sum_of(from_bits(wrong)) == 0);
    float largest = largest_of(most);
    for (; i < n; i++) {
        no_number |= isnan(x[i]);
        largest = fmaxf(largest, fabsf(x[i]));
    }
    const float factor = largest > 1e-30f ? LEVELS / largest : 0.0f;
    for (i = 0; i + LANES <= n; i += LANES) store_words((uint16_t *)digits + i, nearest(load(x + i) * factor));
    for (; i < n; i++) digits[i] = (int16_t)lrintf(x[i] * factor);
    if (n & 1) digits[n] = 0;
    return no_number ? NAN : largest / LEVELS;
}

typedef Lanes Block[MOST_ROWS][PARTS * MOST_PANELS];

/* rows x panels of a half product; both are constants wherever this is compiled into. */
INLINE void half_block(const int rows, const int panels, const uint16_t *w, int64_t in, const float *x, Block acc) {
    Lanes sum[MOST_ROWS][PARTS * MOST_PANELS], b[PARTS * MOST_PANELS];
    const float *at[MOST_ROWS];
    for (int r = 0; r < rows; r++) {
        at[r] = x + r * in;
        for (int p = 0; p < PARTS * panels; p++) sum[r][p] = all_of(0);
    }
    for (int64_t k = 0; k < in; k++, w += PANEL) {
        for (int p = 0; p < panels; p++) _mm_prefetch((const char *)(w + p * in * PANEL) + AHEAD, _MM_HINT_T0);
        for (int p = 0; p < PARTS * panels; p++) b[p] = load_fp16(w + p / PARTS * in * PANEL + p % PARTS * LANES);
        for (int r = 0; r < rows; r++) {
            const Lanes a = all_of(at[r][k]);
            for (int p = 0; p < PARTS * panels; p++) sum[r][p] += a * b[p];
        }
    }
    for (int r = 0; r < rows; r++)
        for (int p = 0; p < PARTS * panels; p++) acc[r][p] = sum[r][p];
}

INLINE void int8_block(const int rows, const int panels, const int8_t *w, int64_t in, const int16_t *x,
                       const float *row_step, const float *step, Block acc) {
    const int64_t pairs = (in + 1) / 2;
    for (int r = 0; r < rows; r++)
        for (int p = 0; p < PARTS * panels; p++) acc[r][p] = all_of(0);
    for (int64_t first = 0; first < pairs; first += PAIRS) {
        const int64_t end = first + PAIRS < pairs ? first + PAIRS : pairs;
        Whole sum[MOST_ROWS][PARTS * MOST_PANELS];
        for (int r = 0; r < rows; r++)
            for (int p = 0; p < PARTS * panels; p++) sum[r][p] = (Whole){0};
        for (int64_t k = first; k < end; k++) {
            for (int p = 0; p < panels; p++)
                _mm_prefetch((const char *)w + (p * pairs + k) * 2 * PANEL + AHEAD, _MM_HINT_T0);
            Whole b[PARTS * MOST_PANELS];
            for (int p = 0; p < PARTS * panels; p++)
                b[p] = load_int8(w + (p / PARTS * pairs + k) * 2 * PANEL + p % PARTS * 2 * LANES);
            for (int r = 0; r < rows; r++) {
                int32_t two;
                memcpy(&two, x + r * 2 * pairs + 2 * k, 4);
                const Whole a = all_whole(two);
                for (int p = 0; p < PARTS * panels; p++) {
                    sum[r][p] = add_products(sum[r][p], a, b[p]);
                    /* Keeps the order: with all broadcasts first there are too few registers for the sums. */
                    __asm__ volatile("" : ANY_REGISTER(sum[r][p]));
                }
            }
        }
        for (int r = 0; r < rows; r++)
            for (int p = 0; p < PARTS * panels; p++) acc[r][p] += __builtin_convertvector(sum[r][p], Lanes);
    }
    for (int r = 0; r < rows; r++)
        for (int p = 0; p < PARTS * panels; p++) acc[r][p] = acc[r][p] * load(step + LANES * p) * row_step[r];
}

/* Adds a block to y, or sets it; the last panel may be wider than what is left of y. */
INLINE void finish(const int rows, const int panels, const Linear *w, int64_t panel, float *y, int adds, Block acc) {
    for (int r = 0; r < rows; r++)
        for (int p = 0; p < PARTS * panels; p++) {
            const int64_t first = panel * PANEL + LANES * p, left = w->out - first, at = r * w->out + first;
            if (left <= 0) continue;
            Lanes sum = acc[r][p];
            if (w->bias) sum += get(w->bias, first, 0, left);
            if (adds) sum += get(y, at, 0, left);
            put(y, at, 0, left, sum);
        }
}

/* What the rows of y are made of; digits and row_step are x's for int8. */
typedef struct {
    const Linear *w;
    const float *x;
    const int16_t *digits;
    const float *row_step;
    float *y;
    int adds;
} Product;

INLINE void block(const int rows, const int panels, const Product *t, int64_t row, int64_t panel) {
    const Linear *w = t->w;
    const int64_t even = (w->in + 1) / 2 * 2;
    Block acc;
    if (w->kind == HALF)
        half_block(rows, panels, (const uint16_t *)w->weight + panel * PANEL * w->in, w->in, t->x + row * w->in, acc);
    else
        int8_block(rows, panels, (const int8_t *)w->weight + panel * PANEL * even, w->in, t->digits + row * even,
                   t->row_step + row, w->step + panel * PANEL, acc);
    finish(rows, panels, w, panel, t->y + row * w->out, t->adds, acc);
}

/* Few rows leave registers free for more panels at once; rows that no block has are not asked for. */
#define BLOCK_OF(R, P) \
    static void block_##R##_##P(const Product *t, int64_t row, int64_t panel) { block(R, P, t, row, panel); }
/* clang-format off */
BLOCK_OF(1, 1) BLOCK_OF(2, 1) BLOCK_OF(3, 1) BLOCK_OF(4, 1) BLOCK_OF(5, 1) BLOCK_OF(6, 1)
BLOCK_OF(1, 2) BLOCK_OF(2, 2) BLOCK_OF(3, 2)
BLOCK_OF(1, 4)
#if LANES_ARE_16
BLOCK_OF(7, 1) BLOCK_OF(8, 1) BLOCK_OF(9, 1) BLOCK_OF(10, 1) BLOCK_OF(11, 1) BLOCK_OF(12, 1)
BLOCK_OF(4, 2) BLOCK_OF(5, 2) BLOCK_OF(6, 2) BLOCK_OF(7, 2) BLOCK_OF(8, 2) BLOCK_OF(9, 2) BLOCK_OF(10, 2) BLOCK_OF(11, 2)
BLOCK_OF(12, 2)
BLOCK_OF(2, 4) BLOCK_OF(3, 4)
enum { ROWS_BY_TWO = 12, ROWS_BY_FOUR = 3 };
static void (*const blocks_of[3][MOST_ROWS])(const Product *, int64_t, int64_t) = {
    {block_1_1, block_2_1, block_3_1, block_4_1, block_5_1, block_6_1, block_7_1, block_8_1, block_9_1, block_10_1,
     block_11_1, block_12_1},
    {block_1_2, block_2_2, block_3_2, block_4_2, block_5_2, block_6_2, block_7_2, block_8_2, block_9_2, block_10_2,
     block_11_2, block_12_2},
    {block_1_4, block_2_4, block_3_4}};
#else
enum { ROWS_BY_TWO = 3, ROWS_BY_FOUR = 1 };
static void (*const blocks_of[3][MOST_ROWS])(const Product *, int64_t, int64_t) = {
    {block_1_1, block_2_1, block_3_1, block_4_1, block_5_1, block_6_1}, {block_1_2, block_2_2, block_3_2}, {block_1_4}};
#endif
/* clang-format on */

/* Panels first..end of y (rows, out) = or += x W^T + bias. Few rows leave registers free: then several panels at once.
 */
static void panels_of(const Product *t, int64_t rows, int64_t first, int64_t end) {
    if (rows == 0) return;
    const int64_t blocks = (rows + MOST_ROWS - 1) / MOST_ROWS, most = (rows + blocks - 1) / blocks;
    for (int64_t panel = first, log; panel < end; panel += 1 << log) {
        log = most <= ROWS_BY_FOUR && panel + 4 <= end ? 2 : most <= ROWS_BY_TWO && panel + 2 <= end ? 1 : 0;
        for (int64_t i = 0; i < blocks; i++) {
            const int64_t row = rows * i / blocks;
            blocks_of[log][rows * (i + 1) / blocks - row - 1](t, row, panel);
        }
    }
}

static int64_t share(int64_t n, int64_t me, int64_t of) { return n * me / of; }

static int64_t num_panels(const Linear *w) { return (w->out + PANEL - 1) / PANEL; }
