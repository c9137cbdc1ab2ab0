/* RMSNorm, rotary positions and SwiGLU, forward and backward, each in one pass over rows in fp32, or bf16 if half.
 *
 * What transformers rounds between two operators of its forward pass is rounded here too; a backward pass rounds once.
 */
#include "lanes.h"
#include <omp.h>

/* y = x / sqrt(mean(x^2) + epsilon) * weight; inverse (rows) keeps what x was multiplied with. */
void norm_forward(int64_t half, int64_t rows, int64_t width, const void *x, const void *weight, void *y, float *inverse,
                  float epsilon, int64_t threads) {
#pragma omp parallel for num_threads(threads) if (rows * width > FEW_NUMBERS)
    for (int64_t r = 0; r < rows; r++) {
        Lanes sum = all_of(0);
        for (int64_t i = 0; i < width; i += LANES) {
            const Lanes v = get(x, r * width + i, half, width - i);
            sum += v * v;
        }
        const float by = 1.0f / sqrtf(sum_of(sum) / (float)width + epsilon);
        inverse[r] = by;
        for (int64_t i = 0; i < width; i += LANES) {
            Lanes v = get(x, r * width + i, half, width - i) * by;
            if (half) v = as_bf16(v);
            put(y, r * width + i, half, width - i, v * get(weight, i, half, width - i));
        }
    }
}

/* dx = inverse * (g - n * mean(g * n)), g = grad * weight, n = x * inverse. */
void norm_backward(int64_t half, int64_t rows, int64_t width, const void *x, const void *weight, const float *inverse,
                   const void *grad, void *x_grad, int64_t threads) {
#pragma omp parallel for num_threads(threads) if (rows * width > FEW_NUMBERS)
    for (int64_t r = 0; r < rows; r++) {
        Lanes sum = all_of(0);
        for (int64_t i = 0; i < width; i += LANES) {
            const int64_t at = r * width + i, left = width - i;
            sum += get(grad, at, half, left) * get(weight, i, half, left) * get(x, at, half, left);
        }
        const float by = inverse[r], mean = sum_of(sum) * by * by / (float)width;
        for (int64_t i = 0; i < width; i += LANES) {
            const int64_t at = r * width + i, left = width - i;
            const Lanes g = get(grad, at, half, left) * get(weight, i, half, left);
            put(x_grad, at, half, left, (g - get(x, at, half, left) * mean) * by);
        }
    }
}

/* y (tokens, heads, width): both halves of each head turned by its token's angles (tokens, width); back if ``back``. */
void rotate(int64_t half, int64_t tokens, int64_t heads, int64_t width, const void *x, const void *cosines,
            const void *sines, void *y, int64_t back, int64_t threads) {
    const int64_t n = width / 2;
#pragma omp parallel for num_threads(threads) if (tokens * heads * width > FEW_NUMBERS)
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t h = 0; h < heads; h++)
            for (int64_t i = 0; i < n; i += LANES) {
                const int64_t at = (t * heads + h) * width + i, left = n - i;
                const Lanes first = get(x, at, half, left), second = get(x, at + n, half, left);
                const Lanes c = get(cosines, t * width + i, half, left);
                const Lanes s = get(sines, t * width + i, half, left) * (back ? -1.0f : 1.0f);
                put(y, at, half, left, first * c - second * s);
                put(y, at + n, half, left, second * c + first * s);
            }
}

/* One share of n numbers after another, cut where lanes end. */
INLINE int64_t share_of(int64_t n, int64_t me, int64_t of) { return me == of ? n : n / LANES * me / of * LANES; }

/* y = silu(gate) * up */
void swiglu_forward(int64_t half, int64_t n, const void *gate, const void *up, void *y, int64_t threads) {
#pragma omp parallel num_threads(threads) if (n > FEW_NUMBERS)
    {
        const int64_t me = omp_get_thread_num(), of = omp_get_num_threads(), end = share_of(n, me + 1, of);
        for (int64_t i = share_of(n, me, of); i < end; i += LANES) {
            const Lanes g = get(gate, i, half, end - i), silu = g * sigmoid(g);
            put(y, i, half, end - i, (half ? as_bf16(silu) : silu) * get(up, i, half, end - i));
        }
    }
}

/* d silu(gate) = sigmoid(gate) * (1 + gate * (1 - sigmoid(gate))) */
void swiglu_backward(int64_t half, int64_t n, const void *gate, const void *up, const void *grad, void *gate_grad,
                     void *up_grad, int64_t threads) {
#pragma omp parallel num_threads(threads) if (n > FEW_NUMBERS)
    {
        const int64_t me = omp_get_thread_num(), of = omp_get_num_threads(), end = share_of(n, me + 1, of);
        for (int64_t i = share_of(n, me, of); i < end; i += LANES) {
            const Lanes g = get(gate, i, half, end - i), s = sigmoid(g), dy = get(grad, i, half, end - i);
            put(gate_grad, i, half, end - i, dy * get(up, i, half, end - i) * s * (1.0f + g * (1.0f - s)));
            put(up_grad, i, half, end - i, dy * g * s);
        }
    }
}
