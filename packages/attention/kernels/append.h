/*
 * Writes one token's k and v into a page. f16 and bf16 round to nearest even and clamp to their largest finite value; int8 has
 * a scale per token, the largest magnitude over 127. Only f32 keys keep NaN:
 * values must be finite, as those of tokens that aren't written are read along with a weight of 0.
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

/*
 * Two vectors as bf16, low and high halves of words. The high half is read with the low one as its lower mantissa bits, so it
 * is chosen such that the whole word is nearest. It is never a subnormal, which some CPUs multiply a hundred times slower.
 */
INLINE Vec to_bf16_pairs(Vec low, Vec high) {
  const Vec magnitude = BITS(0x7fffffff), most = BITS(0x7f7e0000);
  Vec a = wasm_u32x4_min(wasm_v128_and(low, magnitude), most);
  Vec odd = wasm_v128_and(wasm_u32x4_shr(a, 16), BITS(1));
  a = wasm_u32x4_shr(wasm_i32x4_add(wasm_i32x4_add(a, BITS(0x7fff)), odd), 16);
  a = wasm_v128_or(a, wasm_v128_and(wasm_u32x4_shr(low, 16), BITS(0x8000)));
  Vec b = wasm_u32x4_min(wasm_v128_and(high, magnitude), most);
  b = wasm_i32x4_max(wasm_i32x4_add(wasm_i32x4_sub(b, a), BITS(0x8000)), BITS(0x00800000));
  return wasm_v128_or(a, wasm_v128_bitselect(high, wasm_v128_and(b, BITS(0x7fff0000)), BITS(0x80000000)));
}

INLINE Vec to_half_pairs(const int dtype, const float *x) {
  Vec low = LOAD(x), high = LOAD(x + 4);
  if (dtype == KV_BF16) return to_bf16_pairs(low, high);
  return wasm_v128_or(to_f16(low), wasm_i32x4_shl(to_f16(high), 16));
}

/* The four 32-bit lanes go to every fourth word. */
INLINE void scatter(Vec x, void *to) {
  uint32_t *word = to;
  wasm_v128_store32_lane(word, x, 0);
  wasm_v128_store32_lane(word + 4, x, 1);
  wasm_v128_store32_lane(word + 8, x, 2);
  wasm_v128_store32_lane(word + 12, x, 3);
}

/* Infinities and NaN become the largest finite value. */
INLINE Vec finite(Vec x) {
  const Vec magnitude = BITS(0x7fffffff);
  return wasm_v128_bitselect(wasm_u32x4_min(wasm_v128_and(x, magnitude), BITS(0x7f7fffff)), x, magnitude);
}

INLINE void append_float(const int dtype, const Config *c, char *page, uint32_t t, const float *k, const float *v) {
  const uint32_t dim = c->dim, tokens = c->page_tokens, bytes = ELEMENT_BYTES(dtype);
  char *key = page + t / 4 * 4 * dim * bytes + t % 4 * 4, *value = page + c->value_offset + t * 8 * bytes;
  for (uint32_t d = 0; d < dim; d += 8, key += 32 * bytes, value += 8 * tokens * bytes) {
    if (dtype == KV_F32) {
      scatter(LOAD(k + d), key);
      scatter(LOAD(k + d + 4), key + 64);
      STORE(value, finite(LOAD(v + d)));
      STORE(value + 16, finite(LOAD(v + d + 4)));
    } else {
      scatter(to_half_pairs(dtype, k + d), key);
      STORE(value, to_half_pairs(dtype, v + d));
    }
  }
}

INLINE float largest(const float *x, uint32_t n) {
  Vec m = ZERO;
  for (uint32_t i = 0; i < n; i += 4) m = wasm_f32x4_pmax(m, wasm_f32x4_abs(LOAD(x + i)));
  return max_lane(m);
}

/* Stores the scale of a vector and returns its inverse: tiny ones are stored as zeros, infinite ones keep a finite scale. */
INLINE Vec int8_scale(const float *x, uint32_t dim, float *scale) {
  float most = largest(x, dim);
  if (!(most < 0x1p127f)) most = 0x1p127f;
  *scale = most / 127;
  return SPLAT(most > 0x1p-118f ? 127.0f / most : 0);
}

/* Byte `at` of each 32-bit lane. */
INLINE void merge_bytes(char *to, Vec bytes, uint32_t at) {
  Vec mask = wasm_i32x4_shl(BITS(0xff), 8 * at);
  STORE(to, wasm_v128_bitselect(wasm_i32x4_shl(bytes, 8 * at), LOAD(to), mask));
}

INLINE void append_int8(const int dtype, const Config *c, char *page, uint32_t t, const float *k, const float *v) {
  const uint32_t dim = c->dim, tokens = c->page_tokens;
  char *value = page + c->value_offset;
  const Vec k_inverse = int8_scale(k, dim, (float *)(page + c->scale_offset) + t);
  const Vec v_inverse = int8_scale(v, dim, (float *)(page + c->scale_offset) + tokens + t);
  value += dtype == KV_INT8_DOT ? t / 4 * 32 : t / 2 * 16;
  char *key = page + t / 4 * 4 * dim + t % 4 * (dtype == KV_INT8_DOT ? 4 : 2);
  for (uint32_t d = 0; d < dim; d += 8, key += 32, value += tokens * 8) {
    Vec k0 = round_to_int(MUL(LOAD(k + d), k_inverse)), k1 = round_to_int(MUL(LOAD(k + d + 4), k_inverse));
    Vec v0 = round_to_int(MUL(LOAD(v + d), v_inverse)), v1 = round_to_int(MUL(LOAD(v + d + 4), v_inverse));
    Vec words = wasm_i16x8_narrow_i32x4(k0, k1), bytes = wasm_i8x16_narrow_i16x8(words, words);
    if (dtype == KV_INT8_DOT) {
      bytes = wasm_v128_xor(bytes, wasm_i8x16_splat((int8_t)0x80));
      wasm_v128_store32_lane(key, bytes, 0);
      wasm_v128_store32_lane(key + 16, bytes, 1);
      merge_bytes(value, v0, t % 4);
      merge_bytes(value + 16, v1, t % 4);
    } else {
      wasm_v128_store16_lane(key, bytes, 0);
      wasm_v128_store16_lane(key + 8, bytes, 1);
      wasm_v128_store16_lane(key + 16, bytes, 2);
      wasm_v128_store16_lane(key + 24, bytes, 3);
      const uint32_t shift = t % 2 * 8;
      Vec mask = wasm_i16x8_shl(wasm_i16x8_splat(0xff), shift);
      Vec both = wasm_i16x8_shl(wasm_i16x8_narrow_i32x4(v0, v1), shift);
      STORE(value, wasm_v128_bitselect(both, LOAD(value), mask));
    }
  }
}
