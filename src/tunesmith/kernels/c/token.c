/* One decoded token of a Llama-like model: all layers in one call, for x86 processors with AVX2, FMA and F16C.
 *
 * A token of one row is some seventy small operators a layer, and beginning each of them from Python takes as long as
 * reading the weights. Here a team of threads goes through the layers together; between two stages it meets at a
 * barrier. Compiled by kernels/native.py, which also knows these structures.
 */
#include "products.h"

enum { SITES = 7 };

typedef struct {
    Linear qkv, o, gate_up, down;
    const float *norm_in, *norm_mlp, *q_norm, *k_norm; /* the last two or NULL */
} Layer;

typedef struct {
    int64_t layers, width, heads, kv_heads, head_width, inner, window; /* window 0: all is seen */
    float epsilon, scale;
    const Layer *layer;
    const float *norm;
} Model;

/* LoRA on some outputs of a group of maps: a (rank, in), b (rank, out) with the scaling in it. */
typedef struct {
    const float *a, *b;
    int64_t rank, first_out, out;
} Lora;

/* Rows from the last run's end to this one's answer with one adapter: SITES of Lora a layer (q k v o gate up down). */
typedef struct {
    int64_t end;
    const Lora *lora; /* or NULL */
} Run;

typedef struct {
    int64_t rows, threads, slots, runs, most_rank;
    const int64_t *place, *slot; /* where in the cache a row stands, and its new token */
    const float *cos, *sin;      /* (rows, head_width) */
    float **keys, **values;      /* a layer: (places, kv_heads, slots, head_width) */
    const Run *run;
    float *x; /* (rows, width): embeddings in, final states out */
    float *normed, *qkv, *mixed, *inner, *low, *scores, *row_step;
    int16_t *digits;
} Step;

int64_t sizes(int64_t which) {
    const int64_t all[] = {sizeof(Linear), sizeof(Layer), sizeof(Model), sizeof(Lora), sizeof(Run), sizeof(Step)};
    return all[which];
}

/* y (rows, out) = x W^T + bias; digits (rows, in made even) and row_step (rows) are space for int8. */
void linear(const Linear *w, const float *x, int64_t rows, float *y, int64_t threads, int16_t *digits,
            float *row_step) {
    const int64_t even = (w->in + 1) / 2 * 2;
    Meeting meeting = {0, 0};
#pragma omp parallel num_threads(threads)
    {
        const int64_t me = omp_get_thread_num(), of = omp_get_num_threads();
        if (w->kind == INT8) {
            for (int64_t r = share(rows, me, of); r < share(rows, me + 1, of); r++)
                row_step[r] = to_digits(x + r * w->in, digits + r * even, w->in);
            meet(&meeting, of);
        }
        const Product product = {w, x, digits, row_step, y, 0};
        panels_of(&product, rows, share(num_panels(w), me, of), share(num_panels(w), me + 1, of));
    }
}

typedef struct {
    const Model *model;
    const Step *step;
    Meeting *meeting;
    int64_t me, of;
} Team;

/* A group of maps on x (rows, in) with the adapters of its sites first..first + count; ends with all of it done. */
static void group(const Team *t, const Linear *w, const float *x, float *y, int adds, int64_t layer, int64_t first,
                  int64_t count) {
    const Step *s = t->step;
    const int64_t from = share(num_panels(w), t->me, t->of), to = share(num_panels(w), t->me + 1, t->of);
    const int64_t even = (w->in + 1) / 2 * 2, stride = SITES * s->most_rank;
    int adapted = 0;
    if (w->kind == INT8) {
        for (int64_t r = share(s->rows, t->me, t->of); r < share(s->rows, t->me + 1, t->of); r++)
            s->row_step[r] = to_digits(x + r * w->in, s->digits + r * even, w->in);
    }
    for (int64_t run = 0, row = 0; run < s->runs; row = s->run[run++].end) {
        if (!s->run[run].lora) continue;
        adapted = 1;
        for (int64_t site = 0; site < count; site++) {
            const Lora *l = s->run[run].lora + layer * SITES + first + site;
            const int64_t rows = s->run[run].end - row, all = l->rank * rows;
            for (int64_t i = share(all, t->me, t->of); i < share(all, t->me + 1, t->of); i++) {
                const int64_t r = row + i / l->rank, c = i % l->rank;
                s->low[r * stride + site * s->most_rank + c] = dot(x + r * w->in, l->a + c * w->in, w->in);
            }
        }
    }
    if (w->kind == INT8 || adapted) meet(t->meeting, t->of);
    const Product product = {w, x, s->digits, s->row_step, y, adds};
    panels_of(&product, s->rows, from, to);
    for (int64_t run = 0, row = 0; adapted && run < s->runs; row = s->run[run++].end)
        for (int64_t site = 0; s->run[run].lora && site < count; site++) {
            const Lora *l = s->run[run].lora + layer * SITES + first + site;
            const int64_t begin = from * PANEL > l->first_out ? from * PANEL : l->first_out;
            const int64_t end = to * PANEL < l->first_out + l->out ? to * PANEL : l->first_out + l->out;
            for (int64_t r = row; r < s->run[run].end; r++)
                for (int64_t c = 0; c < l->rank; c++) {
                    const float low = s->low[r * stride + site * s->most_rank + c],
                                *b = l->b + c * l->out - l->first_out;
                    float *out = y + r * w->out;
                    for (int64_t n = begin; n < end; n++) out[n] += low * b[n];
                }
        }
    meet(t->meeting, t->of);
}

static void rotate(float *x, const float *cosines, const float *sines, int64_t width) {
    const int64_t half = width / 2;
    for (int64_t i = 0; i < half; i++) {
        const float first = x[i], second = x[i + half];
        x[i] = first * cosines[i] - second * sines[i];
        x[i + half] = second * cosines[i + half] + first * sines[i + half];
    }
}

/* softmax(q k^T scale) v of one query head over slots from..to (to included). */
static void attend(const float *q, const float *keys, const float *values, int64_t from, int64_t to, int64_t width,
                   float scale, float *scores, float *out) {
    const int64_t n = to - from + 1, padded = (n + LANES - 1) / LANES * LANES;
    float largest = -INFINITY;
    int no_number = 0;
    const int64_t whole = n / 4 * 4;
    for (int64_t i = 0; i < whole; i += 4) four_dots(q, keys + (from + i) * width, width, scores + i);
    for (int64_t i = whole; i < n; i++) scores[i] = dot(q, keys + (from + i) * width, width);
    for (int64_t i = 0; i < n; i++) {
        scores[i] *= scale;
        /* The largest would not show it. */
        no_number |= !isfinite(scores[i]);
        largest = fmaxf(largest, scores[i]);
    }
    for (int64_t i = n; i < padded; i++) scores[i] = -INFINITY;
    Lanes sum = all_of(0);
    for (int64_t i = 0; i < padded; i += LANES) {
        const Lanes p = exponential(load(scores + i) - largest);
        store(scores + i, p);
        sum += p;
    }
    const float inverse = no_number ? NAN : 1.0f / sum_of(sum);
    for (int64_t d = 0; d < width; d += 4 * LANES) {
        const int64_t left = width - d, count = left < 4 * LANES ? (left + LANES - 1) / LANES : 4;
        Lanes acc[4] = {all_of(0), all_of(0), all_of(0), all_of(0)};
        for (int64_t i = 0; i < n; i++) {
            const float *v = values + (from + i) * width + d;
            const Lanes p = all_of(scores[i]);
            if (left >= 4 * LANES)
                for (int c = 0; c < 4; c++) acc[c] += p * load(v + LANES * c);
            else
                for (int c = 0; c < count; c++) acc[c] += p * get(v, LANES * c, 0, left - LANES * c);
        }
        for (int c = 0; c < count; c++) put(out + d, LANES * c, 0, left - LANES * c, acc[c] * inverse);
    }
}

/* Query heads of one row and key head: rotated, the new key and value kept, and what the heads make of the cache. */
static void attention(const Team *t, int64_t layer, int64_t row, int64_t g) {
    const Model *m = t->model;
    const Step *s = t->step;
    const Layer *l = m->layer + layer;
    const int64_t w = m->head_width, per = m->heads / m->kv_heads, slot = s->slot[row];
    float *q = s->qkv + row * l->qkv.out + g * per * w, *k = s->qkv + row * l->qkv.out + (m->heads + g) * w;
    const float *v = k + m->kv_heads * w, *cosines = s->cos + row * w, *sines = s->sin + row * w;
    float *keys = s->keys[layer] + (s->place[row] * m->kv_heads + g) * s->slots * w;
    float *values = s->values[layer] + (s->place[row] * m->kv_heads + g) * s->slots * w;
    if (l->k_norm) rms_norm(k, l->k_norm, k, w, m->epsilon);
    rotate(k, cosines, sines, w);
    memcpy(keys + slot * w, k, w * sizeof(float));
    memcpy(values + slot * w, v, w * sizeof(float));
    const int64_t from = m->window && slot + 1 > m->window ? slot + 1 - m->window : 0;
    for (int64_t h = 0; h < per; h++) {
        if (l->q_norm) rms_norm(q + h * w, l->q_norm, q + h * w, w, m->epsilon);
        rotate(q + h * w, cosines, sines, w);
        float *out = s->mixed + (row * m->heads + g * per + h) * w;
        attend(q + h * w, keys, values, from, slot, w, m->scale, s->scores + t->me * (s->slots + MOST_LANES), out);
    }
}

static void norm_rows(const Team *t, const float *weight, float *y) {
    const int64_t rows = t->step->rows, width = t->model->width;
    for (int64_t r = share(rows, t->me, t->of); r < share(rows, t->me + 1, t->of); r++)
        rms_norm(t->step->x + r * width, weight, y + r * width, width, t->model->epsilon);
    meet(t->meeting, t->of);
}

/* silu(gate) * up: (rows, 2 inner) -> (rows, inner), written over the gates' halves of the rows in turn. */
static void swiglu(const Team *t, int64_t inner) {
    const Step *s = t->step;
    float *out = s->inner + s->rows * 2 * inner;
    const int64_t all = s->rows * inner;
    int64_t i = share(all, t->me, t->of);
    const int64_t end = share(all, t->me + 1, t->of);
    while (i < end) {
        const int64_t row = i / inner, column = i % inner;
        const float *gate = s->inner + row * 2 * inner + column, *up = gate + inner;
        const int64_t left = (inner - column < end - i ? inner - column : end - i);
        for (int64_t n = 0; n < left; n += LANES) {
            const Lanes g = get(gate, n, 0, left - n);
            put(out, i + n, 0, left - n, g * sigmoid(g) * get(up, n, 0, left - n));
        }
        i += left;
    }
    meet(t->meeting, t->of);
}

void token(const Model *m, const Step *s) {
    Meeting meeting = {0, 0};
#pragma omp parallel num_threads(s->threads)
    {
        const Team team = {m, s, &meeting, omp_get_thread_num(), omp_get_num_threads()}, *t = &team;
        const int64_t tasks = s->rows * m->kv_heads;
        for (int64_t layer = 0; layer < m->layers; layer++) {
            const Layer *l = m->layer + layer;
            norm_rows(t, l->norm_in, s->normed);
            group(t, &l->qkv, s->normed, s->qkv, 0, layer, 0, 3);
            for (int64_t i = share(tasks, t->me, t->of); i < share(tasks, t->me + 1, t->of); i++)
                attention(t, layer, i / m->kv_heads, i % m->kv_heads);
            meet(t->meeting, t->of);
            group(t, &l->o, s->mixed, s->x, 1, layer, 3, 1);
            norm_rows(t, l->norm_mlp, s->normed);
            group(t, &l->gate_up, s->normed, s->inner, 0, layer, 4, 2);
            swiglu(t, m->inner);
            group(t, &l->down, s->inner + s->rows * 2 * m->inner, s->x, 1, layer, 6, 1);
        }
        norm_rows(t, m->norm, s->x);
    }
}
