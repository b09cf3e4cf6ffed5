// What all kernels share: types, threads, reductions, bfloat16, rows in registers, dropout.
//
// The source is what C and CUDA C++ have in common. NVRTC compiles it for a device, with the model's shape as
// constants; a C compiler compiles it with EMULATED for the tests, which run every kernel on the CPU, thread by
// thread. Constants that the program defines: HIDDEN, HEADS, HEAD_DIM, ARCH_BERT (1: norms behind the sublayers),
// STORE_BF16 (1: operands of products are stored in bfloat16).
//
// Each kernel takes one structure `a`: pointers and 64-bit numbers first, then 32-bit ones.

#ifdef EMULATED
#include "emulate.h"
#else
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
#define DEVICE static __device__ __forceinline__
#define KERNEL(name, threads, Arguments) \
    extern "C" __global__ void __launch_bounds__(threads) name(const Arguments a)
#define SHARED __shared__
#define ALIGNED(bytes) __align__(bytes)
#define UNROLL _Pragma("unroll")
DEVICE u32 thread(void) { return threadIdx.x; }
DEVICE u32 block_x(void) { return blockIdx.x; }
DEVICE u32 block_y(void) { return blockIdx.y; }
DEVICE u32 blocks_x(void) { return gridDim.x; }
// All threads of a block wait for each other, and see what the others wrote.
DEVICE void barrier(void) { __syncthreads(); }
// The value of the lane whose number differs by `mask`. All 32 lanes of a warp must call it.
DEVICE float shuffle_xor(float value, u32 mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
DEVICE u32 shuffle_xor_u32(u32 value, u32 mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
DEVICE float of_bits(u32 bits) { return __uint_as_float(bits); }
// Two numbers rounded to bfloat16, to nearest even: `low` in the low half.
DEVICE u32 round_pair(float low, float high) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
// One warp: c (16, 8) += a (16, 16) b (16, 8), a and b in bfloat16, in the fragments of PTX's mma.m16n8k16.
DEVICE void multiply_add(float c[4], const u32 a[4], const u32 b[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// One warp: four matrices (8, 8) of 16-bit numbers from shared memory. Lane 8 i + r gives the address of row r of
// matrix i, on a boundary of 16 bytes; register i of a lane gets elements 2 (lane % 4) and the next of row lane / 4.
DEVICE void load_matrices(u32 r[4], const u16 *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((u32)__cvta_generic_to_shared(row))
                 : "memory");
}
// The same with each matrix transposed: two elements of column lane / 4, of rows 2 (lane % 4) and the next.
DEVICE void load_matrices_transposed(u32 r[4], const u16 *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((u32)__cvta_generic_to_shared(row))
                 : "memory");
}
#endif

DEVICE u32 lane(void) { return thread() % 32; }
DEVICE u32 warp(void) { return thread() / 32; }

// ---- operands of products ----

#if STORE_BF16
typedef u16 S;
DEVICE float wide(S value) { return of_bits((u32)value << 16); }
DEVICE S narrow(float value) { return (S)round_pair(value, 0.0f); }
#else
typedef float S;
DEVICE float wide(S value) { return value; }
DEVICE S narrow(float value) { return value; }
#endif

typedef struct ALIGNED(16) { float v[4]; } F4;
typedef struct ALIGNED(4 * sizeof(S)) { S v[4]; } S4;
typedef struct ALIGNED(2 * sizeof(S)) { S v[2]; } S2;

// ---- sums over the lanes of a warp, in an order that never changes ----

DEVICE float warp_sum(float value) {
    UNROLL
    for (u32 mask = 16; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
    return value;
}

DEVICE float warp_max(float value) {
    UNROLL
    for (u32 mask = 16; mask > 0; mask /= 2) {
        float other = shuffle_xor(value, mask);
        value = other > value ? other : value;
    }
    return value;
}

// ---- dropout: the functions of `rng::dropout` ----

typedef struct {
    u64 site;
    // An element is dropped where its 16 bits lie below it: 0 turns dropout off.
    u32 threshold;
    // What a kept element is multiplied by.
    float scale;
} Dropout;

typedef struct { u32 x, y; } RowKey;

DEVICE RowKey row_key(Dropout drop, u64 coordinate) {
    u64 z = drop.site ^ coordinate * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    z = z ^ (z >> 31);
    RowKey key = {(u32)z, (u32)(z >> 32)};
    return key;
}

// 32 bits for counter `i` of a row: the low half decides element i / 16 * 32 + i % 16, the high half the one 16 on.
DEVICE u32 dropout_hash(RowKey row, u32 i) {
    u32 x = i * 0x9e3779b9u ^ row.x;
    x ^= x >> 16;
    x = x * 0x21f0aaadu + row.y;
    x ^= x >> 15;
    x = x * 0xd35a2d97u;
    return x ^ (x >> 15);
}

// What element `j` of a row is multiplied by.
DEVICE float kept(Dropout drop, RowKey row, u32 j) {
    if (drop.threshold == 0) return 1.0f;
    u32 bits = dropout_hash(row, j / 32 * 16 + j % 16);
    u32 half = j % 32 < 16 ? bits & 0xffff : bits >> 16;
    return half >= drop.threshold ? drop.scale : 0.0f;
}
