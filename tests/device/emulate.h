// A GPU in miniature: what `common.h` needs of a device, thread by thread on the CPU.
//
// The threads of a block are fibers. One runs until it meets others, at a barrier or in what a warp does together;
// then the next one runs, and when all have come their meeting is held. A kernel without meetings runs on one stack
// without a switch. Every other block runs its threads from the last to the first, so that what is read without a
// barrier is not there yet; shared memory is full of NaN when a block starts.
//
// What a GPU would answer with silence or a hang is an error here: lanes of a warp or threads of a block that do not
// meet, an index outside an array, an address that its type does not allow.

// The checked longjmp refuses to change stacks.
#undef _FORTIFY_SOURCE
#define _GNU_SOURCE
#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define DEVICE static inline __attribute__((unused))
#define HIDDEN_SYMBOL __attribute__((visibility("hidden")))
#define ALIGNED(bytes) __attribute__((aligned(bytes)))
#define UNROLL
// In a section of its own, whose bounds the linker gives.
#define SHARED static __attribute__((section("shared_memory"), aligned(16)))

struct emulated_kernel {
    const char *name;
    u32 threads;
    u32 argument_bytes;
    void (*run)(const void *arguments);
};

#define KERNEL(name, threads, Arguments) \
    static void name(const Arguments a); \
    static void name##_run(const void *arguments) { name(*(const Arguments *)arguments); } \
    const struct emulated_kernel emulated_##name = {#name, threads, sizeof(Arguments), name##_run}; \
    static void name(const Arguments a)

// ---- threads and their meetings ----

enum { LANES = 32, MOST_THREADS = 1024, STACK_BYTES = 64 << 10 };
#define NONE 0xffffffffu

// Where threads meet. `hold` does what the lanes of a warp do together with what each has brought; a barrier, which
// is the whole block's, has none.
struct meeting {
    const char *name;
    void (*hold)(void *const brought[LANES], u32 detail);
};

enum state { FRESH, READY, WAITING, DONE };

struct emulated_thread {
    enum state state;
    const struct meeting *at;
    // All lanes must agree on it.
    u32 detail;
    void *brought;
    jmp_buf place;
};

// A stack that threads can start on; the loop of `run_threads` stands at its bottom.
struct stack {
    ucontext_t start;
    int started;
    jmp_buf idle;
};

static struct {
    const struct emulated_kernel *kernel;
    const void *arguments;
    u32 grid_x, x, y, launches;
    // The thread that runs.
    u32 current;
    // Where the pass over the block's threads is.
    u32 at_warp, at_lane;
    int reversed;
    jmp_buf host;
    char failure[256];
    char *memory;
    u32 idle_count;
    struct stack *idle[MOST_THREADS];
    struct stack stacks[MOST_THREADS];
    struct emulated_thread threads[MOST_THREADS];
} emulated;

SHARED u32 emulated_always_some __attribute__((used));
extern HIDDEN_SYMBOL char __start_shared_memory[], __stop_shared_memory[];

static void emulated_switch_to(u32 thread) __attribute__((noreturn));

// Ends the launch with what printf makes of the rest.
#define GIVE_UP(...) \
    do { \
        int at = snprintf(emulated.failure, sizeof emulated.failure, "kernel %s, block (%u, %u): ", \
                          emulated.kernel->name, emulated.x, emulated.y); \
        snprintf(emulated.failure + at, sizeof emulated.failure - at, __VA_ARGS__); \
        emulated_switch_to(NONE); \
    } while (0)

static const char *emulated_doing(const struct emulated_thread *thread) {
    return thread->state == DONE ? "is done" : thread->at->name;
}

// The thread that runs next, after the meetings that everybody has come to; NONE when the block is done.
static u32 emulated_next(void) {
    u32 warps = emulated.kernel->threads / LANES;
    for (;;) {
        u32 warp = emulated.reversed ? warps - 1 - emulated.at_warp : emulated.at_warp;
        struct emulated_thread *lanes = emulated.threads + warp * LANES;
        while (emulated.at_lane < LANES) {
            u32 lane = emulated.reversed ? LANES - 1 - emulated.at_lane : emulated.at_lane;
            emulated.at_lane++;
            if (lanes[lane].state == FRESH || lanes[lane].state == READY) return warp * LANES + lane;
        }
        for (u32 lane = 1; lane < LANES; lane++) {
            int apart = lanes[lane].state != lanes[0].state;
            if (!apart && lanes[0].state == WAITING)
                apart = lanes[lane].at != lanes[0].at || lanes[lane].detail != lanes[0].detail;
            if (apart)
                GIVE_UP("warp %u diverges: lane 0 %s, lane %u %s", warp, emulated_doing(lanes), lane,
                        emulated_doing(lanes + lane));
        }
        emulated.at_lane = 0;
        if (lanes[0].state == WAITING && lanes[0].at->hold) {
            void *brought[LANES];
            for (u32 lane = 0; lane < LANES; lane++) brought[lane] = lanes[lane].brought;
            lanes[0].at->hold(brought, lanes[0].detail);
            for (u32 lane = 0; lane < LANES; lane++) lanes[lane].state = READY;
            continue;
        }
        if (++emulated.at_warp < warps) continue;
        emulated.at_warp = 0;
        // Every warp is at a barrier or done.
        for (u32 other = 1; other < warps; other++)
            if (emulated.threads[other * LANES].state != emulated.threads[0].state)
                GIVE_UP("a barrier is not reached by all: warp 0 %s, warp %u %s", emulated_doing(emulated.threads), other,
                        emulated_doing(emulated.threads + other * LANES));
        if (emulated.threads[0].state == DONE) return NONE;
        for (u32 thread = 0; thread < warps * LANES; thread++) emulated.threads[thread].state = READY;
    }
}

// Runs threads that have not started, one behind the other, as long as none must wait.
static void emulated_run_threads(void) {
    struct stack *own = emulated.idle[emulated.idle_count];
    for (;;) {
        emulated.kernel->run(emulated.arguments);
        emulated.threads[emulated.current].state = DONE;
        u32 next = emulated_next();
        if (next != NONE && emulated.threads[next].state == FRESH) {
            emulated.current = next;
            continue;
        }
        if (_setjmp(own->idle) == 0) {
            emulated.idle[emulated.idle_count++] = own;
            emulated_switch_to(next);
        }
    }
}

static void emulated_switch_to(u32 thread) {
    emulated.current = thread;
    if (thread == NONE) _longjmp(emulated.host, 1);
    if (emulated.threads[thread].state == READY) _longjmp(emulated.threads[thread].place, 1);
    struct stack *stack = emulated.idle[--emulated.idle_count];
    if (stack->started) _longjmp(stack->idle, 1);
    stack->started = 1;
    getcontext(&stack->start);
    stack->start.uc_stack.ss_sp = emulated.memory + (stack - emulated.stacks) * STACK_BYTES;
    stack->start.uc_stack.ss_size = STACK_BYTES;
    makecontext(&stack->start, emulated_run_threads, 0);
    setcontext(&stack->start);
    __builtin_unreachable();
}

__attribute__((noinline)) static void emulated_meet(const struct meeting *at, u32 detail, void *brought) {
    struct emulated_thread *own = emulated.threads + emulated.current;
    own->state = WAITING;
    own->at = at;
    own->detail = detail;
    own->brought = brought;
    if (_setjmp(own->place) == 0) emulated_switch_to(emulated_next());
}

static void emulated_discard_stacks(void) {
    emulated.idle_count = MOST_THREADS;
    for (u32 i = 0; i < MOST_THREADS; i++) {
        emulated.idle[i] = emulated.stacks + (MOST_THREADS - 1 - i);
        emulated.stacks[i].started = 0;
    }
}

// Runs a whole grid. What went wrong, or null.
const char *emulate(const struct emulated_kernel *kernel, u32 grid_x, u32 grid_y, u32 threads, const void *arguments,
                    u64 argument_bytes) {
    emulated.kernel = kernel;
    emulated.arguments = arguments;
    emulated.grid_x = grid_x;
    emulated.failure[0] = 0;
    if (threads != kernel->threads || threads % LANES || threads == 0 || threads > MOST_THREADS) {
        snprintf(emulated.failure, sizeof emulated.failure, "kernel %s is of %u threads a block, not %u", kernel->name,
                 kernel->threads, threads);
        return emulated.failure;
    }
    if (argument_bytes != kernel->argument_bytes) {
        snprintf(emulated.failure, sizeof emulated.failure, "kernel %s takes %u bytes of arguments, not %llu",
                 kernel->name, kernel->argument_bytes, argument_bytes);
        return emulated.failure;
    }
    if (!emulated.memory) {
        void *memory = mmap(0, (size_t)MOST_THREADS * STACK_BYTES, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) return "no memory for the stacks of threads";
        emulated.memory = memory;
        emulated_discard_stacks();
    }
    emulated.launches++;
    for (emulated.y = 0; emulated.y < grid_y; emulated.y++) {
        for (emulated.x = 0; emulated.x < grid_x; emulated.x++) {
            memset(__start_shared_memory, 0xff, __stop_shared_memory - __start_shared_memory);
            for (u32 thread = 0; thread < threads; thread++) emulated.threads[thread].state = FRESH;
            emulated.at_warp = emulated.at_lane = 0;
            emulated.reversed = (emulated.launches + emulated.y + emulated.x) % 2 == 0;
            if (_setjmp(emulated.host) == 0) emulated_switch_to(emulated_next());
            if (emulated.failure[0]) {
                emulated_discard_stacks();
                return emulated.failure;
            }
        }
    }
    return 0;
}

__attribute__((destructor)) static void emulated_unload(void) {
    if (emulated.memory) munmap(emulated.memory, (size_t)MOST_THREADS * STACK_BYTES);
}

// ---- what the compiler's checks call: their runtime library would end the process ----

struct emulated_site {
    const char *file;
    u32 line, column;
};

HIDDEN_SYMBOL void __ubsan_handle_out_of_bounds(void *of, void *index) {
    struct emulated_site *site = of;
    GIVE_UP("%s:%u: index %lld outside its array", site->file, site->line, (long long)index);
}

HIDDEN_SYMBOL void __ubsan_handle_type_mismatch_v1(void *of, void *pointer) {
    struct emulated_site *site = of;
    GIVE_UP("%s:%u: nothing of this type can lie at %p", site->file, site->line, pointer);
}

// ---- what `common.h` asks for ----

DEVICE u32 thread(void) { return emulated.current; }
DEVICE u32 block_x(void) { return emulated.x; }
DEVICE u32 block_y(void) { return emulated.y; }
DEVICE u32 blocks_x(void) { return emulated.grid_x; }

static const struct meeting emulated_barrier = {"waits in barrier", 0};

DEVICE void barrier(void) { emulated_meet(&emulated_barrier, 0, 0); }

struct emulated_exchange {
    u32 own, other;
};

static void emulated_exchange_all(void *const brought[LANES], u32 mask) {
    for (u32 lane = 0; lane < LANES; lane++)
        ((struct emulated_exchange *)brought[lane])->other =
            ((const struct emulated_exchange *)brought[(lane ^ mask) % LANES])->own;
}

static const struct meeting emulated_shuffle = {"waits in shuffle_xor", emulated_exchange_all};

DEVICE u32 shuffle_xor_u32(u32 value, u32 mask) {
    struct emulated_exchange exchange = {value, 0};
    emulated_meet(&emulated_shuffle, mask, &exchange);
    return exchange.other;
}

DEVICE float of_bits(u32 bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

DEVICE u32 bits_of(float value) {
    u32 bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

DEVICE float shuffle_xor(float value, u32 mask) { return of_bits(shuffle_xor_u32(bits_of(value), mask)); }

DEVICE u32 emulated_round(float value) {
    u32 bits = bits_of(value);
    if (value != value) return 0x7fff;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

DEVICE u32 round_pair(float low, float high) { return emulated_round(high) << 16 | emulated_round(low); }

// Half `i` of some registers, as a number.
DEVICE float emulated_half(const u32 *registers, u32 i) {
    return of_bits(i % 2 ? registers[i / 2] & 0xffff0000u : registers[i / 2] << 16);
}

struct emulated_fragments {
    float *c;
    const u32 *a, *b;
};

// The fragments of the PTX manual, "matrix fragments for mma.m16n8k16 with floating point type".
static void emulated_multiply_all(void *const brought[LANES], u32 detail) {
    (void)detail;
    float a[16][16], b[16][8];
    for (u32 lane = 0; lane < LANES; lane++) {
        const struct emulated_fragments *of = brought[lane];
        u32 group = lane / 4, pair = lane % 4 * 2;
        for (u32 i = 0; i < 8; i++)
            a[group + (i / 2 % 2) * 8][pair + i % 2 + i / 4 * 8] = emulated_half(of->a, i);
        for (u32 i = 0; i < 4; i++) b[pair + i % 2 + i / 2 * 8][group] = emulated_half(of->b, i);
    }
    for (u32 lane = 0; lane < LANES; lane++) {
        const struct emulated_fragments *of = brought[lane];
        for (u32 i = 0; i < 4; i++) {
            u32 row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
            double sum = of->c[i];
            for (u32 k = 0; k < 16; k++) sum += (double)a[row][k] * b[k][column];
            of->c[i] = (float)sum;
        }
    }
}

static const struct meeting emulated_multiply = {"waits in multiply_add", emulated_multiply_all};

DEVICE void multiply_add(float c[4], const u32 a[4], const u32 b[2]) {
    struct emulated_fragments fragments = {c, a, b};
    emulated_meet(&emulated_multiply, 0, &fragments);
}

struct emulated_rows {
    u32 *registers;
    const u16 *row;
};

// `ldmatrix.x4`: lane 8 i + r has the address of row r of matrix i.
static void emulated_load_all(void *const brought[LANES], u32 transposed) {
    for (u32 lane = 0; lane < LANES; lane++) {
        const struct emulated_rows *of = brought[lane];
        const char *row = (const char *)of->row;
        if (row < __start_shared_memory || row + 16 > __stop_shared_memory || (u64)row % 16)
            GIVE_UP("load_matrices: lane %u's row is not 16 bytes of shared memory on their boundary", lane);
        for (u32 i = 0; i < 4; i++) {
            u32 halves[2];
            for (u32 k = 0; k < 2; k++) {
                u32 r = transposed ? lane % 4 * 2 + k : lane / 4, c = transposed ? lane / 4 : lane % 4 * 2 + k;
                halves[k] = ((const struct emulated_rows *)brought[i * 8 + r])->row[c];
            }
            of->registers[i] = halves[1] << 16 | halves[0];
        }
    }
}

static const struct meeting emulated_load = {"waits in load_matrices", emulated_load_all};

DEVICE void load_matrices(u32 registers[4], const u16 *row) {
    struct emulated_rows rows = {registers, row};
    emulated_meet(&emulated_load, 0, &rows);
}

DEVICE void load_matrices_transposed(u32 registers[4], const u16 *row) {
    struct emulated_rows rows = {registers, row};
    emulated_meet(&emulated_load, 1, &rows);
}
