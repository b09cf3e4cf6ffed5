// Passes over matrices of any width whose columns are summed: the activation of the feed-forward layer, biases.
//
// A thread has two neighbouring columns and goes down some rows; what is summed over them is a row of `partials`,
// which `add_partials` adds up in their order. So no sum depends on who was first.

#define COLUMN_THREADS 128
#define ROWS_OF_BLOCK 64

DEVICE u32 first_column(void) { return (block_x() * COLUMN_THREADS + thread()) * 2; }

// Two columns of a row that is `width` wide; what lies beyond it is 0.
DEVICE void load_two(float *two, const S *row, u32 column, u32 width) {
    if (width % 2 == 0) {
        S2 pair = *(const S2 *)(row + column);
        two[0] = wide(pair.v[0]);
        two[1] = wide(pair.v[1]);
    } else {
        two[0] = wide(row[column]);
        two[1] = column + 1 < width ? wide(row[column + 1]) : 0.0f;
    }
}

DEVICE void store_two(S *row, const float *two, u32 column, u32 width) {
    if (width % 2 == 0) {
        S2 pair;
        pair.v[0] = narrow(two[0]);
        pair.v[1] = narrow(two[1]);
        *(S2 *)(row + column) = pair;
    } else {
        row[column] = narrow(two[0]);
        if (column + 1 < width) row[column + 1] = narrow(two[1]);
    }
}

DEVICE void store_sums(float *row, const float *two, u32 column, u32 width) {
    row[column] = two[0];
    if (column + 1 < width) row[column + 1] = two[1];
}

// GELU (Hendrycks & Gimpel 2016) and its derivative: by the error function in BERT, through tanh in the reference.
DEVICE float gelu(float x, float *slope) {
#if ARCH_BERT
    float half = 0.5f * (1.0f + erff(x * 0.70710678f));
    *slope = half + x * (0.3989423f * expf(-0.5f * x * x));
    return x * half;
#else
    float u = 0.7978846f * (x + 0.044715f * x * x * x);
    float tanh = 1.0f - 2.0f / (expf(2.0f * u) + 1.0f);
    float half = 0.5f * (1.0f + tanh);
    *slope = half + 0.5f * x * (1.0f - tanh * tanh) * (0.7978846f * (1.0f + 3.0f * 0.044715f * x * x));
    return x * half;
#endif
}

// activated = dropout(gelu(inner + bias))
typedef struct {
    const S *inner;
    const float *bias;
    const u64 *coordinates;
    S *activated;
    Dropout drop;
    u32 rows, width;
} Activate;

KERNEL(activate, COLUMN_THREADS, Activate) {
    u32 column = first_column();
    if (column >= a.width) return;
    float bias[2] = {a.bias[column], column + 1 < a.width ? a.bias[column + 1] : 0.0f};
    for (u32 i = 0; i < ROWS_OF_BLOCK; i++) {
        u32 row = block_y() * ROWS_OF_BLOCK + i;
        if (row >= a.rows) break;
        float x[2], slope;
        load_two(x, a.inner + (u64)row * a.width, column, a.width);
        RowKey key = row_key(a.drop, a.coordinates[row]);
        UNROLL
        for (u32 k = 0; k < 2; k++) x[k] = gelu(x[k] + bias[k], &slope) * kept(a.drop, key, column + k);
        store_two(a.activated + (u64)row * a.width, x, column, a.width);
    }
}

// The gradient of `activated` becomes that of `inner`, whose column sums are the bias' gradient; `activated` is made
// again where it is wanted.
typedef struct {
    S *gradient;
    const S *inner;
    const float *bias;
    // None without dropout.
    const u64 *coordinates;
    S *activated;
    // (blocks, width)
    float *partials;
    Dropout drop;
    u32 rows, width;
} ActivateBackward;

KERNEL(activate_backward, COLUMN_THREADS, ActivateBackward) {
    u32 column = first_column();
    if (column >= a.width) return;
    float bias[2] = {a.bias[column], column + 1 < a.width ? a.bias[column + 1] : 0.0f};
    float sums[2] = {0.0f, 0.0f};
    for (u32 i = 0; i < ROWS_OF_BLOCK; i++) {
        u32 row = block_y() * ROWS_OF_BLOCK + i;
        if (row >= a.rows) break;
        u64 at = (u64)row * a.width;
        float x[2], dy[2];
        load_two(x, a.inner + at, column, a.width);
        load_two(dy, a.gradient + at, column, a.width);
        RowKey key = row_key(a.drop, a.coordinates ? a.coordinates[row] : 0);
        UNROLL
        for (u32 k = 0; k < 2; k++) {
            float slope, factor = kept(a.drop, key, column + k);
            x[k] = gelu(x[k] + bias[k], &slope) * factor;
            dy[k] *= slope * factor;
            sums[k] += dy[k];
        }
        store_two(a.gradient + at, dy, column, a.width);
        if (a.activated) store_two(a.activated + at, x, column, a.width);
    }
    store_sums(a.partials + (u64)block_y() * a.width, sums, column, a.width);
}

typedef struct {
    const S *x;
    // (blocks, width)
    float *partials;
    u32 rows, width;
} SumColumns;

KERNEL(sum_columns, COLUMN_THREADS, SumColumns) {
    u32 column = first_column();
    if (column >= a.width) return;
    float sums[2] = {0.0f, 0.0f};
    for (u32 i = 0; i < ROWS_OF_BLOCK; i++) {
        u32 row = block_y() * ROWS_OF_BLOCK + i;
        if (row >= a.rows) break;
        float x[2];
        load_two(x, a.x + (u64)row * a.width, column, a.width);
        sums[0] += x[0];
        sums[1] += x[1];
    }
    store_sums(a.partials + (u64)block_y() * a.width, sums, column, a.width);
}

// to[part][column] += the sum of partials (chunks, parts, width) over the chunks, for each part that is wanted; blocks
// are (columns / 32, parts).
typedef struct {
    const float *partials;
    float *to[3];
    u32 chunks, width, parts;
} AddPartials;

#define PARTIAL_WARPS 8

KERNEL(add_partials, 32 * PARTIAL_WARPS, AddPartials) {
    SHARED float sums[PARTIAL_WARPS][32];
    float *to = a.to[block_y()];
    if (!to) return;
    u32 column = block_x() * 32 + lane();
    float sum = 0.0f;
    if (column < a.width) {
        const float *from = a.partials + (u64)block_y() * a.width + column;
        for (u32 chunk = warp(); chunk < a.chunks; chunk += PARTIAL_WARPS) sum += from[(u64)chunk * a.parts * a.width];
    }
    sums[warp()][lane()] = sum;
    barrier();
    if (warp() != 0 || column >= a.width) return;
    sum = 0.0f;
    for (u32 i = 0; i < PARTIAL_WARPS; i++) sum += sums[i][lane()];
    to[column] += sum;
}
