/* What attention.c works on: the numbers of a forest, and how a thread lays them out in blocks. */
#ifndef TUNESMITH_ATTENTION_H
#define TUNESMITH_ATTENTION_H
#include "tiles.h"

enum { BLOCK = 64, MOST_WIDTH = 4096 };

typedef struct {
    int64_t tokens, heads, kv_heads, width, trees, parts, threads, window, half,
        most_blocks; /* window 0: all is seen */
    /* Members of the trees, tree by tree, parents first; of each segment where it lies, its parent or -1, the number of
     * its first block in its tree. */
    const int64_t *first_member, *member, *start, *length, *parent, *block, *positions;
    const void *q, *k, *v; /* (tokens, heads or kv_heads, width) in fp32, or bf16 if half */
    void *out;
    float *log_sum; /* (heads, tokens) */
    const void *out_grad;
    void *q_grad, *k_grad, *v_grad;
    float *sums; /* (2, parts * kv_heads, tokens, width made whole lanes): gradients of keys, of values */
    float *space;
    double scale;
} Attention;

/* What a thread works in. across: transposed, a word of all tokens of a block side by side; along: token by token. */
typedef struct {
    float *across_k, *across_v, *along_k, *along_v;
    float *rows_q, *rows_g, *along_q, *along_g;
    float *scores, *grads, *pairs_p, *pairs_s, *rows_s, *mixed, *part;
} Room;

typedef struct {
    int64_t pairs, words, deep, wide; /* words a token; words of 64 tokens laid along; lanes' width */
} Form;

static Form form_of(const Attention *a) {
    const int64_t pairs = a->half && HAS_PAIRS;
    return (Form){pairs, pairs ? (a->width + 1) / 2 : a->width, pairs ? BLOCK / 2 : BLOCK,
                  (a->width + LANES - 1) / LANES * LANES};
}

/* Lays a thread's room out from ``at``; returns how many floats it takes. */
static int64_t lay_out(const Attention *a, float *at, Room *room) {
    const Form f = form_of(a);
    const int64_t across = a->most_blocks * f.words * BLOCK, along = a->most_blocks * f.deep * f.wide;
    const int64_t rows = BLOCK * f.words, one_along = f.deep * f.wide, square = BLOCK * BLOCK;
    const int64_t sizes[] = {across, across, along,  along,  rows,   rows,           one_along,      one_along,
                             square, square, square, square, square, BLOCK * f.wide, BLOCK * f.words};
    float **parts[] = {&room->across_k, &room->across_v, &room->along_k, &room->along_v, &room->rows_q,
                       &room->rows_g,   &room->along_q,  &room->along_g, &room->scores,  &room->grads,
                       &room->pairs_p,  &room->pairs_s,  &room->rows_s,  &room->mixed,   &room->part};
    int64_t taken = 0;
    for (int i = 0; i < 15; i++) {
        *parts[i] = at + taken;
        taken += (sizes[i] + 15) / 16 * 16;
    }
    return taken;
}

/* n tokens of one head, stride numbers apart, as rows of words. */
static void to_rows(const Attention *a, const void *from, int64_t stride, int64_t n, float *rows) {
    const Form f = form_of(a);
    for (int64_t i = 0; i < n; i++, rows += f.words) {
        if (!a->half) {
            memcpy(rows, (const float *)from + i * stride, a->width * sizeof(float));
            continue;
        }
        const uint16_t *x = (const uint16_t *)from + i * stride;
        if (f.pairs) {
            rows[f.words - 1] = 0;
            memcpy(rows, x, a->width * sizeof(uint16_t));
        } else
            for (int64_t d = 0; d < a->width; d += LANES) put(rows, d, 0, a->width - d, get(x, d, 1, a->width - d));
    }
}

/* Rows of words (n, words) -> (words, BLOCK), whole lanes of it. */
static void transpose(const Form f, const float *rows, int64_t n, float *across) {
    const int64_t whole = (n + LANES - 1) / LANES * LANES;
    for (int64_t w = 0; w < f.words; w++) {
        for (int64_t i = 0; i < n; i++) across[w * BLOCK + i] = rows[i * f.words + w];
        for (int64_t i = n; i < whole; i++) across[w * BLOCK + i] = 0;
    }
}

/* n tokens of one head token by token, in pairs of tokens for bf16 words; what is missing to a pair or lane is 0. */
static void lay_along(const Attention *a, const void *from, int64_t stride, int64_t n, float *along) {
    const Form f = form_of(a);
    if (!f.pairs) {
        for (int64_t i = 0; i < n; i++, along += f.wide) {
            for (int64_t d = a->width; d < f.wide; d++) along[d] = 0;
            to_rows(a,
                    a->half ? (const void *)((const uint16_t *)from + i * stride)
                            : (const void *)((const float *)from + i * stride),
                    stride, 1, along);
        }
        return;
    }
    static const uint16_t nothing[MOST_WIDTH];
    for (int64_t i = 0; i < n; i += 2, along += f.wide) {
        const uint16_t *first = (const uint16_t *)from + i * stride, *second = i + 1 < n ? first + stride : nothing;
        uint32_t *words = (uint32_t *)along;
        for (int64_t d = 0; d < a->width; d++) words[d] = first[d] | (uint32_t)second[d] << 16;
        for (int64_t d = a->width; d < f.wide; d++) words[d] = 0;
    }
}

static void write_row(const Attention *a, void *to, int64_t index, const float *x, float factor) {
    for (int64_t d = 0; d < a->width; d += LANES)
        put(to, index * a->width + d, a->half, a->width - d, load(x + d) * factor);
}

static const void *numbers_at(const Attention *a, const void *of, int64_t heads, int64_t t, int64_t head) {
    const int64_t skipped = (t * heads + head) * a->width;
    return a->half ? (const void *)((const uint16_t *)of + skipped) : (const void *)((const float *)of + skipped);
}

/* Keys and values of one head of a tree, in the forms that are asked for (NULL: not this one). */
static void lay_tree(const Attention *a, Room *room, int64_t tree, int64_t g, int backward) {
    const Form f = form_of(a);
    const int64_t stride = a->kv_heads * a->width;
    for (int64_t m = a->first_member[tree]; m < a->first_member[tree + 1]; m++) {
        const int64_t s = a->member[m];
        for (int64_t first = 0, b = a->block[s]; first < a->length[s]; first += BLOCK, b++) {
            const int64_t n = a->length[s] - first < BLOCK ? a->length[s] - first : BLOCK;
            const void *k = numbers_at(a, a->k, a->kv_heads, a->start[s] + first, g);
            const void *v = numbers_at(a, a->v, a->kv_heads, a->start[s] + first, g);
            to_rows(a, k, stride, n, room->part);
            transpose(f, room->part, n, room->across_k + b * f.words * BLOCK);
            if (!backward) {
                lay_along(a, v, stride, n, room->along_v + b * f.deep * f.wide);
                continue;
            }
            to_rows(a, v, stride, n, room->part);
            transpose(f, room->part, n, room->across_v + b * f.words * BLOCK);
            lay_along(a, k, stride, n, room->along_k + b * f.deep * f.wide);
        }
    }
}
#endif
