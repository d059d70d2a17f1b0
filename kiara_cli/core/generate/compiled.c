/* The decode step of step.py in C: see compiled.py.
 *
 * One call computes the next scores of several sequences. Threads divide each product by its rows and wait for each
 * other at five barriers a layer; every weight is read once, whatever the number of sequences. Each sum is made by
 * one thread in one order, so a sequence's scores have the same bits alone and in a batch, and with any number of
 * threads.
 *
 * Numbers are float, except in weights and the KV cache. Where the processor multiplies pairs of bf16, what a matrix
 * of bf16, 8 or 4 bits is multiplied with is rounded to bf16 first, and the codes are exact in it; elsewhere all is
 * float.
 *
 * D width, H heads, K key/value heads, C head width, S positions, N rows of a matrix, V vocabulary.
 */
#include <math.h>
#include <omp.h>
#include <stdatomic.h>

#include "numbers.h"
#if defined(__AVX512BF16__) && defined(__AVX512BW__)
#include <immintrin.h>
#define PAIRS 1
#else
#define PAIRS 0
#endif

_Static_assert(sizeof(void *) == 8, "compiled.py writes pointers as 64 bits");

enum { F32, BF16, INT8, INT4 }; /* kinds of numbers in memory */
enum { SWIGLU, GELU, RELU2 };
enum { BLOCK = 32, ROWS = 4, BATCH = 4, AHEAD = 2048, LARGE = 512, SPINS = 4000 };

typedef float lanes __attribute__((vector_size(64)));
typedef float four __attribute__((vector_size(16)));
typedef int32_t whole __attribute__((vector_size(64)));
typedef uint32_t bits __attribute__((vector_size(64)));
typedef uint16_t halves __attribute__((vector_size(32)));
typedef int8_t bytes __attribute__((vector_size(16)));
typedef uint8_t nibbles __attribute__((vector_size(16)));

/* The order of all fields is that of compiled.py. */
typedef struct {
    const void *numbers;  /* (N, columns), or two 4-bit codes a byte: the even column low, 8 standing for 0 */
    const float *scales;  /* (N, groups), or null */
    const float *bias;    /* (N), or null */
    int64_t kind, rows, columns, groups;
} Matrix;
typedef struct {
    const float *weight, *bias;
} Norm;
typedef struct {
    void *keys, *values;              /* of the KV cache: (slots, K, capacity, C) */
    float *key_scales, *value_scales; /* (slots, K, capacity), or null */
    Norm norm_1;
    Matrix qkv;
    Norm q_norm, k_norm;
    Matrix out;
    Norm norm_2;
    Matrix up, down;
} Layer;
typedef struct {
    int64_t layers, heads, kv_heads, channels, context, is_layer_norm, activation, threads;
    int64_t cache_kind, capacity;       /* positions allocated in the KV cache, at most the context */
    const float *added, *rotary;        /* positions: (context, D); cosines and sines (2, context, C / 2); or null */
    Matrix tokens;
    Norm norm;
    Matrix head;
    Layer layer[];
} Plan;

typedef struct { /* vectors that a matrix is multiplied with, as float and as bf16, padded with zeros */
    float *wide;
    bf16 *narrow;
    int64_t stride;
} Vectors;
typedef struct { /* workspace that all threads of one call use */
    float *x, *qkv; /* (batch, D), (batch, (H + 2K) C) */
    Vectors heads, hidden;
} Shared;
typedef struct { /* workspace of one thread */
    Vectors normed, queries;
    float *scores; /* (H / K, capacity) */
} Own;
typedef struct {
    atomic_int come, round, asleep;
} Barrier;
typedef struct {
    lanes a, b;
} Pair;

/* ---- numbers ---- */

INSIDE int64_t size_of(int kind, int64_t count) { /* bytes of `count` numbers */
    return kind == F32 ? 4 * count : kind == BF16 ? 2 * count : kind == INT8 ? count : count / 2;
}

INSIDE lanes int8_to_float(const char *at) { /* 16 whole numbers of 8 bits */
    bytes some;
    memcpy(&some, at, 16);
#if PAIRS
    return (lanes)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32((__m128i)some));
#else
    return __builtin_convertvector(__builtin_convertvector(some, whole), lanes);
#endif
}

INSIDE Pair wide(int kind, const void *at) { /* 32 numbers */
    Pair out;
    if (kind == F32) {
        memcpy(&out, at, sizeof out);
    } else if (kind == BF16) {
        halves low, high;
        memcpy(&low, at, 32);
        memcpy(&high, (const char *)at + 32, 32);
        out.a = (lanes)(__builtin_convertvector(low, bits) << 16);
        out.b = (lanes)(__builtin_convertvector(high, bits) << 16);
    } else {
        char each[BLOCK];
        if (kind == INT8) {
            memcpy(each, at, BLOCK);
        } else {
            for (int i = 0; i < BLOCK / 2; i++) {
                uint8_t both = ((const uint8_t *)at)[i];
                each[2 * i] = (both & 15) - 8;
                each[2 * i + 1] = (both >> 4) - 8;
            }
        }
        out.a = int8_to_float(each);
        out.b = int8_to_float(each + BLOCK / 2);
    }
    return out;
}

#if PAIRS
typedef __m512bh Factors;
static const int16_t CODES[32] = { /* bf16 of -8 to 7, twice */
    0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040, 0xc000, 0xbf80,
    0, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0,
    0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040, 0xc000, 0xbf80,
    0, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0};

INSIDE __m512bh paired(int kind, const void *at) { /* 32 numbers */
    if (kind == BF16) return (__m512bh)_mm512_loadu_si512(at);
    if (kind == INT8)
        return _mm512_cvtne2ps_pbh((__m512)int8_to_float((const char *)at + 16), (__m512)int8_to_float(at));
    __m512i both = _mm512_cvtepu8_epi32(_mm_loadu_si128(at)); /* the fifth bit of a place in the table may be any */
    __m512i places = _mm512_or_si512(both, _mm512_slli_epi32(both, 12));
    return (__m512bh)_mm512_permutexvar_epi16(places, _mm512_loadu_si512(CODES));
}
#endif

/* ---- products ---- */

INSIDE void add_block(
    int kind, int R, int T, lanes (*part)[BATCH], const char *const *at, const char *const *x, int64_t k) {
#if PAIRS
    if (kind != F32) {
        __m512bh factors[ROWS];
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) factors[r] = paired(kind, at[r]);
#pragma GCC unroll 4
        for (int t = 0; t < T; t++) {
            __m512bh some = (__m512bh)_mm512_loadu_si512(x[t] + 2 * k);
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) part[r][t] = (lanes)_mm512_dpbf16_ps((__m512)part[r][t], factors[r], some);
        }
        return;
    }
#endif
    Pair factors[ROWS];
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) factors[r] = wide(kind, at[r]);
#pragma GCC unroll 4
    for (int t = 0; t < T; t++) {
        Pair some = wide(F32, x[t] + 4 * k);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            part[r][t] += factors[r].a * some.a;
            part[r][t] += factors[r].b * some.b;
        }
    }
}

INSIDE float sum(lanes v) {
    float four[4];
    for (int i = 0; i < 4; i++) four[i] = (v[i] + v[8 + i]) + (v[4 + i] + v[12 + i]);
    return (four[0] + four[2]) + (four[1] + four[3]);
}

#define folded(a, b, one, other) _mm512_add_ps(_mm512_shuffle_f32x4(a, b, one), _mm512_shuffle_f32x4(a, b, other))

/* Sums of four vectors for each of T sequences, in the order of `sum`. */
INSIDE void sum_all(int T, lanes (*v)[BATCH], four *out) {
#if PAIRS
    __m512 quads[BATCH];
#pragma GCC unroll 4
    for (int t = 0; t < T; t++) {
        __m512 a = (__m512)v[0][t], b = (__m512)v[1][t], c = (__m512)v[2][t], d = (__m512)v[3][t];
        __m512d ab = (__m512d)_mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
        __m512d cd = (__m512d)_mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
        quads[t] = _mm512_add_ps((__m512)_mm512_unpacklo_pd(ab, cd), (__m512)_mm512_unpackhi_pd(ab, cd));
    }
    if (T == BATCH) {
        __m512 p = folded(quads[0], quads[1], 0x44, 0xee), q = folded(quads[2], quads[3], 0x44, 0xee);
        _mm512_storeu_ps((float *)out, folded(p, q, 0x88, 0xdd));
        return;
    }
#pragma GCC unroll 4
    for (int t = 0; t < T; t++) {
        __m256 half = _mm256_add_ps(_mm512_castps512_ps256(quads[t]), _mm512_extractf32x8_ps(quads[t], 1));
        out[t] = (four)_mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    }
#else
    for (int t = 0; t < T; t++)
        for (int r = 0; r < ROWS; r++) out[t][r] = sum(v[r][t]);
#endif
}

/* Rows n to n + R times the vectors of sequences `first` to first + T; `lines`: to prefetch at each block. */
INSIDE void tile(
    int kind, int R, int T, int lines, const Matrix *m, int64_t n, const Vectors *x, int64_t first, float *y,
    int64_t stride) {
    const char *at[ROWS], *of[BATCH];
    int64_t row = size_of(kind, m->columns), groups = m->scales ? m->groups : 1, size = m->columns / groups;
    lanes total[ROWS][BATCH] = {0};
    for (int r = 0; r < R; r++) at[r] = (const char *)m->numbers + (n + r) * row;
    for (int t = 0; t < T; t++) {
        int64_t start = (first + t) * x->stride;
        of[t] = PAIRS && kind != F32 ? (const char *)(x->narrow + start) : (const char *)(x->wide + start);
    }
    const char *next = at[0] + (ROWS + first / BATCH % ROWS) * row; /* each pass over these rows prefetches others */
    if (m->scales && size == BLOCK) { /* a scale for every block */
        const float *scales = m->scales + n * groups;
        for (int64_t g = 0; g < groups; g++) {
            lanes part[ROWS][BATCH] = {0};
            for (int i = 0; i < lines; i++) __builtin_prefetch(next + 64 * i);
            next += 64 * lines;
            add_block(kind, R, T, part, at, of, g * BLOCK);
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) {
                at[r] += size_of(kind, BLOCK);
                float scale = scales[r * groups + g];
#pragma GCC unroll 4
                for (int t = 0; t < T; t++) total[r][t] += part[r][t] * scale;
            }
        }
        groups = 0;
    }
    for (int64_t g = 0, k = 0; g < groups; g++) {
        lanes part[ROWS][BATCH] = {0};
        int64_t end = (g + 1) * size;
        /* Large matrices of float are read from memory, row by row (measured: 1.1 times as fast); smaller ones may be
           in the processor's cache, and are read four rows at a time (1.2 times as fast). */
        if (kind == F32 && T == 1 && R == ROWS && lines && size > LARGE && m->rows > LARGE)
            for (int r = 0; r < R; r++)
                for (k = 0; k + BLOCK <= end; k += BLOCK) {
                    __builtin_prefetch(at[r] + AHEAD);
                    __builtin_prefetch(at[r] + AHEAD + 64);
                    add_block(kind, 1, 1, part + r, at + r, of, k);
                    at[r] += size_of(kind, BLOCK);
                }
        for (; k + BLOCK <= end; k += BLOCK) {
            for (int i = 0; i < lines; i++) __builtin_prefetch(next + 64 * i);
            next += 64 * lines;
            add_block(kind, R, T, part, at, of, k);
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) at[r] += size_of(kind, BLOCK);
        }
        if (k < end) { /* of a width that is no multiple of 32: then there is one group */
            char rest[ROWS][4 * BLOCK];
            const char *copies[ROWS];
            for (int r = 0; r < R; r++) {
                memset(rest[r], kind == INT4 ? 0x88 : 0, sizeof rest[r]);
                memcpy(rest[r], at[r], size_of(kind, end - k));
                copies[r] = rest[r];
            }
            add_block(kind, R, T, part, copies, of, k);
            k = end;
        }
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            float scale = m->scales ? m->scales[(n + r) * groups + g] : 1.0f;
#pragma GCC unroll 4
            for (int t = 0; t < T; t++) total[r][t] += part[r][t] * scale;
        }
    }
    if (R == 1) {
        y[first * stride + n] = sum(total[0][0]) + (m->bias ? m->bias[n] : 0.0f);
        return;
    }
    four sums[BATCH], bias = {0};
    sum_all(T, total, sums);
    if (m->bias) memcpy(&bias, m->bias + n, sizeof bias);
#pragma GCC unroll 4
    for (int t = 0; t < T; t++) {
        sums[t] += bias;
        memcpy(y + (first + t) * stride + n, &sums[t], sizeof bias);
    }
}

/* Rows `from` to `to` times the vectors of `batch` sequences. */
INSIDE void tiles(
    int kind, const Matrix *m, const Vectors *x, int64_t batch, float *y, int64_t stride, int64_t from, int64_t to) {
    const int all = (int)size_of(kind, ROWS * BLOCK) / 64, some = all > ROWS ? all / ROWS : 1;
    int64_t n = from;
    for (; n + ROWS <= to; n += ROWS) {
        int64_t t = 0;
        if (batch > BATCH) {
            for (; t + BATCH <= batch; t += BATCH) tile(kind, ROWS, BATCH, some, m, n, x, t, y, stride);
            for (; t < batch; t++) tile(kind, ROWS, 1, 0, m, n, x, t, y, stride);
        } else if (batch == 4) {
            tile(kind, ROWS, 4, all, m, n, x, 0, y, stride);
        } else if (batch == 3) {
            tile(kind, ROWS, 3, all, m, n, x, 0, y, stride);
        } else if (batch == 2) {
            tile(kind, ROWS, 2, all, m, n, x, 0, y, stride);
        } else {
            tile(kind, ROWS, 1, all, m, n, x, 0, y, stride);
        }
    }
    for (; n < to; n++)
        for (int64_t t = 0; t < batch; t++) tile(kind, 1, 1, 0, m, n, x, t, y, stride);
}

static __attribute__((noinline)) void tiles_of_bf16(
    const Matrix *m, const Vectors *x, int64_t batch, float *y, int64_t stride, int64_t from, int64_t to) {
    tiles(BF16, m, x, batch, y, stride, from, to);
}

#if PAIRS
/* The same for more sequences than one tile takes: codes are unpacked once, not for every four of them. */
INSIDE int64_t unpacked_tiles(
    int kind, const Matrix *m, const Vectors *x, int64_t batch, float *y, int64_t stride, int64_t from, int64_t to) {
    int64_t n = from;
    bf16 unpacked[ROWS * m->columns];
    for (; n + ROWS <= to; n += ROWS) {
        const char *codes = (const char *)m->numbers + n * size_of(kind, m->columns);
        for (int64_t i = 0; i < ROWS * m->columns; i += BLOCK) {
            __builtin_prefetch(codes + size_of(kind, i + ROWS * m->columns));
            _mm512_storeu_si512(unpacked + i, (__m512i)paired(kind, codes + size_of(kind, i)));
        }
        const float *scales = m->scales ? m->scales + n * m->groups : 0, *bias = m->bias ? m->bias + n : 0;
        Matrix some = {unpacked, scales, bias, BF16, ROWS, m->columns, m->groups};
        tiles_of_bf16(&some, x, batch, y + n, stride, 0, ROWS);
    }
    return n;
}
#endif

INSIDE void tiles_of_codes(
    int kind, const Matrix *m, const Vectors *x, int64_t batch, float *y, int64_t stride, int64_t from, int64_t to) {
#if PAIRS
    if (batch > BATCH && m->columns % BLOCK == 0) from = unpacked_tiles(kind, m, x, batch, y, stride, from, to);
#endif
    tiles(kind, m, x, batch, y, stride, from, to);
}

/* Rows `from` to `to` of a matrix times every sequence's vector: y (batch, stride). */
static void product(
    const Matrix *m, const Vectors *x, int64_t batch, float *y, int64_t stride, int64_t from, int64_t to) {
    switch (m->kind) {
        case F32: tiles(F32, m, x, batch, y, stride, from, to); break;
        case BF16: tiles_of_bf16(m, x, batch, y, stride, from, to); break;
        case INT8: tiles_of_codes(INT8, m, x, batch, y, stride, from, to); break;
        default: tiles_of_codes(INT4, m, x, batch, y, stride, from, to);
    }
}

/* ---- between the products ---- */

static void store_both(const Vectors *to, int64_t index, int64_t from, const float *x, int64_t count) {
    float *wide_form = to->wide + index * to->stride + from;
    bf16 *narrow_form = to->narrow + index * to->stride + from;
    for (int64_t i = 0; i < count; i++) {
        wide_form[i] = x[i];
        narrow_form[i] = to_bf16(x[i]);
    }
}

static void normalize(const Plan *plan, const Norm *norm, const float *x, float *y, int64_t width, float eps) {
    float mean = 0, square = 0;
    if (plan->is_layer_norm) {
#pragma omp simd reduction(+ : mean)
        for (int64_t i = 0; i < width; i++) mean += x[i];
        mean /= width;
    }
#pragma omp simd reduction(+ : square)
    for (int64_t i = 0; i < width; i++) square += (x[i] - mean) * (x[i] - mean);
    float r = 1.0f / sqrtf(square / width + eps);
    for (int64_t i = 0; i < width; i++) y[i] = (x[i] - mean) * r * norm->weight[i];
    if (norm->bias)
        for (int64_t i = 0; i < width; i++) y[i] += norm->bias[i];
}

static void normalize_all(
    const Plan *plan, const Norm *norm, const float *x, int64_t batch, const Vectors *to, float eps) {
    int64_t D = plan->tokens.columns;
    for (int64_t t = 0; t < batch; t++) {
        float *y = to->wide + t * to->stride;
        normalize(plan, norm, x + t * D, y, D, eps);
        store_both(to, t, 0, y, D);
    }
}

/* Look up the vector of a token, and add that of its position. */
static void embed(const Plan *plan, int64_t token, int64_t position, float *x) {
    const Matrix *m = &plan->tokens;
    int64_t D = m->columns, size = D / m->groups;
    const char *row = (const char *)m->numbers + token * size_of(m->kind, D);
    for (int64_t k = 0; k < D; k += BLOCK) {
        int64_t count = D - k < BLOCK ? D - k : BLOCK;
        char some[4 * BLOCK] = {0};
        float each[BLOCK];
        memcpy(some, row + size_of(m->kind, k), size_of(m->kind, count));
        Pair found = wide(m->kind, some);
        memcpy(each, &found, sizeof each);
        for (int64_t i = 0; i < count; i++) {
            float scale = m->scales ? m->scales[token * m->groups + (k + i) / size] : 1.0f;
            x[k + i] = each[i] * scale + (plan->added ? plan->added[position * D + k + i] : 0.0f);
        }
    }
}

/* Normalise a query or key and rotate it by its position. */
static void normalize_and_rotate(
    const Plan *plan, const Norm *norm, const float *from, float *to, int64_t position, float eps) {
    int64_t C = plan->channels;
    if (norm->weight) {
        normalize(plan, norm, from, to, C, eps);
    } else {
        memcpy(to, from, 4 * C);
    }
    if (!plan->rotary) return;
    const float *cosine = plan->rotary + position * (C / 2), *sine = cosine + plan->context * (C / 2);
    for (int64_t i = 0; i < C / 2; i++) {
        float a = to[i], b = to[i + C / 2];
        to[i] = a * cosine[i] - b * sine[i];
        to[i + C / 2] = b * cosine[i] + a * sine[i];
    }
}

/* Store a vector at a position of the cache. */
static void store(int64_t kind, const float *x, void *cache, float *scales, int64_t position, int64_t C) {
    char *to = (char *)cache + position * size_of(kind, C);
    if (kind == F32) {
        memcpy(to, x, 4 * C);
    } else if (kind == BF16) {
        for (int64_t i = 0; i < C; i++) ((bf16 *)to)[i] = to_bf16(x[i]);
    } else {
        float most = 1e-30f;
        for (int64_t i = 0; i < C; i++) most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
        scales[position] = most / 127;
        for (int64_t i = 0; i < C; i++) to[i] = (int8_t)rintf(x[i] / scales[position]);
    }
}

static void softmax(float *x, int64_t count) {
    float most = x[0], total = 0;
#pragma omp simd reduction(max : most)
    for (int64_t i = 0; i < count; i++) most = x[i] > most ? x[i] : most;
#pragma omp simd reduction(+ : total)
    for (int64_t i = 0; i < count; i++) total += x[i] = fast_exp(x[i] - most);
    for (int64_t i = 0; i < count; i++) x[i] /= total;
}

/* The sum of S values (S, C), each times its weight. */
INSIDE void weighted_sum(int kind, const float *weights, const char *values, int64_t S, int64_t C, float *out) {
    int64_t c = 0, row = size_of(kind, C);
    for (; c + BLOCK <= C; c += BLOCK) {
        Pair total[4] = {0};
        const char *at = values + size_of(kind, c);
        int64_t s = 0;
        for (; s + 4 <= S; s += 4)
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                Pair some = wide(kind, at + (s + i) * row);
                total[i].a += weights[s + i] * some.a;
                total[i].b += weights[s + i] * some.b;
            }
        for (; s < S; s++) {
            Pair some = wide(kind, at + s * row);
            total[0].a += weights[s] * some.a;
            total[0].b += weights[s] * some.b;
        }
        Pair all;
        all.a = (total[0].a + total[1].a) + (total[2].a + total[3].a);
        all.b = (total[0].b + total[1].b) + (total[2].b + total[3].b);
        memcpy(out + c, &all, sizeof all);
    }
    for (; c < C; c++) {
        float total = 0;
        for (int64_t s = 0; s < S; s++) {
            const char *at = values + s * row + size_of(kind, c);
            float value = *(const int8_t *)at;
            if (kind == F32) memcpy(&value, at, 4);
            if (kind == BF16) value = to_float(*(const bf16 *)at);
            total += weights[s] * value;
        }
        out[c] = total;
    }
}

/* Store the key and value of key/value head k of sequence t, and compute attention for its queries. */
static void attend(
    const Plan *plan, const Layer *layer, int64_t slot, int64_t k, int64_t position, int64_t t, const Shared *shared,
    const Own *own, float eps) {
    int64_t H = plan->heads, K = plan->kv_heads, C = plan->channels, S = position + 1, served = H / K;
    int kind = (int)plan->cache_kind;
    const float *qkv = shared->qkv + t * (H + 2 * K) * C;
    int64_t start = (slot * K + k) * plan->capacity; /* of this head's positions */
    char *keys = (char *)layer->keys + size_of(kind, start * C);
    char *values = (char *)layer->values + size_of(kind, start * C);
    float *key_scales = kind == INT8 ? layer->key_scales + start : 0;
    float *value_scales = kind == INT8 ? layer->value_scales + start : 0;

    float *key = own->scores; /* not needed yet: at least C long */
    normalize_and_rotate(plan, &layer->k_norm, qkv + (H + k) * C, key, position, eps);
    store(kind, key, keys, key_scales, position, C);
    store(kind, qkv + (H + K + k) * C, values, value_scales, position, C);

    for (int64_t h = 0; h < served; h++) {
        float *query = own->queries.wide + h * own->queries.stride;
        normalize_and_rotate(plan, &layer->q_norm, qkv + (k * served + h) * C, query, position, eps);
        store_both(&own->queries, h, 0, query, C);
    }
    Matrix all = {keys, 0, 0, kind, S, C, 1};
    product(&all, &own->queries, served, own->scores, plan->capacity, 0, S);
    for (int64_t h = 0; h < served; h++) {
        float *scores = own->scores + h * plan->capacity, scale = 1.0f / sqrtf(C);
        float *out = shared->heads.wide + t * shared->heads.stride + (k * served + h) * C;
        for (int64_t s = 0; s < S; s++) scores[s] *= kind == INT8 ? scale * key_scales[s] : scale;
        softmax(scores, S);
        if (kind == INT8)
            for (int64_t s = 0; s < S; s++) scores[s] *= value_scales[s];
        if (kind == F32) weighted_sum(F32, scores, values, S, C, out);
        if (kind == BF16) weighted_sum(BF16, scores, values, S, C, out);
        if (kind == INT8) weighted_sum(INT8, scores, values, S, C, out);
        store_both(&shared->heads, t, (k * served + h) * C, out, C);
    }
}

/* Apply the activation to hidden numbers `from` to `to`; with SwiGLU they are the gate of the second half. */
static void activate(int64_t activation, const float *x, int64_t hidden, float *y, int64_t from, int64_t to) {
    if (activation == SWIGLU) {
        for (int64_t i = from; i < to; i++) y[i] = x[i] / (1.0f + fast_exp(-x[i])) * x[hidden + i];
    } else if (activation == GELU) { /* in its tanh form */
        for (int64_t i = from; i < to; i++)
            y[i] = x[i] / (1.0f + fast_exp(-1.59576912f * (x[i] + 0.044715f * x[i] * x[i] * x[i])));
    } else {
        for (int64_t i = from; i < to; i++) y[i] = x[i] > 0 ? x[i] * x[i] : 0.0f;
    }
}

/* ---- one decode step ---- */

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
static void sleep_while(atomic_int *word, int value) { syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, 0, 0, 0); }
static void wake(atomic_int *word) { syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1 << 30, 0, 0, 0); }
#else
#include <time.h>
static void sleep_while(atomic_int *word, int value) { /* 50 microseconds at a time */
    struct timespec short_while = {0, 50000};
    if (atomic_load(word) == value) nanosleep(&short_while, 0);
}
static void wake(atomic_int *word) { (void)word; }
#endif

static void pause_briefly(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

/* Wait until all threads are here: spin, as the others are a few microseconds away, and after SPINS rounds sleep. One
   that is so late has lost its core to another program, and whoever spins takes from the time it needs. */
static void barrier(Barrier *state, int threads) {
    if (threads == 1) return;
    int round = atomic_load(&state->round);
    if (atomic_fetch_add(&state->come, 1) == threads - 1) {
        atomic_store(&state->come, 0);
        atomic_store(&state->round, round + 1);
        if (atomic_load(&state->asleep)) wake(&state->round);
        return;
    }
    for (int spins = 0; spins < SPINS; spins++) {
        if (atomic_load_explicit(&state->round, memory_order_acquire) != round) return;
        pause_briefly();
    }
    atomic_fetch_add(&state->asleep, 1);
    while (atomic_load(&state->round) == round) sleep_while(&state->round, round);
    atomic_fetch_sub(&state->asleep, 1);
}

static int64_t cut(int64_t rows, int64_t part, int64_t parts) { /* where a thread's rows begin, at whole tiles */
    int64_t tiles = (rows + ROWS - 1) / ROWS, at = tiles * part / parts * ROWS;
    return at < rows ? at : rows;
}

static int64_t padded(int64_t count) { return (count + BLOCK - 1) / BLOCK * BLOCK; }

static void *take(char **free, int64_t size) {
    void *out = *free;
    *free += (size + 63) / 64 * 64;
    return out;
}

static Vectors take_vectors(char **free, int64_t count, int64_t width) {
    Vectors out = {0, 0, padded(width)};
    out.wide = take(free, 4 * count * out.stride);
    out.narrow = take(free, 2 * count * out.stride);
    return out;
}

/* Divide the workspace among what the threads share and what each has. */
static char *divide(
    const Plan *plan, int64_t batch, char *workspace, Shared *shared, Own *own, int64_t thread) {
    int64_t H = plan->heads, K = plan->kv_heads, C = plan->channels, D = plan->tokens.columns;
    shared->x = take(&workspace, 4 * batch * D);
    shared->qkv = take(&workspace, 4 * batch * (H + 2 * K) * C);
    shared->heads = take_vectors(&workspace, batch, H * C);
    shared->hidden = take_vectors(&workspace, batch, plan->layer[0].up.rows); /* twice as wide with a gate */
    for (int64_t t = 0; t <= thread; t++) {
        own->normed = take_vectors(&workspace, batch, D);
        own->queries = take_vectors(&workspace, H / K, C);
        own->scores = take(&workspace, 4 * (H / K * plan->capacity + C));
    }
    return workspace;
}

/* Return how many bytes of workspace a decode step of so many sequences needs; they must be 0 at first. */
int64_t workspace_bytes(const Plan *plan, int64_t batch) {
    Shared shared;
    Own own;
    return divide(plan, batch, 0, &shared, &own, plan->threads - 1) - (char *)0;
}

/* Compute the scores (batch, V) after `tokens`, at `positions` of the sequences in these slots of the cache.
   The workspace is for `most` sequences and divided alike for any number: its padding stays 0. */
void decode_step(
    const Plan *plan, const int64_t *tokens, const int64_t *slots, const int64_t *positions, int64_t batch,
    int64_t most, float *scores, char *workspace, float eps) {
    Barrier barrier_state = {0, 0, 0};
#pragma omp parallel num_threads(plan->threads)
    {
        int me = omp_get_thread_num(), threads = omp_get_num_threads();
        int64_t K = plan->kv_heads, D = plan->tokens.columns, wide_qkv = plan->layer[0].qkv.rows;
        Shared shared;
        Own own;
        divide(plan, most, workspace, &shared, &own, me);
        int64_t from = cut(D, me, threads), to = cut(D, me + 1, threads);
        if (me == 0)
            for (int64_t t = 0; t < batch; t++) embed(plan, tokens[t], positions[t], shared.x + t * D);
        barrier(&barrier_state, threads);
        for (int64_t index = 0; index < plan->layers; index++) {
            const Layer *layer = &plan->layer[index];
            normalize_all(plan, &layer->norm_1, shared.x, batch, &own.normed, eps);
            int64_t first = cut(wide_qkv, me, threads), last = cut(wide_qkv, me + 1, threads);
            product(&layer->qkv, &own.normed, batch, shared.qkv, wide_qkv, first, last);
            barrier(&barrier_state, threads);

            for (int64_t i = batch * K * me / threads; i < batch * K * (me + 1) / threads; i++)
                attend(plan, layer, slots[i / K], i % K, positions[i / K], i / K, &shared, &own, eps);
            barrier(&barrier_state, threads);

            float *y = own.normed.wide; /* free for now, and at least D wide */
            int64_t stride = own.normed.stride;
            product(&layer->out, &shared.heads, batch, y, stride, from, to);
            for (int64_t t = 0; t < batch; t++)
                for (int64_t i = from; i < to; i++) shared.x[t * D + i] += y[t * stride + i];
            barrier(&barrier_state, threads);

            int64_t hidden = layer->down.columns;
            first = cut(hidden, me, threads), last = cut(hidden, me + 1, threads);
            normalize_all(plan, &layer->norm_2, shared.x, batch, &own.normed, eps);
            stride = shared.hidden.stride;
            product(&layer->up, &own.normed, batch, shared.hidden.wide, stride, first, last);
            if (layer->up.rows > hidden) /* the half that is gated */
                product(&layer->up, &own.normed, batch, shared.hidden.wide, stride, hidden + first, hidden + last);
            for (int64_t t = 0; t < batch; t++) {
                float *row = shared.hidden.wide + t * stride;
                activate(plan->activation, row, hidden, row, first, last);
                store_both(&shared.hidden, t, first, row + first, last - first);
            }
            barrier(&barrier_state, threads);

            y = own.normed.wide, stride = own.normed.stride;
            product(&layer->down, &shared.hidden, batch, y, stride, from, to);
            for (int64_t t = 0; t < batch; t++)
                for (int64_t i = from; i < to; i++) shared.x[t * D + i] += y[t * stride + i];
            barrier(&barrier_state, threads);
        }
        normalize_all(plan, &plan->norm, shared.x, batch, &own.normed, eps);
        int64_t V = plan->head.rows;
        product(&plan->head, &own.normed, batch, scores, V, cut(V, me, threads), cut(V, me + 1, threads));
    }
}
