/* Products of blocks that lie in the cache, summed in fp32: of fp32 words, or of words of two bf16 numbers each. */
#ifndef TUNESMITH_TILES_H
#define TUNESMITH_TILES_H
#include "lanes.h"

/* As many sums as hide the time of an addition and leave registers for what is multiplied. */
enum { TILE_ROWS = 4, TILE_LANES = LANES == 16 ? 4 : 3 };

#if HAS_PAIRS
INLINE Lanes multiply_pairs(Lanes sum, Lanes a, Lanes b) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }
#else
/* Never called: no table of tiles has it. */
INLINE Lanes multiply_pairs(Lanes sum, Lanes a, Lanes b) { return (void)a, (void)b, sum; }
#endif

/* Words from a table of any strides: rows a_row apart, depth a_k apart. */
typedef struct {
    const float *at;
    int64_t row, k;
} Strided;

INLINE void tile(const int pairs, const int rows, const int lanes, int64_t depth, Strided a, const float *b,
                 int64_t b_k, float *c, int64_t c_row, int adds) {
    Lanes sum[TILE_ROWS][TILE_LANES];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < lanes; v++) sum[r][v] = adds ? load(c + r * c_row + v * LANES) : all_of(0);
    for (int64_t k = 0; k < depth; k++, b += b_k) {
        Lanes w[TILE_LANES];
        for (int v = 0; v < lanes; v++) w[v] = load(b + v * LANES);
        for (int r = 0; r < rows; r++) {
            const Lanes x = all_of(a.at[r * a.row + k * a.k]);
            for (int v = 0; v < lanes; v++)
                if (pairs)
                    sum[r][v] = multiply_pairs(sum[r][v], x, w[v]);
                else
                    sum[r][v] += x * w[v];
        }
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < lanes; v++) store(c + r * c_row + v * LANES, sum[r][v]);
}

typedef void Tile(int64_t depth, Strided a, const float *b, int64_t b_k, float *c, int64_t c_row, int adds);

#define TILE(P, R, V)                                                                                          \
    static void tile_##P##R##V(int64_t depth, Strided a, const float *b, int64_t b_k, float *c, int64_t c_row, \
                               int adds) {                                                                     \
        tile(P, R, V, depth, a, b, b_k, c, c_row, adds);                                                       \
    }
#if LANES_ARE_16
#define TILES(P, R) TILE(P, R, 1) TILE(P, R, 2) TILE(P, R, 3) TILE(P, R, 4)
#define NAMES(P, R) {tile_##P##R##1, tile_##P##R##2, tile_##P##R##3, tile_##P##R##4}
#else
#define TILES(P, R) TILE(P, R, 1) TILE(P, R, 2) TILE(P, R, 3)
#define NAMES(P, R) {tile_##P##R##1, tile_##P##R##2, tile_##P##R##3}
#endif
#define OF_KIND(P) TILES(P, 1) TILES(P, 2) TILES(P, 3) TILES(P, 4)
OF_KIND(0)
#define TABLE(P) {NAMES(P, 1), NAMES(P, 2), NAMES(P, 3), NAMES(P, 4)}
#if HAS_PAIRS
OF_KIND(1)
static Tile *const tiles[1 + HAS_PAIRS][TILE_ROWS][TILE_LANES] = {TABLE(0), TABLE(1)};
#else
static Tile *const tiles[1][TILE_ROWS][TILE_LANES] = {TABLE(0)};
#endif

/* c (rows, lanes * LANES) = or += a b; at most TILE_ROWS rows. */
INLINE void few_rows(int pairs, int64_t rows, int64_t lanes, int64_t depth, Strided a, const float *b, int64_t b_k,
                     float *c, int64_t c_row, int adds) {
    for (int64_t v = 0; v < lanes; v += TILE_LANES) {
        const int64_t count = lanes - v < TILE_LANES ? lanes - v : TILE_LANES;
        tiles[pairs][rows - 1][count - 1](depth, a, b + v * LANES, b_k, c + v * LANES, c_row, adds);
    }
}
#endif
