/*
 * Writes one token's k and v into a page. f16 rounds to nearest even and clamps to +-65504; int8 has a scale per token, the
 * largest magnitude over 127. NaN is kept by f32 only.
 */
#pragma once
#include "layout.h"

/* Four f32 to f16 bits in 32-bit lanes. */
INLINE Vec to_f16(Vec x) {
  Vec sign = wasm_v128_and(wasm_u32x4_shr(x, 16), BITS(0x8000));
  Vec u = wasm_u32x4_min(wasm_v128_and(x, BITS(0x7fffffff)), BITS(0x477fe000));
  Vec odd = wasm_v128_and(wasm_u32x4_shr(u, 13), BITS(1));
  Vec normal = wasm_u32x4_shr(wasm_i32x4_add(wasm_i32x4_add(u, BITS(0xfff - 0x38000000)), odd), 13);
  /* Beside 0.5 the last mantissa bit is worth 2^-24, the subnormal unit of f16. */
  Vec subnormal = wasm_i32x4_sub(ADD(u, SPLAT(0.5f)), BITS(0x3f000000));
  return wasm_v128_or(sign, wasm_v128_bitselect(subnormal, normal, wasm_i32x4_lt(u, BITS(0x38800000))));
}

INLINE float largest(const float *x, uint32_t n) {
  Vec m = ZERO;
  for (uint32_t i = 0; i < n; i += 4) m = wasm_f32x4_pmax(m, wasm_f32x4_abs(LOAD(x + i)));
  return max_lane(m);
}

INLINE void append_f32(uint32_t dim, uint32_t tokens, char *page, uint32_t t, const float *k, const float *v) {
  float *key = (float *)(page + t / 4 * 16 * dim) + t % 4;
  float *value = (float *)page + tokens * dim + t * 8;
  for (uint32_t d = 0; d < dim; d++) key[4 * d] = k[d];
  for (uint32_t d = 0; d < dim; d += 8, value += tokens * 8) {
    STORE(value, LOAD(v + d));
    STORE(value + 4, LOAD(v + d + 4));
  }
}

INLINE void append_f16(uint32_t dim, uint32_t tokens, char *page, uint32_t t, const float *k, const float *v) {
  uint32_t *key = (uint32_t *)(page + t / 4 * 8 * dim) + t % 4;
  uint16_t *value = (uint16_t *)page + tokens * dim + t / 2 * 16 + t % 2;
  for (uint32_t d = 0; d < dim; d += 8, key += 16, value += tokens * 8) {
    Vec low = to_f16(LOAD(k + d)), high = to_f16(LOAD(k + d + 4));
    Vec pairs = wasm_v128_or(wasm_i32x4_shuffle(low, high, 0, 2, 4, 6),
                             wasm_i32x4_shl(wasm_i32x4_shuffle(low, high, 1, 3, 5, 7), 16));
    wasm_v128_store32_lane(key, pairs, 0);
    wasm_v128_store32_lane(key + 4, pairs, 1);
    wasm_v128_store32_lane(key + 8, pairs, 2);
    wasm_v128_store32_lane(key + 12, pairs, 3);
    uint16_t half[8];
    STORE(half, wasm_u16x8_narrow_i32x4(to_f16(LOAD(v + d)), to_f16(LOAD(v + d + 4))));
    UNROLL for (int i = 0; i < 8; i++) value[2 * i] = half[i];
  }
}

/* Eight floats as signed bytes at the given scale. */
INLINE void to_int8(const float *x, float inverse, int8_t *bytes) {
  Vec r = SPLAT(inverse);
  Vec words = wasm_i16x8_narrow_i32x4(round_to_int(MUL(LOAD(x), r)), round_to_int(MUL(LOAD(x + 4), r)));
  wasm_v128_store64_lane(bytes, wasm_i8x16_narrow_i16x8(words, words), 0);
}

INLINE void append_int8(uint32_t dim, uint32_t tokens, char *page, uint32_t t, const float *k, const float *v,
                        float *scales) {
  /* Tiny vectors have no finite inverse scale and are stored as zeros; infinite ones keep a finite scale. */
  float k_max = largest(k, dim), v_max = largest(v, dim);
  if (!(k_max < 0x1p127f)) k_max = 0x1p127f;
  if (!(v_max < 0x1p127f)) v_max = 0x1p127f;
  float k_inverse = k_max > 0x1p-118f ? 127.0f / k_max : 0, v_inverse = v_max > 0x1p-118f ? 127.0f / v_max : 0;
  scales[t] = k_max / 127;
  scales[tokens + t] = v_max / 127;
  int8_t *key = (int8_t *)page + t / 4 * 4 * dim + t % 4 * 2;
  int8_t *value = (int8_t *)page + tokens * dim + t / 2 * 16 + t % 2;
  int8_t bytes[8];
  for (uint32_t d = 0; d < dim; d += 8, key += 32, value += tokens * 8) {
    to_int8(k + d, k_inverse, bytes);
    UNROLL for (int i = 0; i < 8; i++) key[i / 2 * 8 + i % 2] = bytes[i];
    to_int8(v + d, v_inverse, bytes);
    UNROLL for (int i = 0; i < 8; i++) value[2 * i] = bytes[i];
  }
}
