// Attention by tensor cores: see attention.cu.
//
// A warp owns 16 rows of the tile: their queries (keys and values in the backward pass of those) stay in registers as
// fragments of mma.m16n8k16. Rows of the other side come through shared memory, STAGED at a time, and make SCORES
// columns of scores, which stay in registers too: the layout of a product's result is that of the next one's left
// operand. Shared memory: two matrices of STAGED rows, 18 KiB at 64 columns a head, so that registers (at most 255 of
// 128 threads) limit the blocks of a multiprocessor.

#if TENSOR_CORES

#define STAGED 64
#define SCORES 32
#define SCORE_TILES (SCORES / 8)
#define DIM_STEPS (HEAD_DIM / 16)
#define DIM_TILES (HEAD_DIM / 8)
// Eight more than a head's columns: rows then begin in different banks.
#define ROW (HEAD_DIM + 8)

typedef struct ALIGNED(16) { u32 v[4]; } U4;

// The fragments of 16 rows: left operands of DIM_STEPS products.
typedef struct { u32 step[DIM_STEPS][4]; } Fragments;
// Results of products: tiles of 8 columns. A lane has columns 2 (lane % 4) and the next, of row lane / 4 in the first
// two numbers and of the row 8 further on in the others.
typedef struct { float tile[SCORE_TILES][4]; } Scores;
typedef struct { float tile[DIM_TILES][4]; } Outputs;

// Rows of one head into shared memory, by all threads: `from` points to its columns in the first row; with a bias or
// without. Zeros behind the last row.
DEVICE void stage_rows(u16 shared[STAGED][ROW], const S *from, const float *bias, u32 stride, u32 rows) {
    for (u32 i = thread(); i < STAGED * (HEAD_DIM / 8); i += ATTENTION_THREADS) {
        u32 row = i / (HEAD_DIM / 8), column = i % (HEAD_DIM / 8) * 8;
        U4 eight = {{0, 0, 0, 0}};
        if (row < rows) {
            eight = *(const U4 *)(from + (u64)row * stride + column);
            if (bias) {
                UNROLL
                for (u32 k = 0; k < 4; k++) {
                    float low = of_bits(eight.v[k] << 16) + bias[column + 2 * k];
                    float high = of_bits(eight.v[k] & 0xffff0000u) + bias[column + 2 * k + 1];
                    eight.v[k] = round_pair(low, high);
                }
            }
        }
        *(U4 *)&shared[row][column] = eight;
    }
}

// Keys and values of one head, for all threads to read behind it; `qkv` and `bias` point to the head's queries.
DEVICE void stage_keys_and_values(u16 keys[STAGED][ROW], u16 values[STAGED][ROW], const S *qkv, const float *bias,
                                  u32 rows) {
    stage_rows(keys, qkv + HIDDEN, bias + HIDDEN, 3 * HIDDEN, rows);
    stage_rows(values, qkv + 2 * HIDDEN, bias + 2 * HIDDEN, 3 * HIDDEN, rows);
    barrier();
}

// This warp's 16 rows.
DEVICE void load_fragments(Fragments *fragments, u16 shared[STAGED][ROW]) {
    UNROLL
    for (u32 step = 0; step < DIM_STEPS; step++)
        load_matrices(fragments->step[step], &shared[warp() * 16 + lane() % 16][step * 16 + lane() / 16 * 8]);
}

// The products of this warp's rows with SCORES rows of shared memory, from `first` on.
DEVICE void score(Scores *scores, const Fragments *rows, u16 shared[STAGED][ROW], u32 first) {
    UNROLL
    for (u32 tile = 0; tile < SCORE_TILES; tile++) {
        UNROLL
        for (u32 i = 0; i < 4; i++) scores->tile[tile][i] = 0.0f;
    }
    UNROLL
    for (u32 step = 0; step < DIM_STEPS; step++) {
        UNROLL
        for (u32 tile = 0; tile < SCORE_TILES; tile += 2) {
            u32 right[4];
            u32 row = first + tile * 8 + lane() / 16 * 8 + lane() % 8;
            load_matrices(right, &shared[row][step * 16 + lane() / 8 % 2 * 8]);
            multiply_add(scores->tile[tile], rows->step[step], right);
            multiply_add(scores->tile[tile + 1], rows->step[step], right + 2);
        }
    }
}

// Adds the products of scores with SCORES rows of shared memory, from `first` on.
DEVICE void add_products(Outputs *outputs, const Scores *scores, u16 shared[STAGED][ROW], u32 first) {
    UNROLL
    for (u32 step = 0; step < SCORES / 16; step++) {
        const float *low = scores->tile[2 * step], *high = scores->tile[2 * step + 1];
        u32 left[4] = {round_pair(low[0], low[1]), round_pair(low[2], low[3]), round_pair(high[0], high[1]),
                       round_pair(high[2], high[3])};
        UNROLL
        for (u32 tile = 0; tile < DIM_TILES; tile += 2) {
            u32 right[4];
            load_matrices_transposed(right, &shared[first + step * 16 + lane() % 16][tile * 8 + lane() / 16 * 8]);
            multiply_add(outputs->tile[tile], left, right);
            multiply_add(outputs->tile[tile + 1], left, right + 2);
        }
    }
}

DEVICE void clear(Outputs *outputs) {
    UNROLL
    for (u32 tile = 0; tile < DIM_TILES; tile++) {
        UNROLL
        for (u32 i = 0; i < 4; i++) outputs->tile[tile][i] = 0.0f;
    }
}

// This warp's rows times a factor for each of a lane's two, where they lie within the sample; `to` points to the
// head's columns in the tile's first row.
DEVICE void store_outputs(S *to, u32 stride, const Outputs *outputs, float upper, float lower, u32 rows) {
    u32 row = warp() * 16 + lane() / 4, column = lane() % 4 * 2;
    UNROLL
    for (u32 tile = 0; tile < DIM_TILES; tile++) {
        const float *o = outputs->tile[tile];
        u32 at = tile * 8 + column;
        if (row < rows) *(u32 *)(to + (u64)row * stride + at) = round_pair(o[0] * upper, o[1] * upper);
        if (row + 8 < rows) *(u32 *)(to + (u64)(row + 8) * stride + at) = round_pair(o[2] * lower, o[3] * lower);
    }
}

// The sum, and the largest, over the four lanes that share a row.
DEVICE float row_sum(float value) {
    value += shuffle_xor(value, 1);
    return value + shuffle_xor(value, 2);
}

DEVICE float row_max(float value) {
    float other = shuffle_xor(value, 1);
    value = other > value ? other : value;
    other = shuffle_xor(value, 2);
    return other > value ? other : value;
}

// Factors of dropout for two rows of scores whose columns begin at `first`, a multiple of SCORES: a hash decides two
// columns, 16 apart.
DEVICE void drop_factors(Scores *factors, Dropout drop, RowKey upper, RowKey lower, u32 first) {
    UNROLL
    for (u32 tile = 0; tile < 2; tile++) {
        UNROLL
        for (u32 i = 0; i < 4; i++) {
            float *low = &factors->tile[tile][i], *high = &factors->tile[tile + 2][i];
            *low = *high = 1.0f;
            if (drop.threshold == 0) continue;
            u32 column = tile * 8 + lane() % 4 * 2 + i % 2;
            u32 bits = dropout_hash(i < 2 ? upper : lower, first / 32 * 16 + column);
            *low = (bits & 0xffff) >= drop.threshold ? drop.scale : 0.0f;
            *high = (bits >> 16) >= drop.threshold ? drop.scale : 0.0f;
        }
    }
}

DEVICE u32 smaller(u32 a, u32 b) { return a < b ? a : b; }

KERNEL(attention_forward, ATTENTION_THREADS, AttentionForward) {
    SHARED ALIGNED(16) u16 keys[STAGED][ROW];
    SHARED ALIGNED(16) u16 values[STAGED][ROW];
    Tile tile = tile_at(a.tiles);
    u32 column = tile.head * HEAD_DIM, row = tile.start + warp() * 16 + lane() / 4, last = tile.len - 1;
    const S *q = a.qkv + (u64)(tile.first + tile.start) * (3 * HIDDEN) + column;
    Fragments queries;
    stage_rows(keys, q, a.bias + column, 3 * HIDDEN, tile.len - tile.start);
    barrier();
    load_fragments(&queries, keys);
    // Rows beyond the sample have the dropout of its last query, and are not stored.
    RowKey upper_key = query_key(a.drop, a.coordinates, tile.first + smaller(row, last), tile.head);
    RowKey lower_key = query_key(a.drop, a.coordinates, tile.first + smaller(row + 8, last), tile.head);
    Outputs outputs;
    clear(&outputs);
    float max[2] = {of_bits(0xff800000u), of_bits(0xff800000u)}, sum[2] = {0.0f, 0.0f};
    for (u32 start = 0; start < tile.len; start += STAGED) {
        const S *qkv = a.qkv + (u64)(tile.first + start) * (3 * HIDDEN) + column;
        barrier();
        stage_keys_and_values(keys, values, qkv, a.bias + column, tile.len - start);
        for (u32 at = 0; at < STAGED && start + at < tile.len; at += SCORES) {
            Scores scores, factors;
            score(&scores, &queries, keys, at);
            drop_factors(&factors, a.drop, upper_key, lower_key, start + at);
            UNROLL
            for (u32 half = 0; half < 2; half++) {
                float largest = max[half], added = 0.0f;
                UNROLL
                for (u32 i = 0; i < 2 * SCORE_TILES; i++) {
                    float *s = &scores.tile[i / 2][half * 2 + i % 2];
                    u32 key = start + at + i / 2 * 8 + lane() % 4 * 2 + i % 2;
                    *s = key < tile.len ? *s * a.scale : of_bits(0xff800000u);
                    largest = *s > largest ? *s : largest;
                }
                largest = row_max(largest);
                float correction = expf(max[half] - largest);
                max[half] = largest;
                UNROLL
                for (u32 i = 0; i < 2 * SCORE_TILES; i++) {
                    float *s = &scores.tile[i / 2][half * 2 + i % 2];
                    *s = expf(*s - largest);
                    added += *s;
                    *s *= factors.tile[i / 2][half * 2 + i % 2];
                }
                sum[half] = sum[half] * correction + added;
                UNROLL
                for (u32 i = 0; i < 2 * DIM_TILES; i++) outputs.tile[i / 2][half * 2 + i % 2] *= correction;
            }
            add_products(&outputs, &scores, values, at);
        }
    }
    sum[0] = row_sum(sum[0]);
    sum[1] = row_sum(sum[1]);
    S *context = a.context + (u64)(tile.first + tile.start) * HIDDEN + column;
    store_outputs(context, HIDDEN, &outputs, 1.0f / sum[0], 1.0f / sum[1], tile.len - tile.start);
    float *log_sums = a.log_sums + (u64)tile.head * a.tokens + tile.first;
    if (lane() % 4 == 0 && row < tile.len) log_sums[row] = max[0] + logf(sum[0]);
    if (lane() % 4 == 0 && row + 8 < tile.len) log_sums[row + 8] = max[1] + logf(sum[1]);
}

KERNEL(attention_backward_queries, ATTENTION_THREADS, AttentionBackward) {
    SHARED ALIGNED(16) u16 keys[STAGED][ROW];
    SHARED ALIGNED(16) u16 values[STAGED][ROW];
    Tile tile = tile_at(a.tiles);
    u32 column = tile.head * HEAD_DIM, row = tile.start + warp() * 16 + lane() / 4, last = tile.len - 1;
    u64 token = tile.first + tile.start;
    Fragments queries, gradients;
    stage_rows(keys, a.qkv + token * (3 * HIDDEN) + column, a.bias + column, 3 * HIDDEN, tile.len - tile.start);
    stage_rows(values, a.dcontext + token * HIDDEN + column, 0, HIDDEN, tile.len - tile.start);
    barrier();
    load_fragments(&queries, keys);
    load_fragments(&gradients, values);
    u32 places[2] = {tile.first + smaller(row, last), tile.first + smaller(row + 8, last)};
    RowKey upper_key = query_key(a.drop, a.coordinates, places[0], tile.head);
    RowKey lower_key = query_key(a.drop, a.coordinates, places[1], tile.head);
    float log_sum[2], delta[2];
    UNROLL
    for (u32 half = 0; half < 2; half++) {
        log_sum[half] = a.log_sums[(u64)tile.head * a.tokens + places[half]];
        delta[half] = a.delta[(u64)tile.head * a.tokens + places[half]];
    }
    Outputs outputs;
    clear(&outputs);
    for (u32 start = 0; start < tile.len; start += STAGED) {
        const S *qkv = a.qkv + (u64)(tile.first + start) * (3 * HIDDEN) + column;
        barrier();
        stage_keys_and_values(keys, values, qkv, a.bias + column, tile.len - start);
        for (u32 at = 0; at < STAGED && start + at < tile.len; at += SCORES) {
            Scores scores, dscores, factors;
            score(&scores, &queries, keys, at);
            score(&dscores, &gradients, values, at);
            drop_factors(&factors, a.drop, upper_key, lower_key, start + at);
            UNROLL
            for (u32 tile_of = 0; tile_of < SCORE_TILES; tile_of++) {
                UNROLL
                for (u32 i = 0; i < 4; i++) {
                    u32 key = start + at + tile_of * 8 + lane() % 4 * 2 + i % 2;
                    float p = key < tile.len ? expf(scores.tile[tile_of][i] * a.scale - log_sum[i / 2]) : 0.0f;
                    float dp = dscores.tile[tile_of][i] * factors.tile[tile_of][i];
                    scores.tile[tile_of][i] = p * (dp - delta[i / 2]);
                }
            }
            add_products(&outputs, &scores, keys, at);
        }
    }
    store_outputs(a.dqkv + token * (3 * HIDDEN) + column, 3 * HIDDEN, &outputs, a.scale, a.scale, tile.len - tile.start);
}

// The same with the sides changed: scores are (keys, queries).
KERNEL(attention_backward_keys, ATTENTION_THREADS, AttentionBackward) {
    SHARED ALIGNED(16) u16 queries[STAGED][ROW];
    SHARED ALIGNED(16) u16 gradients[STAGED][ROW];
    SHARED RowKey rows_of_dropout[STAGED];
    SHARED float log_sums[STAGED];
    SHARED float deltas[STAGED];
    Tile tile = tile_at(a.tiles);
    u32 column = tile.head * HEAD_DIM, row = tile.start + warp() * 16 + lane() / 4;
    u64 token = tile.first + tile.start;
    Fragments keys, values;
    const S *qkv = a.qkv + token * (3 * HIDDEN) + column;
    stage_keys_and_values(queries, gradients, qkv, a.bias + column, tile.len - tile.start);
    load_fragments(&keys, queries);
    load_fragments(&values, gradients);
    Outputs dkeys, dvalues;
    clear(&dkeys);
    clear(&dvalues);
    for (u32 start = 0; start < tile.len; start += STAGED) {
        u64 first = tile.first + start;
        barrier();
        stage_rows(queries, a.qkv + first * (3 * HIDDEN) + column, a.bias + column, 3 * HIDDEN, tile.len - start);
        stage_rows(gradients, a.dcontext + first * HIDDEN + column, 0, HIDDEN, tile.len - start);
        if (thread() < STAGED && start + thread() < tile.len) {
            u64 query = first + thread();
            rows_of_dropout[thread()] = query_key(a.drop, a.coordinates, (u32)query, tile.head);
            log_sums[thread()] = a.log_sums[(u64)tile.head * a.tokens + query];
            deltas[thread()] = a.delta[(u64)tile.head * a.tokens + query];
        }
        barrier();
        for (u32 at = 0; at < STAGED && start + at < tile.len; at += SCORES) {
            Scores scores, dscores;
            score(&scores, &keys, queries, at);
            score(&dscores, &values, gradients, at);
            UNROLL
            for (u32 tile_of = 0; tile_of < SCORE_TILES; tile_of++) {
                UNROLL
                for (u32 i = 0; i < 4; i++) {
                    float *s = &scores.tile[tile_of][i], *ds = &dscores.tile[tile_of][i];
                    u32 place = at + tile_of * 8 + lane() % 4 * 2 + i % 2;
                    if (start + place >= tile.len) {
                        *s = *ds = 0.0f;
                        continue;
                    }
                    float p = expf(*s * a.scale - log_sums[place]);
                    float factor = kept(a.drop, rows_of_dropout[place], row + i / 2 * 8);
                    *ds = p * (*ds * factor - deltas[place]);
                    *s = p * factor;
                }
            }
            add_products(&dkeys, &dscores, queries, at);
            add_products(&dvalues, &scores, gradients, at);
        }
    }
    S *to = a.dqkv + token * (3 * HIDDEN) + HIDDEN + column;
    store_outputs(to, 3 * HIDDEN, &dkeys, a.scale, a.scale, tile.len - tile.start);
    store_outputs(to + HIDDEN, 3 * HIDDEN, &dvalues, 1.0f, 1.0f, tile.len - tile.start);
}

#endif
