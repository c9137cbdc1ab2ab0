/* Causal attention inside the segments of a packed forest, forward and backward, in blocks that stay in the cache.
 *
 * One piece of work is a key head of one tree (a root and all below it), so that no two threads add to one gradient and
 * nothing depends on how many there are. Scores are never kept: the backward pass makes them again from each query's
 * log of the sum of exponentials (Dao et al. 2022, arXiv:2205.14135, algorithms 2 and 4). Products of bf16 numbers are
 * summed in fp32 two at a time where the processor can.
 */
#include "attention.h"
#include <omp.h>

static int64_t room_floats(const Attention *a) {
    Room room;
    return lay_out(a, a->space, &room);
}

/* Floats of space that a call needs. */
int64_t attention_space(const Attention *a) { return a->threads * room_floats(a); }

/* What rows of a block of queries see of a block of keys: row r the keys from..to. */
typedef struct {
    int64_t block, first, num, window_from, diagonal; /* first: the token of its first key */
} Keys;

INLINE int64_t seen_to(const Keys *k, int64_t row) { return k->diagonal ? row + 1 : k->num; }

INLINE int64_t seen_from(const Keys *k, int64_t row) { return k->window_from + row > 0 ? k->window_from + row : 0; }

/* Begins with block first of segment s: goes on to the next block of keys that it sees; 0 behind the last one. */
typedef struct {
    int64_t query_start, first, segment, within;
} Walk;

static int next_keys(const Attention *a, Walk *w, int64_t s, Keys *keys) {
    for (; w->segment != -1; w->segment = a->parent[w->segment], w->within = 0) {
        const int64_t p = w->segment;
        for (; w->within < a->length[p] && !(p == s && w->within > w->first); w->within += BLOCK) {
            const int64_t left = a->length[p] - w->within;
            keys->num = left < BLOCK ? left : BLOCK;
            keys->block = a->block[p] + w->within / BLOCK;
            keys->first = a->start[p] + w->within;
            keys->diagonal = p == s && w->within == w->first;
            keys->window_from = -BLOCK;
            if (a->window) keys->window_from = a->positions[w->query_start] - a->window + 1 - a->positions[keys->first];
            if (keys->window_from >= keys->num) continue;
            if (keys->window_from < -BLOCK) keys->window_from = -BLOCK;
            w->within += BLOCK;
            return 1;
        }
    }
    return 0;
}

INLINE Whole lane_numbers(void) {
    Whole out;
    for (int i = 0; i < LANES; i++) out[i] = i;
    return out;
}

/* Which of the lanes from key first on a row sees. */
INLINE Whole seen(const Keys *keys, int64_t row, int64_t first) {
    const Whole at = lane_numbers() + (int32_t)first;
    return (at >= (int32_t)seen_from(keys, row)) & (at < (int32_t)seen_to(keys, row));
}

/* One row of scores -> its probabilities in place, less a factor; ``mixed`` follows the row's largest score. */
INLINE void soften(const Attention *a, const Keys *keys, int64_t row, int64_t lanes, float *scores, float *most,
                   float *total, float *mixed, int64_t wide) {
    const Whole nothing = bits_of(all_of(-INFINITY));
    Lanes largest = all_of(-INFINITY);
    for (int64_t v = 0; v < lanes; v++) {
        const Whole m = seen(keys, row, v * LANES);
        const Lanes s = from_bits((bits_of(load(scores + v * LANES) * (float)a->scale) & m) | (nothing & ~m));
        store(scores + v * LANES, s);
        largest = larger(largest, s);
    }
    const float before = *most, found = largest_of(largest), now = before > found ? before : found;
    const float kept = now == before ? 1.0f : expf(before - now);
    /* Where all is hidden or -inf there is no largest. */
    const Lanes base = all_of(now == -INFINITY ? 0.0f : now);
    Lanes sum = all_of(0);
    for (int64_t v = 0; v < lanes; v++) {
        const Lanes p = exponential(load(scores + v * LANES) - base);
        store(scores + v * LANES, p);
        sum += p;
    }
    *total = *total * kept + sum_of(sum);
    *most = now;
    if (kept != 1.0f)
        for (int64_t d = 0; d < wide; d += LANES) store(mixed + d, load(mixed + d) * kept);
}

/* A block of queries to one block of keys: scores, probabilities, and what they make of the values. */
static void attend_block(const Attention *a, Room *room, const Keys *keys, int64_t rows, float *most, float *total) {
    const Form f = form_of(a);
    const float *across = room->across_k + keys->block * f.words * BLOCK;
    const float *values = room->along_v + keys->block * f.deep * f.wide;
    for (int64_t r = 0; r < rows; r += TILE_ROWS) {
        const int64_t count = rows - r < TILE_ROWS ? rows - r : TILE_ROWS, to = seen_to(keys, r + count - 1);
        const int64_t lanes = (to + LANES - 1) / LANES;
        float *scores = room->scores + r * BLOCK;
        few_rows(f.pairs, count, lanes, f.words, (Strided){room->rows_q + r * f.words, f.words, 1}, across, BLOCK,
                 scores, BLOCK, 0);
        for (int64_t i = 0; i < count; i++) {
            soften(a, keys, r + i, lanes, scores + i * BLOCK, most + r + i, total + r + i,
                   room->mixed + (r + i) * f.wide, f.wide);
            for (int64_t v = 0; f.pairs && v < lanes; v++)
                store_bf16((uint16_t *)room->rows_s + i * BLOCK + v * LANES, load(scores + i * BLOCK + v * LANES));
        }
        const Strided p = f.pairs ? (Strided){room->rows_s, BLOCK / 2, 1} : (Strided){scores, BLOCK, 1};
        few_rows(f.pairs, count, f.wide / LANES, f.pairs ? (to + 1) / 2 : to, p, values, f.wide,
                 room->mixed + r * f.wide, f.wide, 1);
    }
}

static void forward_tree(const Attention *a, Room *room, int64_t tree, int64_t g, int64_t head, int64_t end) {
    const Form f = form_of(a);
    lay_tree(a, room, tree, g, 0);
    for (int64_t m = a->first_member[tree]; m < a->first_member[tree + 1]; m++)
        for (int64_t h = head; h < end; h++)
            for (int64_t s = a->member[m], first = 0; first < a->length[s]; first += BLOCK) {
                const int64_t left = a->length[s] - first, rows = left < BLOCK ? left : BLOCK, at = a->start[s] + first;
                float most[BLOCK], total[BLOCK];
                for (int64_t r = 0; r < rows; r++) most[r] = -INFINITY, total[r] = 0;
                memset(room->mixed, 0, rows * f.wide * sizeof(float));
                to_rows(a, numbers_at(a, a->q, a->heads, at, h), a->heads * a->width, rows, room->rows_q);
                Walk walk = {at, first, s, 0};
                for (Keys keys; next_keys(a, &walk, s, &keys);) attend_block(a, room, &keys, rows, most, total);
                for (int64_t r = 0; r < rows; r++) {
                    write_row(a, a->out, (at + r) * a->heads + h, room->mixed + r * f.wide, 1.0f / total[r]);
                    a->log_sum[h * a->tokens + at + r] = most[r] + logf(total[r]);
                }
            }
}

/* Two rows of scores and of the probabilities' gradients -> probabilities and the scores' gradients; in place, or for
 * words of pairs in pairs of rows and, the latter, in pairs of keys too. A row that does not exist counts as zeros. */
INLINE void two_rows(const Attention *a, Room *room, const Keys *keys, int64_t row, int64_t rows, int64_t lanes,
                     const float *log_sum, const float *row_sum) {
    const int64_t pairs = form_of(a).pairs;
    for (int64_t v = 0; v < lanes; v++) {
        Lanes p[2] = {all_of(0), all_of(0)}, g[2] = {all_of(0), all_of(0)};
        for (int64_t i = 0; i < 2 && row + i < rows; i++) {
            const int64_t at = (row + i) * BLOCK + v * LANES;
            const Whole m = seen(keys, row + i, v * LANES);
            p[i] = exponential(load(room->scores + at) * (float)a->scale - log_sum[row + i]);
            p[i] = from_bits(bits_of(p[i]) & m);
            g[i] = from_bits(bits_of(p[i] * (load(room->grads + at) - row_sum[row + i])) & m);
            if (pairs) {
                store_bf16((uint16_t *)room->rows_s + at, g[i]);
            } else {
                store(room->scores + at, p[i]);
                store(room->grads + at, g[i]);
            }
        }
        if (pairs) {
            const int64_t at = row / 2 * BLOCK + v * LANES;
            store(room->pairs_p + at, pair_of(p[0], p[1]));
            store(room->pairs_s + at, pair_of(g[0], g[1]));
        }
    }
}

/* A block of queries and one block of keys: what each adds to the other's gradients. */
static void differentiate_block(const Attention *a, Room *room, const Keys *keys, int64_t rows, const float *log_sum,
                                const float *row_sum, float *k_sums, float *v_sums) {
    const Form f = form_of(a);
    const int64_t lanes_wide = f.wide / LANES, step = f.pairs ? 2 : 1;
    const float *across_k = room->across_k + keys->block * f.words * BLOCK;
    const float *across_v = room->across_v + keys->block * f.words * BLOCK;
    const float *along_k = room->along_k + keys->block * f.deep * f.wide;
    for (int64_t r = 0; r < rows; r += TILE_ROWS) {
        const int64_t count = rows - r < TILE_ROWS ? rows - r : TILE_ROWS, to = seen_to(keys, r + count - 1);
        const int64_t lanes = (to + LANES - 1) / LANES;
        few_rows(f.pairs, count, lanes, f.words, (Strided){room->rows_q + r * f.words, f.words, 1}, across_k, BLOCK,
                 room->scores + r * BLOCK, BLOCK, 0);
        few_rows(f.pairs, count, lanes, f.words, (Strided){room->rows_g + r * f.words, f.words, 1}, across_v, BLOCK,
                 room->grads + r * BLOCK, BLOCK, 0);
        for (int64_t i = 0; i < count; i += 2) two_rows(a, room, keys, r + i, rows, lanes, log_sum, row_sum);
        const Strided g = f.pairs ? (Strided){room->rows_s + r * BLOCK / 2, BLOCK / 2, 1}
                                  : (Strided){room->grads + r * BLOCK, BLOCK, 1};
        few_rows(f.pairs, count, lanes_wide, (to + step - 1) / step, g, along_k, f.wide, room->mixed + r * f.wide,
                 f.wide, 1);
    }
    const float *p = f.pairs ? room->pairs_p : room->scores, *g = f.pairs ? room->pairs_s : room->grads;
    for (int64_t j = 0; j < keys->num; j += TILE_ROWS) {
        /* Rows before the first that sees one of these keys add nothing; rows and keys are cut at the same places. */
        const int64_t count = keys->num - j < TILE_ROWS ? keys->num - j : TILE_ROWS,
                      from = keys->diagonal ? j / step : 0;
        const int64_t depth = (rows + step - 1) / step - from;
        few_rows(f.pairs, count, lanes_wide, depth, (Strided){p + from * BLOCK + j, 1, BLOCK},
                 room->along_g + from * f.wide, f.wide, v_sums + (keys->first + j) * f.wide, f.wide, 1);
        few_rows(f.pairs, count, lanes_wide, depth, (Strided){g + from * BLOCK + j, 1, BLOCK},
                 room->along_q + from * f.wide, f.wide, k_sums + (keys->first + j) * f.wide, f.wide, 1);
    }
}

/* sum(out * out_grad) of a token's head, which is sum(p dp) of its scores. */
static float row_product(const Attention *a, int64_t token_at, int64_t h) {
    Lanes sum = all_of(0);
    for (int64_t d = 0; d < a->width; d += LANES) {
        const int64_t at = (token_at * a->heads + h) * a->width + d, left = a->width - d;
        sum += get(a->out, at, a->half, left) * get(a->out_grad, at, a->half, left);
    }
    return sum_of(sum);
}

static void backward_tree(const Attention *a, Room *room, int64_t tree, int64_t g, int64_t part, int64_t head,
                          int64_t end) {
    const Form f = form_of(a);
    const int64_t all = a->parts * a->kv_heads * a->tokens * f.wide, stride = a->heads * a->width;
    float *k_sums = a->sums + (part * a->kv_heads + g) * a->tokens * f.wide, *v_sums = k_sums + all;
    lay_tree(a, room, tree, g, 1);
    for (int64_t m = a->first_member[tree]; m < a->first_member[tree + 1]; m++) {
        const int64_t s = a->member[m], bytes = a->length[s] * f.wide * sizeof(float);
        memset(k_sums + a->start[s] * f.wide, 0, bytes);
        memset(v_sums + a->start[s] * f.wide, 0, bytes);
    }
    for (int64_t m = a->first_member[tree]; m < a->first_member[tree + 1]; m++)
        for (int64_t h = head; h < end; h++)
            for (int64_t s = a->member[m], first = 0; first < a->length[s]; first += BLOCK) {
                const int64_t left = a->length[s] - first, rows = left < BLOCK ? left : BLOCK, at = a->start[s] + first;
                const void *q = numbers_at(a, a->q, a->heads, at, h),
                           *out_grad = numbers_at(a, a->out_grad, a->heads, at, h);
                float row_sum[BLOCK];
                for (int64_t r = 0; r < rows; r++) row_sum[r] = row_product(a, at + r, h);
                memset(room->mixed, 0, rows * f.wide * sizeof(float));
                to_rows(a, q, stride, rows, room->rows_q);
                to_rows(a, out_grad, stride, rows, room->rows_g);
                lay_along(a, q, stride, rows, room->along_q);
                lay_along(a, out_grad, stride, rows, room->along_g);
                Walk walk = {at, first, s, 0};
                for (Keys keys; next_keys(a, &walk, s, &keys);)
                    differentiate_block(a, room, &keys, rows, a->log_sum + h * a->tokens + at, row_sum, k_sums, v_sums);
                for (int64_t r = 0; r < rows; r++)
                    write_row(a, a->q_grad, (at + r) * a->heads + h, room->mixed + r * f.wide, (float)a->scale);
            }
}

/* Gradients of the keys and values of one token: the parts' sums, in their order. */
static void write_sums(const Attention *a, int64_t t, float *sum) {
    const int64_t wide = form_of(a).wide, of_head = a->tokens * wide;
    for (int64_t which = 0; which < 2; which++)
        for (int64_t g = 0; g < a->kv_heads; g++) {
            const float *from = a->sums + (which * a->parts * a->kv_heads + g) * of_head + t * wide;
            memcpy(sum, from, wide * sizeof(float));
            for (int64_t part = 1; part < a->parts; part++)
                for (int64_t d = 0; d < wide; d++) sum[d] += from[part * a->kv_heads * of_head + d];
            write_row(a, which ? a->v_grad : a->k_grad, t * a->kv_heads + g, sum, which ? 1.0f : (float)a->scale);
        }
}

static void attention(const Attention *a, int backward) {
    const int64_t per = a->heads / a->kv_heads / a->parts, pieces = a->trees * a->kv_heads * a->parts;
    const int64_t floats = room_floats(a);
    int64_t next = 0;
#pragma omp parallel num_threads(a->threads) if (a -> tokens * a->heads * a->width > FEW_NUMBERS)
    {
        Room room;
        lay_out(a, a->space + omp_get_thread_num() * floats, &room);
        for (int64_t i; (i = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED)) < pieces;) {
            const int64_t tree = i / (a->kv_heads * a->parts), part = i / a->kv_heads % a->parts, g = i % a->kv_heads;
            const int64_t head = (g * a->parts + part) * per;
            if (backward)
                backward_tree(a, &room, tree, g, part, head, head + per);
            else
                forward_tree(a, &room, tree, g, head, head + per);
        }
        if (backward) {
#pragma omp barrier
#pragma omp for
            for (int64_t t = 0; t < a->tokens; t++) write_sums(a, t, room.mixed);
        }
    }
}

void attention_forward(const Attention *a) { attention(a, 0); }

void attention_backward(const Attention *a) { attention(a, 1); }

int64_t attention_facts(int64_t which) {
    const int64_t all[] = {sizeof(Attention), BLOCK, MOST_WIDTH, MOST_LANES};
    return all[which];
}
