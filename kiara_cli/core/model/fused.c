/* The operators between the matrix products of a block, for training in bf16 on a CPU: see fused.py.
 *
 * In and out: bf16, rows one after another; weights of norms and angles in float. All arithmetic is in float. Each
 * row is read from memory once, and compilers make vector instructions of every loop over a row. Gradients of weights
 * are summed by each thread for itself, (threads, width), so that the sum does not depend on timing.
 *
 * B batch, T positions, S all positions, H heads, K key/value heads, C head width.
 */
#include <math.h>
#include <omp.h>

#include "numbers.h"

static inline float inverse_rms(const bf16 *x, int64_t width, float eps) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < width; i++) sum += to_float(x[i]) * to_float(x[i]);
    return 1.0f / sqrtf(sum / width + eps);
}

void rms_norm(const bf16 *x, const float *w, bf16 *y, int64_t rows, int64_t width, float eps, int64_t threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const bf16 *from = x + row * width;
        bf16 *to = y + row * width;
        float r = inverse_rms(from, width, eps);
#pragma omp simd
        for (int64_t i = 0; i < width; i++) to[i] = to_bf16(to_float(from[i]) * r * w[i]);
    }
}

void rms_norm_back(const bf16 *g, const bf16 *x, const float *w, bf16 *gx, float *gw, int64_t rows, int64_t width,
                   float eps, int64_t threads) {
#pragma omp parallel num_threads(threads)
    {
        float *sums = gw + omp_get_thread_num() * width;
#pragma omp for schedule(static)
        for (int64_t row = 0; row < rows; row++) {
            const bf16 *from = x + row * width, *gradient = g + row * width;
            bf16 *to = gx + row * width;
            float r = inverse_rms(from, width, eps), dot = 0;
#pragma omp simd reduction(+ : dot)
            for (int64_t i = 0; i < width; i++) {
                float t = to_float(gradient[i]) * to_float(from[i]);
                sums[i] += t * r;
                dot += t * w[i];
            }
            dot *= r * r / width;
#pragma omp simd
            for (int64_t i = 0; i < width; i++) to[i] = to_bf16(r * (to_float(gradient[i]) * w[i] - to_float(from[i]) * dot));
        }
    }
}

void swiglu(const bf16 *x, bf16 *y, int64_t rows, int64_t width, int64_t threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const bf16 *gate = x + 2 * row * width, *up = gate + width;
        bf16 *to = y + row * width;
#pragma omp simd
        for (int64_t i = 0; i < width; i++) {
            float a = to_float(gate[i]), s = 1.0f / (1.0f + fast_exp(-a));
            to[i] = to_bf16(a * s * to_float(up[i]));
        }
    }
}

void swiglu_back(const bf16 *g, const bf16 *x, bf16 *gx, int64_t rows, int64_t width, int64_t threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const bf16 *gate = x + 2 * row * width, *up = gate + width, *gradient = g + row * width;
        bf16 *to = gx + 2 * row * width;
#pragma omp simd
        for (int64_t i = 0; i < width; i++) {
            float a = to_float(gate[i]), u = to_float(up[i]), p = to_float(gradient[i]), s = 1.0f / (1.0f + fast_exp(-a));
            to[i] = to_bf16(p * u * s * (1.0f + a * (1.0f - s)));
            to[width + i] = to_bf16(p * a * s);
        }
    }
}

/* qkv (B, T, H + 2K, C) -> q (B, H, T, C), k, v (B, K, T, C) */
void heads(const bf16 *x, const float *wq, const float *wk, const float *rotary, bf16 *q, bf16 *k, bf16 *v,
           int64_t B, int64_t T, int64_t H, int64_t K, int64_t C, float eps, int64_t threads) {
    const int64_t half = C / 2, all = H + 2 * K;
#pragma omp parallel for num_threads(threads) collapse(2) schedule(static)
    for (int64_t b = 0; b < B; b++)
        for (int64_t t = 0; t < T; t++) {
            const float *cos = rotary + t * half, *sin = rotary + (T + t) * half;
            for (int64_t h = 0; h < all; h++) {
                const bf16 *from = x + ((b * T + t) * all + h) * C;
                if (h >= H + K) {
                    memcpy(v + ((b * K + h - H - K) * T + t) * C, from, C * sizeof(bf16));
                    continue;
                }
                const float *w = h < H ? wq : wk;
                bf16 *to = h < H ? q + ((b * H + h) * T + t) * C : k + ((b * K + h - H) * T + t) * C;
                float r = inverse_rms(from, C, eps);
#pragma omp simd
                for (int64_t i = 0; i < half; i++) {
                    float one = to_float(from[i]) * r * w[i], two = to_float(from[half + i]) * r * w[half + i];
                    to[i] = to_bf16(one * cos[i] - two * sin[i]);
                    to[half + i] = to_bf16(two * cos[i] + one * sin[i]);
                }
            }
        }
}

void heads_back(const bf16 *gq, const bf16 *gk, const bf16 *gv, const bf16 *x, const float *wq, const float *wk,
                const float *rotary, bf16 *gx, float *gw, int64_t B, int64_t T, int64_t H, int64_t K, int64_t C,
                float eps, int64_t threads) {
    const int64_t half = C / 2, all = H + 2 * K;
#pragma omp parallel num_threads(threads)
    {
        float *sums = gw + omp_get_thread_num() * 2 * C;
        float gradients[C];
#pragma omp for collapse(2) schedule(static)
        for (int64_t b = 0; b < B; b++)
            for (int64_t t = 0; t < T; t++) {
                const float *cos = rotary + t * half, *sin = rotary + (T + t) * half;
                for (int64_t h = 0; h < all; h++) {
                    const int64_t at = ((b * T + t) * all + h) * C;
                    const bf16 *from = x + at;
                    bf16 *to = gx + at;
                    if (h >= H + K) {
                        memcpy(to, gv + ((b * K + h - H - K) * T + t) * C, C * sizeof(bf16));
                        continue;
                    }
                    const float *w = h < H ? wq : wk;
                    float *sum = h < H ? sums : sums + C;
                    const bf16 *g = h < H ? gq + ((b * H + h) * T + t) * C : gk + ((b * K + h - H) * T + t) * C;
                    float r = inverse_rms(from, C, eps), dot = 0;
#pragma omp simd
                    for (int64_t i = 0; i < half; i++) {
                        float one = to_float(g[i]), two = to_float(g[half + i]);
                        gradients[i] = one * cos[i] + two * sin[i];
                        gradients[half + i] = two * cos[i] - one * sin[i];
                    }
#pragma omp simd reduction(+ : dot)
                    for (int64_t i = 0; i < C; i++) {
                        float t = gradients[i] * to_float(from[i]);
                        sum[i] += t * r;
                        dot += t * w[i];
                    }
                    dot *= r * r / C;
#pragma omp simd
                    for (int64_t i = 0; i < C; i++) to[i] = to_bf16(r * (gradients[i] * w[i] - to_float(from[i]) * dot));
                }
            }
    }
}

/* scores (B, H, T, S) in place; bias (B, 1, T, S) or NULL: causal, the last T of S positions */
void softmax(bf16 *scores, const bf16 *bias, int64_t B, int64_t H, int64_t T, int64_t S, float scale,
             int64_t threads) {
#pragma omp parallel num_threads(threads)
    {
        float row[S];
#pragma omp for collapse(3) schedule(static)
        for (int64_t b = 0; b < B; b++)
            for (int64_t h = 0; h < H; h++)
                for (int64_t t = 0; t < T; t++) {
                    bf16 *at = scores + ((b * H + h) * T + t) * S;
                    const bf16 *add = bias + (b * T + t) * S;
                    int64_t seen = bias ? S : S - T + t + 1;
                    float most = -INFINITY, sum = 0;
                    if (bias)
#pragma omp simd reduction(max : most)
                        for (int64_t i = 0; i < seen; i++) {
                            row[i] = to_float(at[i]) * scale + to_float(add[i]);
                            most = row[i] > most ? row[i] : most;
                        }
                    else
#pragma omp simd reduction(max : most)
                        for (int64_t i = 0; i < seen; i++) {
                            row[i] = to_float(at[i]) * scale;
                            most = row[i] > most ? row[i] : most;
                        }
#pragma omp simd reduction(+ : sum)
                    for (int64_t i = 0; i < seen; i++) {
                        row[i] = row[i] == -INFINITY ? 0.0f : fast_exp(row[i] - most);
                        sum += row[i];
                    }
                    sum = 1.0f / sum;
#pragma omp simd
                    for (int64_t i = 0; i < seen; i++) at[i] = to_bf16(row[i] * sum);
                    memset(at + seen, 0, (S - seen) * sizeof(bf16));
                }
    }
}

void softmax_back(const bf16 *g, const bf16 *p, bf16 *gs, int64_t rows, int64_t S, float scale, int64_t threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const bf16 *gradient = g + row * S, *w = p + row * S;
        bf16 *to = gs + row * S;
        float dot = 0;
#pragma omp simd reduction(+ : dot)
        for (int64_t i = 0; i < S; i++) dot += to_float(gradient[i]) * to_float(w[i]);
#pragma omp simd
        for (int64_t i = 0; i < S; i++) to[i] = to_bf16(scale * to_float(w[i]) * (to_float(gradient[i]) - dot));
    }
}

static inline uint32_t hash32(uint32_t z) { /* each bit of the result depends on every bit (lowbias32, C. Wellons) */
    z ^= z >> 16;
    z *= 0x7feb352du;
    z ^= z >> 15;
    z *= 0x846ca68bu;
    return z ^ z >> 16;
}

/* Dropout: whether a number is dropped follows from its index and the seed, so the backward pass needs no mask. */
void drop(const bf16 *x, bf16 *y, int64_t count, int64_t seed, float rate, int64_t threads) {
    uint32_t limit = (uint32_t)(rate * 4294967296.0), low = (uint32_t)seed, high = (uint32_t)(seed >> 32);
    float scale = 1.0f / (1.0f - rate);
#pragma omp parallel for simd num_threads(threads) schedule(static)
    for (int64_t i = 0; i < count; i++) {
        uint32_t z = hash32(hash32((uint32_t)i ^ low) ^ high);
        y[i] = z < limit ? 0 : to_bf16(to_float(x[i]) * scale);
    }
}
