// The gradient's norm, clipping, and Adam over the flat columns in one pass.

typedef struct {
    const float *values;
    double *partials;
    u64 len;
} SumSquares;

#define NORM_THREADS 256

DEVICE double block_sum_f64(double value) {
    SHARED double sums[NORM_THREADS];
    sums[thread()] = value;
    barrier();
    double sum = 0.0;
    if (thread() == 0) {
        for (u32 i = 0; i < NORM_THREADS; i++) sum += sums[i];
    }
    return sum;
}

// A sum for each block; which values are a block's depends on the number of blocks alone.
KERNEL(sum_squares, NORM_THREADS, SumSquares) {
    double sum = 0.0;
    for (u64 i = (u64)block_x() * NORM_THREADS + thread(); i < a.len; i += (u64)blocks_x() * NORM_THREADS) {
        double value = a.values[i];
        sum += value * value;
    }
    sum = block_sum_f64(sum);
    if (thread() == 0) a.partials[block_x()] = sum;
}

typedef struct {
    double norm;
    // What gradients are multiplied by.
    float scale;
    // 0 where the norm is not finite: then nothing changes.
    u32 applied;
} GradientNorm;

typedef struct {
    const double *partials;
    GradientNorm *out;
    // 0: no clipping
    double clip;
    u32 count;
} FinishNorm;

KERNEL(finish_norm, NORM_THREADS, FinishNorm) {
    double sum = 0.0;
    for (u32 i = thread(); i < a.count; i += NORM_THREADS) sum += a.partials[i];
    sum = block_sum_f64(sum);
    if (thread() != 0) return;
    GradientNorm norm = {sqrt(sum), 1.0f, 0};
    norm.applied = norm.norm - norm.norm == 0.0;
    // PyTorch's clip_grad_norm_ adds 1e-6 to the norm; kept for parity.
    double scale = a.clip / (norm.norm + 1e-6);
    if (a.clip > 0.0 && scale < 1.0) norm.scale = (float)scale;
    *a.out = norm;
}

// Some weights of one parameter.
typedef struct {
    u64 start;
    u32 len;
    // Whether weight decay applies.
    u32 decays;
} Piece;

typedef struct {
    float *weights, *first, *second, *gradients;
    // The weights as products read them; none where they read the weights themselves.
    S *operands;
    const Piece *pieces;
    const GradientNorm *norm;
    // Of parameters without and with decay: L2 term added to the gradient, and factor on the weight.
    float coupled[2], shrink[2];
    float beta1, beta2, new1, new2, step_size, inverse_root, epsilon;
} Adam;

KERNEL(adam, NORM_THREADS, Adam) {
    Piece piece = a.pieces[block_x()];
    GradientNorm norm = *a.norm;
    float coupled = piece.decays ? a.coupled[1] : a.coupled[0], shrink = piece.decays ? a.shrink[1] : a.shrink[0];
    for (u32 i = thread(); i < piece.len; i += NORM_THREADS) {
        u64 at = piece.start + i;
        if (norm.applied) {
            float w = a.weights[at];
            float gradient = a.gradients[at] * norm.scale + coupled * w;
            float m = a.beta1 * a.first[at] + a.new1 * gradient;
            float v = a.beta2 * a.second[at] + a.new2 * gradient * gradient;
            w = w * shrink - a.step_size * m / (sqrtf(v) * a.inverse_root + a.epsilon);
            a.first[at] = m;
            a.second[at] = v;
            a.weights[at] = w;
            if (a.operands) a.operands[at] = narrow(w);
        }
        a.gradients[at] = 0.0f;
    }
}

typedef struct {
    const float *weights;
    S *operands;
    u64 len;
} RoundWeights;

KERNEL(round_weights, NORM_THREADS, RoundWeights) {
    u64 at = (u64)block_x() * NORM_THREADS + thread();
    if (at < a.len) a.operands[at] = narrow(a.weights[at]);
}
