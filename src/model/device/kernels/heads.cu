// Both tasks' heads: cross-entropy over the vocabulary, the pair label, and BERT's layers before them.

// ---- cross-entropy of the masked tokens ----

typedef struct {
    // (rows, vocabulary), without bias
    const float *logits;
    const float *bias;
    const u32 *labels;
    // Of each row: log of the sum of exponentials, negative log-likelihood, whether the label has the largest logit
    // (the first of equal ones).
    float *log_sums, *losses;
    u32 *correct;
    // Gradients of weight * loss by the logits, where wanted.
    S *dlogits;
    u32 vocabulary;
    float weight;
} CrossEntropy;

#define LOSS_THREADS 256

// The largest of all threads' values, and the smallest place among equal ones.
DEVICE void block_max(float *value, u32 *place) {
    SHARED float values[LOSS_THREADS / 32];
    SHARED u32 places[LOSS_THREADS / 32];
    UNROLL
    for (u32 mask = 16; mask > 0; mask /= 2) {
        float other = shuffle_xor(*value, mask);
        u32 there = shuffle_xor_u32(*place, mask);
        if (other > *value || (other == *value && there < *place)) {
            *value = other;
            *place = there;
        }
    }
    if (lane() == 0) {
        values[warp()] = *value;
        places[warp()] = *place;
    }
    barrier();
    *value = values[0];
    *place = places[0];
    for (u32 i = 1; i < LOSS_THREADS / 32; i++) {
        if (values[i] > *value || (values[i] == *value && places[i] < *place)) {
            *value = values[i];
            *place = places[i];
        }
    }
}

DEVICE float block_sum(float value) {
    SHARED float sums[LOSS_THREADS / 32];
    value = warp_sum(value);
    if (lane() == 0) sums[warp()] = value;
    barrier();
    float sum = 0.0f;
    for (u32 i = 0; i < LOSS_THREADS / 32; i++) sum += sums[i];
    return sum;
}

KERNEL(cross_entropy, LOSS_THREADS, CrossEntropy) {
    u32 row = block_x(), label = a.labels[row];
    const float *logits = a.logits + (u64)row * a.vocabulary;
    float max = of_bits(0xff800000u), sum = 0.0f;
    u32 place = 0xffffffffu;
    for (u32 i = thread(); i < a.vocabulary; i += LOSS_THREADS) {
        float logit = logits[i] + a.bias[i];
        if (logit > max) {
            max = logit;
            place = i;
        }
    }
    block_max(&max, &place);
    for (u32 i = thread(); i < a.vocabulary; i += LOSS_THREADS) sum += expf(logits[i] + a.bias[i] - max);
    float log_sum = max + logf(block_sum(sum));
    if (thread() == 0) {
        a.log_sums[row] = log_sum;
        a.losses[row] = log_sum - (logits[label] + a.bias[label]);
        a.correct[row] = place == label;
    }
    if (!a.dlogits) return;
    S *dlogits = a.dlogits + (u64)row * a.vocabulary;
    for (u32 i = thread(); i < a.vocabulary; i += LOSS_THREADS) {
        float target = i == label ? 1.0f : 0.0f;
        dlogits[i] = narrow(a.weight * (expf(logits[i] + a.bias[i] - log_sum) - target));
    }
}

// ---- the pair label ----

typedef struct {
    // (samples, HIDDEN)
    const float *features;
    // (2, HIDDEN) and (2)
    const float *weight, *bias;
    // 0, 1, or anything else for none
    const u32 *labels;
    // (samples, 2)
    float *log_probabilities;
    // Gradients of scale * loss, where wanted: (samples, HIDDEN), (samples, 2).
    float *dfeatures, *dlogits;
    u32 samples;
    float scale;
} PairHead;

KERNEL(pair_head, 32 * ROW_WARPS, PairHead) {
    u32 sample = block_x() * ROW_WARPS + warp();
    if (sample >= a.samples) return;
    float x[CELLS], w[2][CELLS], logits[2];
    load_row(x, a.features + (u64)sample * HIDDEN);
    UNROLL
    for (u32 answer = 0; answer < 2; answer++) {
        load_row(w[answer], a.weight + answer * HIDDEN);
        float sum = 0.0f;
        UNROLL
        for (u32 cell = 0; cell < CELLS; cell++) sum += w[answer][cell] * x[cell];
        logits[answer] = a.bias[answer] + warp_sum(sum);
    }
    float max = logits[0] > logits[1] ? logits[0] : logits[1];
    float log_sum = max + logf(expf(logits[0] - max) + expf(logits[1] - max));
    if (lane() < 2) a.log_probabilities[sample * 2 + lane()] = (lane() ? logits[1] : logits[0]) - log_sum;
    if (!a.dfeatures) return;
    u32 label = a.labels[sample];
    float d[2] = {0.0f, 0.0f};
    if (label < 2) {
        d[0] = a.scale * (expf(logits[0] - log_sum) - (label == 0 ? 1.0f : 0.0f));
        d[1] = a.scale * (expf(logits[1] - log_sum) - (label == 1 ? 1.0f : 0.0f));
    }
    if (lane() < 2) a.dlogits[sample * 2 + lane()] = lane() ? d[1] : d[0];
    UNROLL
    for (u32 cell = 0; cell < CELLS; cell++) x[cell] = d[0] * w[0][cell] + d[1] * w[1][cell];
    store_row(a.dfeatures + (u64)sample * HIDDEN, x);
}

// Adds to the gradients of the pair head's weight and bias; blocks are (HIDDEN / 32, 2 answers).
typedef struct {
    const float *features;
    const float *dlogits;
    float *dweight, *dbias;
    u32 samples;
} PairGradients;

KERNEL(pair_gradients, 32 * PARTIAL_WARPS, PairGradients) {
    SHARED float sums[PARTIAL_WARPS][32];
    SHARED float biases[PARTIAL_WARPS];
    u32 column = block_x() * 32 + lane(), answer = block_y();
    float sum = 0.0f, bias = 0.0f;
    for (u32 sample = warp(); sample < a.samples; sample += PARTIAL_WARPS) {
        float d = a.dlogits[sample * 2 + answer];
        bias += d;
        if (column < HIDDEN) sum += d * a.features[(u64)sample * HIDDEN + column];
    }
    sums[warp()][lane()] = sum;
    if (lane() == 0) biases[warp()] = bias;
    barrier();
    if (warp() != 0) return;
    sum = bias = 0.0f;
    for (u32 i = 0; i < PARTIAL_WARPS; i++) {
        sum += sums[i][lane()];
        bias += biases[i];
    }
    if (column < HIDDEN) a.dweight[answer * HIDDEN + column] += sum;
    if (column == 0) a.dbias[answer] += bias;
}

// ---- BERT's pooler: y = tanh(inner + bias) ----

typedef struct {
    const float *inner;
    const float *bias;
    float *y;
    u32 rows;
} Tanh;

KERNEL(tanh_rows, 32 * ROW_WARPS, Tanh) {
    u32 row = block_x() * ROW_WARPS + warp();
    if (row >= a.rows) return;
    float x[CELLS], bias[CELLS];
    load_row(x, a.inner + (u64)row * HIDDEN);
    load_row(bias, a.bias);
    UNROLL
    for (u32 cell = 0; cell < CELLS; cell++) x[cell] = tanhf(x[cell] + bias[cell]);
    store_row(a.y + (u64)row * HIDDEN, x);
}

typedef struct {
    const float *dy, *y;
    S *dinner;
    u32 rows;
} TanhBackward;

KERNEL(tanh_backward, 32 * ROW_WARPS, TanhBackward) {
    u32 row = block_x() * ROW_WARPS + warp();
    if (row >= a.rows) return;
    float d[CELLS], y[CELLS];
    load_row(d, a.dy + (u64)row * HIDDEN);
    load_row(y, a.y + (u64)row * HIDDEN);
    UNROLL
    for (u32 cell = 0; cell < CELLS; cell++) d[cell] *= 1.0f - y[cell] * y[cell];
    store_stored(a.dinner + (u64)row * HIDDEN, d);
}

// ---- BERT's transform of masked tokens: activated = gelu(inner + bias), operand = norm(activated) ----

typedef struct {
    const S *inner;
    const float *bias, *gain, *shift;
    float *activated;
    Moments *moments;
    S *operand;
    u32 rows;
} Transform;

KERNEL(transform, 32 * ROW_WARPS, Transform) {
    u32 row = block_x() * ROW_WARPS + warp();
    if (row >= a.rows) return;
    u64 at = (u64)row * HIDDEN;
    float x[CELLS], bias[CELLS], slope;
    load_stored(x, a.inner + at);
    load_row(bias, a.bias);
    UNROLL
    for (u32 cell = 0; cell < CELLS; cell++) x[cell] = inside(cell) ? gelu(x[cell] + bias[cell], &slope) : 0.0f;
    store_row(a.activated + at, x);
    Moments moments = moments_of(x);
    if (lane() == 0) a.moments[row] = moments;
    normalise(x, moments, a.gain, a.shift);
    store_stored(a.operand + at, x);
}
