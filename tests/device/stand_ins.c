// Stand-ins for libcuda, libnvrtc and libcublas, as far as src/model/device/cuda.rs calls them.
//
// They show whether those calls are right without a GPU: kernels are compiled by the C compiler and run as the emulated
// device runs them (emulate.h). A stream does nothing until somebody waits for it, and then no more than he waits for:
// who reads a result too early, or writes to memory that is still to be copied from, is found out. cuBLAS is written
// down as its manual has it, column by column. Compiled once for each library by scripts/check_cuda_calls.sh.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned int u32;
typedef unsigned long long u64;

struct kernel {
    const char *name;
    u32 threads;
    u32 argument_bytes;
    void (*run)(const void *);
};

struct module {
    void *library;
    const char *(*emulate)(const struct kernel *, u32, u32, u32, const void *, u64);
};

// What cuModuleGetFunction gives.
struct function {
    const struct module *module;
    const struct kernel *kernel;
};

struct product {
    int a_transposed, b_transposed, m, n, k, lda, ldb, ldc, operands, result;
    float alpha, beta;
    const void *a, *b;
    void *c;
};

struct work {
    enum { COPY, SET, LAUNCH, PRODUCT } what;
    void *to;
    const void *from;
    size_t bytes;
    const struct function *function;
    u32 x, y, threads;
    void *arguments;
    struct product product;
};

struct stream {
    struct work *work;
    // Of the work that is kept; before it there was as much as `base`.
    size_t count, done, room, base;
    int failed;
};

struct event {
    struct stream *stream;
    size_t behind;
};

#ifdef LIBRARY_CUDA

enum { INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_FOUND = 500, LAUNCH_FAILED = 719 };

static float element(const void *matrix, int bfloat16, size_t at) {
    if (!bfloat16) return ((const float *)matrix)[at];
    u32 bits = (u32)((const unsigned short *)matrix)[at] << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

// c (m, n) = alpha op(a) (m, k) op(b) (k, n) + beta c, all column by column.
static void multiply(const struct product *p) {
    for (size_t i = 0; i < (size_t)p->m; i++) {
        for (size_t j = 0; j < (size_t)p->n; j++) {
            float sum = 0;
            for (size_t l = 0; l < (size_t)p->k; l++)
                sum += element(p->a, p->operands, p->a_transposed ? l + i * p->lda : i + l * p->lda) *
                       element(p->b, p->operands, p->b_transposed ? j + l * p->ldb : l + j * p->ldb);
            size_t at = i + j * p->ldc;
            sum = p->alpha * sum + (p->beta == 0 ? 0 : p->beta * element(p->c, p->result, at));
            if (p->result) {
                u32 bits;
                memcpy(&bits, &sum, sizeof bits);
                ((unsigned short *)p->c)[at] = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
            } else {
                ((float *)p->c)[at] = sum;
            }
        }
    }
}

static int run_until(struct stream *s, size_t end) {
    for (; s->done < end && !s->failed; s->done++) {
        struct work *w = s->work + s->done;
        const char *failure = 0;
        switch (w->what) {
        case COPY: memcpy(w->to, w->from, w->bytes); break;
        case SET: memset(w->to, 0, w->bytes); break;
        case PRODUCT: multiply(&w->product); break;
        case LAUNCH:
            failure = w->function->module->emulate(w->function->kernel, w->x, w->y, w->threads, w->arguments,
                                                   w->function->kernel->argument_bytes);
            free(w->arguments);
        }
        if (failure) {
            fprintf(stderr, "stand-in: %s\n", failure);
            s->failed = 1;
        }
    }
    if (s->done == s->count) {
        s->base += s->count;
        s->done = s->count = 0;
    }
    return s->failed ? LAUNCH_FAILED : 0;
}

static struct work *later(struct stream *s) {
    if (s->count == s->room) {
        s->room = s->room ? 2 * s->room : 64;
        s->work = realloc(s->work, s->room * sizeof *s->work);
    }
    struct work *w = s->work + s->count++;
    memset(w, 0, sizeof *w);
    return w;
}

void stand_in_multiply(struct stream *s, const struct product *product) {
    struct work *w = later(s);
    w->what = PRODUCT;
    w->product = *product;
}

static __thread void *current;
static __thread struct stream *newest;

int cuInit(u32 flags) { return flags; }
int cuDeviceGetCount(int *count) { return *count = 1, 0; }
int cuDeviceGet(int *device, int ordinal) { return *device = ordinal, ordinal == 0 ? 0 : 101; }
int cuDeviceGetName(char *name, int room, int device) { return snprintf(name, room, "stand-in %d", device), 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device;
    *value = attribute == 75 ? 9 : attribute == 76 ? 0 : 1;
    return 0;
}
int cuDevicePrimaryCtxRetain(void **context, int device) { return (void)device, *context = &current, 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { return (void)device, 0; }
int cuCtxGetCurrent(void **context) { return *context = current, 0; }
int cuCtxSetCurrent(void *context) { return current = context, 0; }
int cuCtxSynchronize(void) { return 0; }
int cuGetErrorName(int error, const char **name) { return (void)error, *name = "STAND_IN", 0; }
int cuGetErrorString(int error, const char **text) {
    static __thread char buffer[32];
    snprintf(buffer, sizeof buffer, "error %d", error);
    return *text = buffer, 0;
}
int cuMemGetInfo_v2(size_t *free_bytes, size_t *total) { return *free_bytes = *total = 1 << 20, 0; }

int cuStreamCreate(struct stream **stream, u32 flags) {
    (void)flags;
    return *stream = newest = calloc(1, sizeof **stream), 0;
}
int cuStreamSynchronize(struct stream *s) { return run_until(s, s->count); }
int cuStreamDestroy_v2(struct stream *s) { return free(s->work), free(s), 0; }

int cuEventCreate(struct event **event, u32 flags) { return (void)flags, *event = calloc(1, sizeof **event), 0; }
int cuEventDestroy_v2(struct event *event) { return free(event), 0; }
int cuEventRecord(struct event *event, struct stream *s) {
    event->stream = s;
    event->behind = s->base + s->count;
    return 0;
}
int cuEventSynchronize(struct event *event) {
    struct stream *s = event->stream;
    return s && event->behind > s->base ? run_until(s, event->behind - s->base) : 0;
}

int cuMemAlloc_v2(u64 *at, size_t bytes) {
    void *memory = aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (!memory) return OUT_OF_MEMORY;
    memset(memory, 0xff, bytes);
    return *at = (u64)memory, 0;
}
// The driver waits for what uses the memory.
int cuMemFree_v2(u64 at) {
    int failed = newest ? run_until(newest, newest->count) : 0;
    return free((void *)at), failed;
}
int cuMemHostAlloc(void **at, size_t bytes, u32 flags) { return (void)flags, *at = malloc(bytes), 0; }
int cuMemFreeHost(void *at) { return free(at), 0; }

static int copy_later(void *to, const void *from, size_t bytes, struct stream *s) {
    struct work *w = later(s);
    *w = (struct work){.what = COPY, .to = to, .from = from, .bytes = bytes};
    return 0;
}
int cuMemcpyHtoDAsync_v2(u64 to, const void *from, size_t bytes, struct stream *s) {
    return copy_later((void *)to, from, bytes, s);
}
int cuMemcpyDtoHAsync_v2(void *to, u64 from, size_t bytes, struct stream *s) {
    return copy_later(to, (const void *)from, bytes, s);
}
int cuMemsetD8Async(u64 at, unsigned char value, size_t bytes, struct stream *s) {
    if (value) return INVALID_VALUE;
    struct work *w = later(s);
    *w = (struct work){.what = SET, .to = (void *)at, .bytes = bytes};
    return 0;
}

// An image is the path of a library, which each module loads a copy of: its statics are its own.
int cuModuleLoadData(struct module **module, const void *image) {
    char copy[] = "/tmp/stand-in-XXXXXX", command[4200];
    int file = mkstemp(copy);
    close(file);
    snprintf(command, sizeof command, "cp '%s' '%s'", (const char *)image, copy);
    if (file < 0 || system(command)) return INVALID_VALUE;
    struct module *m = calloc(1, sizeof *m);
    m->library = dlopen(copy, RTLD_NOW | RTLD_LOCAL);
    unlink(copy);
    if (!m->library) return INVALID_VALUE;
    *(void **)&m->emulate = dlsym(m->library, "emulate");
    return *module = m, 0;
}
int cuModuleGetFunction(struct function **function, struct module *module, const char *name) {
    char symbol[256];
    snprintf(symbol, sizeof symbol, "emulated_%s", name);
    const struct kernel *kernel = dlsym(module->library, symbol);
    if (!kernel) return NOT_FOUND;
    struct function *f = malloc(sizeof *f);
    *f = (struct function){module, kernel};
    return *function = f, 0;
}
int cuModuleUnload(struct module *module) { return dlclose(module->library), free(module), 0; }

int cuLaunchKernel(struct function *function, u32 x, u32 y, u32 z, u32 threads, u32 threads_y, u32 threads_z, u32 shared,
                   struct stream *s, void **parameters, void **extra) {
    if (z != 1 || threads_y != 1 || threads_z != 1 || shared || extra || !x || !y || y > 65535) return INVALID_VALUE;
    // Parameters may change as soon as the call returns.
    void *arguments = aligned_alloc(64, (function->kernel->argument_bytes + 63) / 64 * 64);
    memcpy(arguments, parameters[0], function->kernel->argument_bytes);
    struct work *w = later(s);
    *w = (struct work){.what = LAUNCH, .function = function, .x = x, .y = y, .threads = threads, .arguments = arguments};
    return 0;
}

#elif defined LIBRARY_CUBLAS

void stand_in_multiply(struct stream *s, const struct product *product);

struct handle {
    struct stream *stream;
};

int cublasCreate_v2(struct handle **handle) { return *handle = calloc(1, sizeof **handle), 0; }
int cublasDestroy_v2(struct handle *handle) { return free(handle), 0; }
int cublasSetStream_v2(struct handle *handle, struct stream *s) { return handle->stream = s, 0; }

int cublasGemmEx(struct handle *handle, int a_transposed, int b_transposed, int m, int n, int k, const float *alpha,
                 const void *a, int a_type, int lda, const void *b, int b_type, int ldb, const float *beta, void *c,
                 int c_type, int ldc, int compute, int algorithm) {
    enum { R_32F = 0, R_16BF = 14, COMPUTE_32F = 68, INVALID = 7, NOT_SUPPORTED = 15 };
    if (compute != COMPUTE_32F || algorithm != -1 || a_type != b_type || (a_type && a_type != R_16BF)) return NOT_SUPPORTED;
    // Single precision makes no bfloat16.
    if (c_type != R_32F && !(c_type == R_16BF && a_type == R_16BF)) return NOT_SUPPORTED;
    if (lda < (a_transposed ? k : m) || ldb < (b_transposed ? n : k) || ldc < m) return INVALID;
    struct product product = {a_transposed, b_transposed, m, n, k, lda, ldb, ldc, a_type != R_32F, c_type != R_32F,
                              *alpha, *beta, a, b, c};
    stand_in_multiply(handle->stream, &product);
    return 0;
}

#elif defined LIBRARY_NVRTC

struct program {
    char *text;
    char library[4096];
};

int nvrtcCreateProgram(struct program **program, const char *text, const char *name, int headers, void *a, void *b) {
    (void)name, (void)headers, (void)a, (void)b;
    struct program *p = calloc(1, sizeof *p);
    p->text = strdup(text);
    return *program = p, 0;
}
int nvrtcDestroyProgram(struct program **program) { return free((*program)->text), free(*program), 0; }
int nvrtcGetProgramLogSize(struct program *program, size_t *size) { return (void)program, *size = 1, 0; }
int nvrtcGetProgramLog(struct program *program, char *log) { return (void)program, *log = 0, 0; }

// A library for each text and each set of constants, in STAND_IN_PLACE.
int nvrtcCompileProgram(struct program *program, int count, const char **options) {
    const char *place = getenv("STAND_IN_PLACE"), *beside = getenv("STAND_IN_HEADERS");
    char defines[2048] = "", command[65536], source[4096];
    u64 hash = 14695981039346656037ull;
    for (int i = 0; i < count; i++) {
        if (strncmp(options[i], "-D", 2)) continue;
        strcat(strcat(defines, " "), options[i]);
        for (const char *c = options[i]; *c; c++) hash = (hash ^ (unsigned char)*c) * 1099511628211ull;
    }
    for (const char *c = program->text; *c; c++) hash = (hash ^ (unsigned char)*c) * 1099511628211ull;
    snprintf(program->library, sizeof program->library, "%s/kernels-%016llx.so", place, hash);
    if (!access(program->library, R_OK)) return 0;
    snprintf(source, sizeof source, "%s/kernels-XXXXXX.c", place);
    int file = mkstemps(source, 2);
    if (file < 0) return 6;
    FILE *out = fdopen(file, "w");
    fputs(program->text, out);
    fclose(out);
    snprintf(command, sizeof command,
             "cc -std=gnu11 -O1 -fPIC -shared -fno-strict-aliasing -DEMULATED -fsanitize=alignment,bounds,null "
             "-I '%s' %s -c '%s' -o '%s.o' && cc -shared '%s.o' -o '%s.so' -lm && mv '%s.so' '%s'; code=$?; "
             "rm -f '%s' '%s.o'; exit $code",
             beside, defines, source, source, source, source, source, program->library, source, source);
    return system(command) ? 6 : 0;
}
int nvrtcGetCUBINSize(struct program *program, size_t *size) { return *size = strlen(program->library) + 1, 0; }
int nvrtcGetCUBIN(struct program *program, char *code) { return strcpy(code, program->library), 0; }

#endif
