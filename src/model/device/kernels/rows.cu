// Passes over rows of HIDDEN: embeddings, norms and residual connections, forward and backward.
//
// One warp works on a row and holds it in registers: sums over a row are sums over its lanes. What follows in the
// model without a product in between is one pass here.

#if HIDDEN % 128 == 0
#define TOGETHER 4
#else
#define TOGETHER 1
#endif
// Columns of a row that a lane holds: TOGETHER at a time, the lanes side by side.
#define CELLS ((HIDDEN + 32 * TOGETHER - 1) / (32 * TOGETHER) * TOGETHER)

DEVICE u32 column_of(u32 cell) { return (cell / TOGETHER * 32 + lane()) * TOGETHER + cell % TOGETHER; }
DEVICE int inside(u32 cell) { return TOGETHER == 4 || column_of(cell) < HIDDEN; }

DEVICE void load_row(float *cells, const float *row) {
    UNROLL
    for (u32 cell = 0; cell < CELLS; cell += TOGETHER) {
#if TOGETHER == 4
        F4 four = *(const F4 *)(row + column_of(cell));
        UNROLL
        for (u32 k = 0; k < 4; k++) cells[cell + k] = four.v[k];
#else
        cells[cell] = inside(cell) ? row[column_of(cell)] : 0.0f;
#endif
    }
}

DEVICE void load_stored(float *cells, const S *row) {
    UNROLL
    for (u32 cell = 0; cell < CELLS; cell += TOGETHER) {
#if TOGETHER == 4
        S4 four = *(const S4 *)(row + column_of(cell));
        UNROLL
        for (u32 k = 0; k < 4; k++) cells[cell + k] = wide(four.v[k]);
#else
        cells[cell] = inside(cell) ? wide(row[column_of(cell)]) : 0.0f;
#endif
    }
}

DEVICE void store_row(float *row, const float *cells) {
    UNROLL
    for (u32 cell = 0; cell < CELLS; cell += TOGETHER) {
#if TOGETHER == 4
        F4 four;
        UNROLL
        for (u32 k = 0; k < 4; k++) four.v[k] = cells[cell + k];
        *(F4 *)(row + column_of(cell)) = four;
#else
        if (inside(cell)) row[column_of(cell)] = cells[cell];
#endif
    }
}

DEVICE void store_stored(S *row, const float *cells) {
    UNROLL
    for (u32 cell = 0; cell < CELLS; cell += TOGETHER) {
#if TOGETHER == 4
        S4 four;
        UNROLL
        for (u32 k = 0; k < 4; k++) four.v[k] = narrow(cells[cell + k]);
        *(S4 *)(row + column_of(cell)) = four;
#else
        if (inside(cell)) row[column_of(cell)] = narrow(cells[cell]);
#endif
    }
}

DEVICE void drop_row(float *cells, Dropout drop, u64 coordinate) {
    if (drop.threshold == 0) return;
    RowKey key = row_key(drop, coordinate);
    UNROLL
    for (u32 cell = 0; cell < CELLS; cell++) cells[cell] *= kept(drop, key, column_of(cell));
}

// What the backward pass of a norm needs of a row.
typedef struct ALIGNED(8) {
    float mean;
    // Sum of the squared deviations.
    float squares;
} Moments;

DEVICE Moments moments_of(const float *x) {
    float sum = 0.0f, squares = 0.0f;
    UNROLL
    for (u32 cell = 0; cell < CELLS; cell++) sum += x[cell];
    float mean = warp_sum(sum) / HIDDEN;
    UNROLL
    for (u32 cell = 0; cell < CELLS; cell++) {
        float c = inside(cell) ? x[cell] - mean : 0.0f;
        squares += c * c;
    }
    Moments moments = {mean, warp_sum(squares)};
    return moments;
}

// The factor on deviations c, and `slope` such that the factor's derivative by c is -slope * c.
DEVICE float norm_factor(float squares, float *slope) {
#if ARCH_BERT
    // The root of the biased variance plus 1e-12 (Ba et al. 2016, with BERT's epsilon).
    float inverse = 1.0f / sqrtf(squares / HIDDEN + 1e-12f);
    *slope = inverse * inverse * inverse / HIDDEN;
#else
    // The unbiased standard deviation plus 1e-6: the reference's. A row without variance has c = 0 everywhere, so
    // that its slope does not matter.
    float deviation = sqrtf(squares / (HIDDEN - 1));
    float inverse = 1.0f / (deviation + 1e-6f);
    *slope = deviation > 0.0f ? inverse * inverse / ((HIDDEN - 1) * deviation) : 0.0f;
#endif
    return inverse;
}

// x becomes its norm.
DEVICE void normalise(float *x, Moments moments, const float *gain, const float *shift) {
    float slope, g[CELLS], s[CELLS];
    float inverse = norm_factor(moments.squares, &slope);
    load_row(g, gain);
    load_row(s, shift);
    UNROLL
    for (u32 cell = 0; cell < CELLS; cell++) x[cell] = g[cell] * ((x[cell] - moments.mean) * inverse) + s[cell];
}

#define ROW_WARPS 4

// ---- the sum of the embeddings ----

typedef struct {
    // Tables with rows of HIDDEN.
    const float *token, *position, *segment;
    // Of each token: rows of the tables, and its dropout coordinate.
    const u32 *ids, *positions, *segments;
    const u64 *coordinates;
    // ARCH_BERT: of the embedding's norm; else of the first block's.
    const float *gain, *shift;
    // The norm's input, where that is not `x` (ARCH_BERT), and its moments.
    float *sum;
    Moments *moments;
    // The first block's input (rows, HIDDEN), and what its first product reads.
    float *x;
    S *operand;
    Dropout drop;
    u32 rows;
} Embed;

KERNEL(embed, 32 * ROW_WARPS, Embed) {
    u32 row = block_x() * ROW_WARPS + warp();
    if (row >= a.rows) return;
    u64 at = (u64)row * HIDDEN;
    float x[CELLS], y[CELLS];
    load_row(x, a.token + (u64)a.ids[row] * HIDDEN);
    load_row(y, a.position + (u64)a.positions[row] * HIDDEN);
    UNROLL
    for (u32 cell = 0; cell < CELLS; cell++) x[cell] += y[cell];
    load_row(y, a.segment + (u64)a.segments[row] * HIDDEN);
    UNROLL
    for (u32 cell = 0; cell < CELLS; cell++) x[cell] += y[cell];
#if ARCH_BERT
    store_row(a.sum + at, x);
#else
    drop_row(x, a.drop, a.coordinates[row]);
    store_row(a.x + at, x);
#endif
    Moments moments = moments_of(x);
    if (lane() == 0) a.moments[row] = moments;
    normalise(x, moments, a.gain, a.shift);
#if ARCH_BERT
    drop_row(x, a.drop, a.coordinates[row]);
    store_row(a.x + at, x);
#endif
    store_stored(a.operand + at, x);
}

// ---- a residual connection and the norm behind it ----
//
// sum = outer(x + inner(branch + bias)), operand = norm(sum).

typedef struct {
    const float *x;
    const S *branch;
    const float *bias;
    const u64 *coordinates;
    // None where no norm follows.
    const float *gain, *shift;
    float *sum;
    Moments *moments;
    // The norm in single precision, where it is wanted.
    float *normed;
    // The norm as a product reads it, where one does.
    S *operand;
    Dropout inner, outer;
    u32 rows;
} ResidualNorm;

KERNEL(residual_norm, 32 * ROW_WARPS, ResidualNorm) {
    u32 row = block_x() * ROW_WARPS + warp();
    if (row >= a.rows) return;
    u64 at = (u64)row * HIDDEN;
    float x[CELLS], y[CELLS];
    load_stored(x, a.branch + at);
    load_row(y, a.bias);
    UNROLL
    for (u32 cell = 0; cell < CELLS; cell++) x[cell] += y[cell];
    drop_row(x, a.inner, a.coordinates[row]);
    load_row(y, a.x + at);
    UNROLL
    for (u32 cell = 0; cell < CELLS; cell++) x[cell] += y[cell];
    drop_row(x, a.outer, a.coordinates[row]);
    store_row(a.sum + at, x);
    if (!a.gain) return;
    Moments moments = moments_of(x);
    if (lane() == 0) a.moments[row] = moments;
    normalise(x, moments, a.gain, a.shift);
    if (a.normed) store_row(a.normed + at, x);
    if (a.operand) store_stored(a.operand + at, x);
}

// ---- backward through a norm and the residual connection before it ----
//
// With c = x - mean, i the factor on it, g = dy * gain: dx = i * (g - mean(g)) - slope * sum(g * c) * c.
// Norms before the sublayers: d = stream + dx, dy of the operand. Norms behind them: d = dx, dy = stream + the
// operand's. Then stream = d = outer(d), dbranch = inner(d); its column sums are the bias' gradient.

typedef struct {
    // Gradient of what a product read of the norm, where one did.
    const S *dy;
    // Gradient of the residual stream, where there is one so far; and where the new one goes, which may be the same.
    const float *stream;
    float *dx;
    // Input of the norm; without moments there is no norm.
    const float *x;
    const Moments *moments;
    const float *gain;
    const u64 *coordinates;
    // Where wanted.
    S *dbranch;
    // (blocks, 3, HIDDEN): sums over a block's rows for gain, shift and bias.
    float *partials;
    // `before` is the dropout behind the norm (ARCH_BERT's embedding).
    Dropout before, outer, inner;
    u32 rows;
} NormBackward;

#define BACKWARD_WARPS 8
#define ROWS_OF_WARP 8

KERNEL(norm_backward, 32 * BACKWARD_WARPS, NormBackward) {
    SHARED float sums[3 * HIDDEN];
    float dgain[CELLS], dshift[CELLS], dbias[CELLS];
    UNROLL
    for (u32 cell = 0; cell < CELLS; cell++) dgain[cell] = dshift[cell] = dbias[cell] = 0.0f;
    for (u32 i = 0; i < ROWS_OF_WARP; i++) {
        u32 row = (block_x() * ROWS_OF_WARP + i) * BACKWARD_WARPS + warp();
        if (row >= a.rows) break;
        u64 at = (u64)row * HIDDEN;
        float d[CELLS], y[CELLS];
        UNROLL
        for (u32 cell = 0; cell < CELLS; cell++) d[cell] = y[cell] = 0.0f;
        if (a.stream) load_row(d, a.stream + at);
        if (a.dy) load_stored(y, a.dy + at);
#if ARCH_BERT
        UNROLL
        for (u32 cell = 0; cell < CELLS; cell++) {
            y[cell] += d[cell];
            d[cell] = 0.0f;
        }
        drop_row(y, a.before, a.coordinates ? a.coordinates[row] : 0);
#endif
        if (a.moments) {
            float x[CELLS], gain[CELLS], slope, sum_g = 0.0f, sum_gc = 0.0f;
            Moments moments = a.moments[row];
            float inverse = norm_factor(moments.squares, &slope);
            load_row(x, a.x + at);
            load_row(gain, a.gain);
            UNROLL
            for (u32 cell = 0; cell < CELLS; cell++) {
                x[cell] = inside(cell) ? x[cell] - moments.mean : 0.0f;
                dgain[cell] += y[cell] * (x[cell] * inverse);
                dshift[cell] += y[cell];
                y[cell] *= gain[cell];
                sum_g += y[cell];
                sum_gc += y[cell] * x[cell];
            }
            float mean_g = warp_sum(sum_g) / HIDDEN, k = slope * warp_sum(sum_gc);
            UNROLL
            for (u32 cell = 0; cell < CELLS; cell++) d[cell] += inverse * (y[cell] - mean_g) - k * x[cell];
        }
        drop_row(d, a.outer, a.coordinates ? a.coordinates[row] : 0);
        if (a.dx) store_row(a.dx + at, d);
        if (a.dbranch) {
            drop_row(d, a.inner, a.coordinates ? a.coordinates[row] : 0);
            store_stored(a.dbranch + at, d);
            UNROLL
            for (u32 cell = 0; cell < CELLS; cell++) dbias[cell] += d[cell];
        }
    }
    for (u32 turn = 0; turn < BACKWARD_WARPS; turn++) {
        if (warp() == turn) {
            UNROLL
            for (u32 cell = 0; cell < CELLS; cell++) {
                if (!inside(cell)) continue;
                float *sum = sums + column_of(cell);
                sum[0] = (turn ? sum[0] : 0.0f) + dgain[cell];
                sum[HIDDEN] = (turn ? sum[HIDDEN] : 0.0f) + dshift[cell];
                sum[2 * HIDDEN] = (turn ? sum[2 * HIDDEN] : 0.0f) + dbias[cell];
            }
        }
        barrier();
    }
    float *out = a.partials + (u64)block_x() * (3 * HIDDEN);
    for (u32 i = thread(); i < 3 * HIDDEN; i += 32 * BACKWARD_WARPS) out[i] = sums[i];
}

// ---- rows by number ----

typedef struct {
    const float *x;
    // Rows of `x`.
    const u32 *indices;
    // Both where wanted.
    float *rows_out;
    S *operand;
    u32 rows;
} GatherRows;

KERNEL(gather_rows, 32 * ROW_WARPS, GatherRows) {
    u32 row = block_x() * ROW_WARPS + warp();
    if (row >= a.rows) return;
    float x[CELLS];
    load_row(x, a.x + (u64)a.indices[row] * HIDDEN);
    if (a.rows_out) store_row(a.rows_out + (u64)row * HIDDEN, x);
    if (a.operand) store_stored(a.operand + (u64)row * HIDDEN, x);
}

// The same of what is stored; and the way back, which leaves other rows alone. No index comes twice.
typedef struct {
    const S *x;
    const u32 *indices;
    S *out;
    u32 rows;
} StoredRows;

KERNEL(gather_stored, 32 * ROW_WARPS, StoredRows) {
    u32 row = block_x() * ROW_WARPS + warp();
    if (row >= a.rows) return;
    float x[CELLS];
    load_stored(x, a.x + (u64)a.indices[row] * HIDDEN);
    store_stored(a.out + (u64)row * HIDDEN, x);
}

KERNEL(scatter_stored, 32 * ROW_WARPS, StoredRows) {
    u32 row = block_x() * ROW_WARPS + warp();
    if (row >= a.rows) return;
    float x[CELLS];
    load_stored(x, a.x + (u64)row * HIDDEN);
    store_stored(a.out + (u64)a.indices[row] * HIDDEN, x);
}

// sums[indices[row]] += x[row]; no index comes twice.
typedef struct {
    const float *x;
    const u32 *indices;
    float *sums;
    u32 rows;
} ScatterRows;

KERNEL(scatter_rows, 32 * ROW_WARPS, ScatterRows) {
    u32 row = block_x() * ROW_WARPS + warp();
    if (row >= a.rows) return;
    float x[CELLS], sum[CELLS];
    float *to = a.sums + (u64)a.indices[row] * HIDDEN;
    load_row(x, a.x + (u64)row * HIDDEN);
    load_row(sum, to);
    UNROLL
    for (u32 cell = 0; cell < CELLS; cell++) sum[cell] += x[cell];
    store_row(to, sum);
}

// out[targets[i]] = (add ? out[targets[i]] : 0) + the rows order[starts[i]..starts[i + 1]] of `x`, in their order;
// one block for each i. No target comes twice.
typedef struct {
    const float *x;
    // None: row after row.
    const u32 *order;
    const u32 *starts;
    // None: i itself.
    const u32 *targets;
    float *out;
    u32 add;
} SumRows;

KERNEL(sum_rows, 128, SumRows) {
    u32 first = a.starts[block_x()], end = a.starts[block_x() + 1];
    float *out = a.out + (u64)(a.targets ? a.targets[block_x()] : block_x()) * HIDDEN;
    for (u32 column = thread(); column < HIDDEN; column += 128) {
        float sum = 0.0f;
        for (u32 i = first; i < end; i++) sum += a.x[(u64)(a.order ? a.order[i] : i) * HIDDEN + column];
        out[column] = (a.add ? out[column] : 0.0f) + sum;
    }
}
