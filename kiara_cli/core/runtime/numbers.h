/* Conversions and exp, for every C file of Kiara. */
#pragma once
#include <stdint.h>
#include <string.h>

#define INSIDE static inline __attribute__((always_inline))

typedef uint16_t bf16;

INSIDE float to_float(bf16 value) {
    uint32_t bits = (uint32_t)value << 16;
    float out;
    memcpy(&out, &bits, 4);
    return out;
}

INSIDE bf16 to_bf16(float value) { /* round to nearest, ties to even */
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

INSIDE float fast_exp(float x) { /* e^x, with x limited to what float can hold */
    x = x < -87.0f ? -87.0f : x;
    x = x > 87.0f ? 87.0f : x;
    float y = x * 1.44269504f, shifted = y + 12582912.0f; /* adding 1.5 x 2^23 rounds to whole numbers */
    float part = y - (shifted - 12582912.0f);
    float p = 0.00961812911f + part * 0.00133335581f; /* Taylor's series of 2 to the part, |part| <= 1/2 */
    p = 0.693147180f + part * (0.240226507f + part * (0.0555041087f + part * p));
    uint32_t bits;
    memcpy(&bits, &shifted, 4);
    bits = (bits + 127) << 23;
    float scale;
    memcpy(&scale, &bits, 4);
    return (1.0f + part * p) * scale;
}
