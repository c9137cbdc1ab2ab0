/* Log-probabilities of targets and their gradients at the logits, a row at a time, which fits the cache. */
#include "lanes.h"
#include <omp.h>

/* Rows of logits (rows, words) in fp32, or bf16 if half: logprob (rows) of each row's target in softmax(logits *
 * scale), scale > 0; if ``grads`` the logits become d(-weight * logprob) / d logits. */
void softmax_rows(int64_t half, int64_t rows, int64_t words, void *logits, const int64_t *targets, const float *weights,
                  float *logprob, float scale, int64_t grads, int64_t threads) {
#pragma omp parallel for num_threads(threads) if (rows * words > FEW_NUMBERS)
    for (int64_t r = 0; r < rows; r++) {
        const int64_t first = r * words, whole = words / LANES * LANES, left = words - whole;
        Lanes most = all_of(-INFINITY), sum = all_of(0);
        for (int64_t i = 0; i < whole; i += LANES) most = larger(most, get(logits, first + i, half, LANES));
        float largest = largest_of(most);
        for (int64_t i = whole; i < words; i++) {
            float last[LANES];
            store(last, get(logits, first + i, half, 1));
            largest = fmaxf(largest, last[0]);
        }
        for (int64_t i = 0; i < whole; i += LANES)
            sum += exponential((get(logits, first + i, half, LANES) - largest) * scale);
        float total = sum_of(sum), last[LANES];
        store(last, exponential((get(logits, first + whole, half, left) - largest) * scale));
        for (int64_t i = 0; i < left; i++) total += last[i];
        /* Less the largest before anything else: of large logits the difference is what counts. */
        const float log_total = logf(total);
        store(last, get(logits, first + targets[r], half, 1));
        logprob[r] = (last[0] - largest) * scale - log_total;
        if (!grads) continue;
        const float by = weights[r] * scale;
        for (int64_t i = 0; i < words; i += LANES) {
            const Lanes p = exponential((get(logits, first + i, half, words - i) - largest) * scale - log_total);
            put(logits, first + i, half, words - i, p * by);
        }
        /* In one step: near 1 a probability in bf16 would leave nothing of the difference. */
        put(logits, first + targets[r], half, 1, all_of((expf(logprob[r]) - 1.0f) * by));
    }
}
