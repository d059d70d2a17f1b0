// One row times a matrix of small numbers, each number read once: what torch's compiler does not get out of codes.
//
// In: x (1, K) float; codes int8 (N, K), or two 4-bit codes a byte (N, K / 2), even columns low, 8 standing for 0;
// scales bfloat16 (N, G). Out: (1, N) float. Called by the compiled step through torch's C interface, which is
// declared here as far as it is needed, so that this compiles in a second.

#include <cstdint>
#include <cstring>
#include <vector>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

using Handle = struct AtenTensorOpaque*;
extern "C" {
int32_t aoti_torch_get_data_ptr(Handle tensor, void** out);
int32_t aoti_torch_get_size(Handle tensor, int64_t dimension, int64_t* out);
int32_t aoti_torch_empty_strided(
    int64_t dimensions, const int64_t* sizes, const int64_t* strides, int32_t dtype, int32_t device_type,
    int32_t device_index, Handle* out);
}

constexpr int LANES = 16, ROWS = 4;  // numbers handled at once; rows that share each load of x
constexpr int32_t FLOAT = 6, CPU = 0;  // torch's numbers for them
typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));

template <class T>
static inline T load(const void* from) {
  T out;
  std::memcpy(&out, from, sizeof out);
  return out;
}

// Sixteen bytes as whole numbers; compilers do not find the instruction for it by themselves.
template <class Byte>
static inline Ints spread(const Byte* from) {
  constexpr bool negative = Byte(-1) < Byte(0);
#if defined(__AVX512F__)
  __m128i bytes = load<__m128i>(from);
  return Ints(negative ? _mm512_cvtepi8_epi32(bytes) : _mm512_cvtepu8_epi32(bytes));
#elif defined(__AVX2__)
  __m128i bytes = load<__m128i>(from), high = _mm_srli_si128(bytes, 8);
  __m256i halves[] = {negative ? _mm256_cvtepi8_epi32(bytes) : _mm256_cvtepu8_epi32(bytes),
                      negative ? _mm256_cvtepi8_epi32(high) : _mm256_cvtepu8_epi32(high)};
  return load<Ints>(halves);
#else
  Ints out;
  for (int i = 0; i < LANES; i++) out[i] = from[i];
  return out;
#endif
}

static inline float widen(uint16_t bits) {  // bfloat16 is the upper half of a float
  uint32_t whole = uint32_t(bits) << 16;
  return load<float>(&whole);
}

static inline float sum(Floats v) {
  float out = 0;
  for (int i = 0; i < LANES; i++) out += v[i];
  return out;
}

// 8 bits, one scale a row.
static void rows_of_bytes(const float* x, const int8_t* codes, const uint16_t* scales, float* y, int64_t rows, int64_t K) {
#pragma omp parallel for num_threads(THREADS) schedule(static)
  for (int64_t first = 0; first < rows; first += ROWS) {
    int64_t count = rows - first < ROWS ? rows - first : ROWS;
    Floats total[ROWS] = {};
    float rest[ROWS] = {};
    int64_t k = 0;
    if (count == ROWS)
      for (; k + LANES <= K; k += LANES) {
        Floats part = load<Floats>(x + k);
        for (int r = 0; r < ROWS; r++) {
          total[r] += part * __builtin_convertvector(spread(codes + (first + r) * K + k), Floats);
        }
      }
    for (; k < K; k++)
      for (int64_t r = 0; r < count; r++) rest[r] += x[k] * codes[(first + r) * K + k];
    for (int64_t r = 0; r < count; r++) y[first + r] = (sum(total[r]) + rest[r]) * widen(scales[first + r]);
  }
}

// 4 bits, a scale for every Q columns. `even` and `odd` are x's columns; `zero` is what the codes' 8 adds, negative.
static void rows_of_pairs(
    const float* even, const float* odd, const float* zero, const uint8_t* codes, const uint16_t* scales, float* y,
    int64_t rows, int64_t K, int64_t G) {
  int64_t half = K / 2, block = half / G;  // bytes of a row, and of a group
#pragma omp parallel for num_threads(THREADS) schedule(static)
  for (int64_t first = 0; first < rows; first += ROWS) {
    int64_t count = rows - first < ROWS ? rows - first : ROWS;
    if (count == ROWS && block % LANES == 0) {
      Floats total[ROWS] = {};
      for (int64_t g = 0; g < G; g++)
        for (int64_t j = g * block; j < (g + 1) * block; j += LANES) {
          Floats e = load<Floats>(even + j), o = load<Floats>(odd + j), z = load<Floats>(zero + j);
          for (int r = 0; r < ROWS; r++) {
            Ints pairs = spread(codes + (first + r) * half + j);
            Floats low = __builtin_convertvector(pairs & 15, Floats);
            Floats high = __builtin_convertvector(pairs >> 4, Floats);
            total[r] += (z + e * low + o * high) * widen(scales[(first + r) * G + g]);
          }
        }
      for (int r = 0; r < ROWS; r++) y[first + r] = sum(total[r]);
      continue;
    }
    for (int64_t n = first; n < first + count; n++) {
      float total = 0;
      for (int64_t j = 0; j < half; j++) {
        uint8_t pair = codes[n * half + j];
        total += (zero[j] + even[j] * (pair & 15) + odd[j] * (pair >> 4)) * widen(scales[n * G + j / block]);
      }
      y[n] = total;
    }
  }
}

static void* data(Handle tensor) {
  void* out = nullptr;
  aoti_torch_get_data_ptr(tensor, &out);
  return out;
}

static int64_t size(Handle tensor, int64_t dimension) {
  int64_t out = 0;
  aoti_torch_get_size(tensor, dimension, &out);
  return out;
}

extern "C" int32_t aoti_torch_cpu_small_product(Handle x, Handle codes, Handle scales, Handle* out) {
  int64_t K = size(x, 1), N = size(codes, 0), G = size(scales, 1);
  int64_t sizes[] = {1, N}, strides[] = {N, 1};
  if (int32_t failed = aoti_torch_empty_strided(2, sizes, strides, FLOAT, CPU, -1, out)) return failed;
  auto* row = static_cast<const float*>(data(x));
  auto* scale = static_cast<const uint16_t*>(data(scales));
  auto* y = static_cast<float*>(data(*out));
  if (size(codes, 1) == K) {
    rows_of_bytes(row, static_cast<const int8_t*>(data(codes)), scale, y, N, K);
    return 0;
  }
  thread_local std::vector<float> parts;
  int64_t half = K / 2;
  parts.resize(3 * half);
  float *even = parts.data(), *odd = even + half, *zero = odd + half;
  for (int64_t j = 0; j < half; j++) {
    even[j] = row[2 * j];
    odd[j] = row[2 * j + 1];
    zero[j] = -8 * (even[j] + odd[j]);
  }
  rows_of_pairs(even, odd, zero, static_cast<const uint8_t*>(data(codes)), scale, y, N, K, G);
  return 0;
}
