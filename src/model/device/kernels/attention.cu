// Scaled dot-product attention over the real tokens of each sample, forward and backward (Vaswani et al. 2017; the
// probabilities are made again on the way back, Dao et al. 2022).
//
// Samples lie behind each other without padding. A block works on a tile of ATTENTION_TILE queries of one sample and
// one head (the backward pass of keys and values: of keys), and goes over the sample's keys (queries) in steps, which
// all its threads read from shared memory. What a block writes is its alone, so that nothing depends on their order.
//
// Two ways with the same names: tensor cores where operands are bfloat16 and a head's width suits them
// (attention_tensor.cu), multiply-adds of single precision for everything else, here.

#define ATTENTION_TILE 64
#define ATTENTION_THREADS 128

#define TENSOR_CORES (STORE_BF16 && HEAD_DIM % 16 == 0 && HEAD_DIM <= 64)

typedef struct {
    // (tokens, 3 HIDDEN): queries, keys and values of all heads, to which `bias` (3 HIDDEN) is added here.
    const S *qkv;
    const float *bias;
    // (tiles, 3): the sample's first token, its length, the tile's first query (or key) within it.
    const u32 *tiles;
    const u64 *coordinates;
    // (tokens, HIDDEN)
    S *context;
    // (HEADS, tokens): logs of the sums of exponentials of the scaled scores.
    float *log_sums;
    Dropout drop;
    u32 tokens;
    // Of the scores.
    float scale;
} AttentionForward;

typedef struct {
    const S *qkv;
    const float *bias;
    const u32 *tiles;
    const u64 *coordinates;
    // Gradient of the context (tokens, HIDDEN).
    const S *dcontext;
    const float *log_sums;
    // (HEADS, tokens): sums of dcontext * context over a head.
    const float *delta;
    // (tokens, 3 HIDDEN): one kernel writes the queries' part, the other those of keys and values.
    S *dqkv;
    Dropout drop;
    u32 tokens;
    float scale;
} AttentionBackward;

typedef struct {
    const S *dcontext, *context;
    float *delta;
    u32 tokens;
} AttentionDelta;

// A warp for each token.
KERNEL(attention_delta, 32 * ROW_WARPS, AttentionDelta) {
    u32 token = block_x() * ROW_WARPS + warp();
    if (token >= a.tokens) return;
    u64 at = (u64)token * HIDDEN;
    for (u32 head = 0; head < HEADS; head++) {
        float sum = 0.0f;
        for (u32 d = lane(); d < HEAD_DIM; d += 32)
            sum += wide(a.dcontext[at + head * HEAD_DIM + d]) * wide(a.context[at + head * HEAD_DIM + d]);
        sum = warp_sum(sum);
        if (lane() == 0) a.delta[head * a.tokens + token] = sum;
    }
}

// Of the tile at hand.
typedef struct {
    u32 first, len, start, head;
} Tile;

DEVICE Tile tile_at(const u32 *tiles) {
    const u32 *at = tiles + block_x() * 3;
    Tile tile = {at[0], at[1], at[2], block_y()};
    return tile;
}

DEVICE RowKey query_key(Dropout drop, const u64 *coordinates, u32 token, u32 head) {
    return row_key(drop, coordinates[token] | (u64)head << 24);
}

#if !TENSOR_CORES

// Two neighbouring threads share a row of the tile, each half of the head's columns: a dot product is the sum of both.
#define HALF ((HEAD_DIM + 1) / 2)
// Rows in shared memory at a time, and where a row's second half begins: not in the bank of the first.
#define STEP (HEAD_DIM <= 64 ? 32 : HEAD_DIM <= 128 ? 16 : 8)
#define SECOND (HALF + 1)

DEVICE u32 half_of_row(void) { return thread() % 2; }

// This thread's columns of one part (0 queries, 1 keys, 2 values) of a token's row, with the bias; 0 beyond the head.
DEVICE void load_half(float *half, const S *qkv, const float *bias, u32 token, u32 part, u32 head) {
    UNROLL
    for (u32 d = 0; d < HALF; d++) {
        u32 column = half_of_row() * HALF + d, at = part * HIDDEN + head * HEAD_DIM + column;
        half[d] = column < HEAD_DIM ? wide(qkv[(u64)token * (3 * HIDDEN) + at]) + bias[at] : 0.0f;
    }
}

DEVICE void load_gradient_half(float *half, const S *dcontext, u32 token, u32 head) {
    UNROLL
    for (u32 d = 0; d < HALF; d++) {
        u32 column = half_of_row() * HALF + d;
        half[d] = column < HEAD_DIM ? wide(dcontext[(u64)token * HIDDEN + head * HEAD_DIM + column]) : 0.0f;
    }
}

DEVICE void store_half(S *row, const float *half, float factor) {
    UNROLL
    for (u32 d = 0; d < HALF; d++) {
        u32 column = half_of_row() * HALF + d;
        if (column < HEAD_DIM) row[column] = narrow(half[d] * factor);
    }
}

// Some rows of a part into shared memory, by all threads; `columns` are 3 HIDDEN wide with a bias, or HIDDEN without.
DEVICE void stage(float shared[][2 * SECOND], const S *from, const float *bias, u32 stride, u32 token, u32 rows) {
    for (u32 i = thread(); i < STEP * 2 * HALF; i += ATTENTION_THREADS) {
        u32 row = i / (2 * HALF), column = i % (2 * HALF);
        float value = 0.0f;
        if (row < rows && column < HEAD_DIM)
            value = wide(from[(u64)(token + row) * stride + column]) + (bias ? bias[column] : 0.0f);
        shared[row][column < HALF ? column : SECOND + column - HALF] = value;
    }
}

// Keys and values of one head, when nobody reads those before any more, and before anybody reads these. `qkv` and `bias`
// point to the head's queries.
DEVICE void stage_keys_and_values(float keys[][2 * SECOND], float values[][2 * SECOND], const S *qkv, const float *bias,
                                  u32 token, u32 rows) {
    barrier();
    stage(keys, qkv + HIDDEN, bias + HIDDEN, 3 * HIDDEN, token, rows);
    stage(values, qkv + 2 * HIDDEN, bias + 2 * HIDDEN, 3 * HIDDEN, token, rows);
    barrier();
}

// The dot product of this pair of threads' row with a row of shared memory.
DEVICE float dot(const float *half, const float *shared) {
    float sum = 0.0f;
    UNROLL
    for (u32 d = 0; d < HALF; d++) sum += half[d] * shared[half_of_row() * SECOND + d];
    return sum + shuffle_xor(sum, 1);
}

DEVICE void add_scaled(float *half, float factor, const float *shared) {
    UNROLL
    for (u32 d = 0; d < HALF; d++) half[d] += factor * shared[half_of_row() * SECOND + d];
}

KERNEL(attention_forward, ATTENTION_THREADS, AttentionForward) {
    SHARED float keys[STEP][2 * SECOND];
    SHARED float values[STEP][2 * SECOND];
    Tile tile = tile_at(a.tiles);
    u32 place = tile.start + thread() / 2, column = tile.head * HEAD_DIM;
    // Threads beyond the sample work on its last query, and write nothing.
    u32 query = tile.first + (place < tile.len ? place : tile.len - 1);
    float q[HALF], sums[HALF], max = of_bits(0xff800000u), sum = 0.0f;
    load_half(q, a.qkv, a.bias, query, 0, tile.head);
    UNROLL
    for (u32 d = 0; d < HALF; d++) sums[d] = 0.0f;
    RowKey key = query_key(a.drop, a.coordinates, query, tile.head);
    for (u32 start = 0; start < tile.len; start += STEP) {
        u32 rows = tile.len - start < STEP ? tile.len - start : STEP, token = tile.first + start;
        stage_keys_and_values(keys, values, a.qkv + column, a.bias + column, token, rows);
        for (u32 i = 0; i < rows; i++) {
            float score = dot(q, keys[i]) * a.scale;
            if (score > max) {
                // What was summed so far was relative to another maximum; at first there is nothing, times 0.
                float correction = expf(max - score);
                max = score;
                sum *= correction;
                UNROLL
                for (u32 d = 0; d < HALF; d++) sums[d] *= correction;
            }
            float p = expf(score - max);
            sum += p;
            add_scaled(sums, p * kept(a.drop, key, start + i), values[i]);
        }
    }
    if (place >= tile.len) return;
    store_half(a.context + (u64)query * HIDDEN + column, sums, 1.0f / sum);
    if (half_of_row() == 0) a.log_sums[tile.head * a.tokens + query] = max + logf(sum);
}

KERNEL(attention_backward_queries, ATTENTION_THREADS, AttentionBackward) {
    SHARED float keys[STEP][2 * SECOND];
    SHARED float values[STEP][2 * SECOND];
    Tile tile = tile_at(a.tiles);
    u32 place = tile.start + thread() / 2, column = tile.head * HEAD_DIM;
    u32 query = tile.first + (place < tile.len ? place : tile.len - 1);
    float q[HALF], dcontext[HALF], dq[HALF];
    load_half(q, a.qkv, a.bias, query, 0, tile.head);
    load_gradient_half(dcontext, a.dcontext, query, tile.head);
    UNROLL
    for (u32 d = 0; d < HALF; d++) dq[d] = 0.0f;
    RowKey key = query_key(a.drop, a.coordinates, query, tile.head);
    float log_sum = a.log_sums[tile.head * a.tokens + query], delta = a.delta[tile.head * a.tokens + query];
    for (u32 start = 0; start < tile.len; start += STEP) {
        u32 rows = tile.len - start < STEP ? tile.len - start : STEP, token = tile.first + start;
        stage_keys_and_values(keys, values, a.qkv + column, a.bias + column, token, rows);
        for (u32 i = 0; i < rows; i++) {
            float p = expf(dot(q, keys[i]) * a.scale - log_sum);
            float dp = dot(dcontext, values[i]) * kept(a.drop, key, start + i);
            add_scaled(dq, p * (dp - delta), keys[i]);
        }
    }
    if (place < tile.len) store_half(a.dqkv + (u64)query * (3 * HIDDEN) + column, dq, a.scale);
}

KERNEL(attention_backward_keys, ATTENTION_THREADS, AttentionBackward) {
    SHARED float queries[STEP][2 * SECOND];
    SHARED float gradients[STEP][2 * SECOND];
    SHARED RowKey rows_of_dropout[STEP];
    SHARED float log_sums[STEP], deltas[STEP];
    Tile tile = tile_at(a.tiles);
    u32 place = tile.start + thread() / 2, column = tile.head * HEAD_DIM;
    u32 key = tile.first + (place < tile.len ? place : tile.len - 1);
    float k[HALF], v[HALF], dk[HALF], dv[HALF];
    load_half(k, a.qkv, a.bias, key, 1, tile.head);
    load_half(v, a.qkv, a.bias, key, 2, tile.head);
    UNROLL
    for (u32 d = 0; d < HALF; d++) dk[d] = dv[d] = 0.0f;
    for (u32 start = 0; start < tile.len; start += STEP) {
        u32 rows = tile.len - start < STEP ? tile.len - start : STEP, token = tile.first + start;
        barrier();
        stage(queries, a.qkv + column, a.bias + column, 3 * HIDDEN, token, rows);
        stage(gradients, a.dcontext + column, 0, HIDDEN, token, rows);
        if (thread() < rows) {
            rows_of_dropout[thread()] = query_key(a.drop, a.coordinates, token + thread(), tile.head);
            log_sums[thread()] = a.log_sums[tile.head * a.tokens + token + thread()];
            deltas[thread()] = a.delta[tile.head * a.tokens + token + thread()];
        }
        barrier();
        for (u32 i = 0; i < rows; i++) {
            float p = expf(dot(k, queries[i]) * a.scale - log_sums[i]);
            float factor = kept(a.drop, rows_of_dropout[i], place);
            float dp = dot(v, gradients[i]) * factor;
            add_scaled(dk, p * (dp - deltas[i]), queries[i]);
            add_scaled(dv, p * factor, gradients[i]);
        }
    }
    if (place >= tile.len) return;
    S *row = a.dqkv + (u64)key * (3 * HIDDEN) + column;
    store_half(row + HIDDEN, dk, a.scale);
    store_half(row + 2 * HIDDEN, dv, 1.0f);
}

#endif
