/*
 * Rows of head vectors as the host writes and reads them, packages/core/src/rows.ts:
 *   f32, f16   [heads, head_dim]
 *   int8       [heads, head_dim], zeros up to a multiple of 4 bytes, then f32 scales [heads]: value = byte x scale
 * Heads of one row may be written by several workers at once, so nothing is written beside a head.
 */
#pragma once
#include "append.h"

INLINE uint32_t row_scales_at(uint32_t heads, uint32_t head_dim) { return (heads * head_dim + 3) / 4 * 4; }

/* Four f16 in 32-bit lanes to f32, exact; infinities and NaN stay what they are. */
INLINE Vec from_f16(Vec half) {
  Vec magnitude = wasm_i32x4_shl(wasm_v128_and(half, BITS(0x7fff)), 13);
  Vec special = wasm_v128_and(wasm_i32x4_gt(magnitude, BITS(0x0f7fffff)), BITS(0x7f800000));
  Vec sign = wasm_i32x4_shl(wasm_v128_and(half, BITS(0x8000)), 16);
  return wasm_v128_or(wasm_v128_or(MUL(magnitude, SPLAT(0x1p112f)), special), sign);
}

/* Head `head` of a row of `heads` as `dim` floats, zeros from head_dim on; in `buffer` unless it lies in the row like that. */
static const float *decode_head(uint32_t dtype, uint32_t head_dim, uint32_t dim, const char *row, uint32_t heads, uint32_t head,
                                float *buffer) {
  const uint32_t first = head * head_dim;
  if (dtype == ROW_F32) {
    const float *x = (const float *)row + first;
    if (dim == head_dim) return x;
    for (uint32_t d = 0; d < head_dim; d++) buffer[d] = x[d];
  } else if (dtype == ROW_F16) { /* may read beyond the head, never beyond the memory: output follows */
    const char *x = row + 2 * first;
    for (uint32_t d = 0; d < dim; d += 8) {
      const Vec eight = LOAD(x + 2 * d);
      STORE(buffer + d, from_f16(wasm_u32x4_extend_low_u16x8(eight)));
      STORE(buffer + d + 4, from_f16(wasm_u32x4_extend_high_u16x8(eight)));
    }
  } else {
    const Vec scale = SPLAT_AT(row + row_scales_at(heads, head_dim) + 4 * head);
    for (uint32_t d = 0; d < dim; d += 8) {
      const Vec eight = wasm_i16x8_load8x8(row + first + d);
      STORE(buffer + d, MUL(wasm_f32x4_convert_i32x4(wasm_i32x4_extend_low_i16x8(eight)), scale));
      STORE(buffer + d + 4, MUL(wasm_f32x4_convert_i32x4(wasm_i32x4_extend_high_i16x8(eight)), scale));
    }
  }
  for (uint32_t d = head_dim; d < dim; d++) buffer[d] = 0;
  return buffer;
}

/* Four f32 to f16 in 32-bit lanes. Unlike what KV is rounded to, overflow is an infinity and NaN stays: rows tell what went wrong. */
INLINE Vec to_f16_row(Vec x) {
  const Vec half = to_f16(x), magnitude = wasm_v128_and(x, BITS(0x7fffffff));
  const Vec infinite = wasm_v128_or(wasm_v128_and(half, BITS(0x8000)), BITS(0x7c00));
  const Vec nan = wasm_v128_and(wasm_i32x4_gt(magnitude, BITS(0x7f800000)), BITS(0x200));
  return wasm_v128_or(wasm_v128_bitselect(infinite, half, wasm_i32x4_gt(magnitude, BITS(0x477fefff))), nan);
}

/* The largest magnitude; NaN when there is one. */
static float largest_or_nan(const float *x, uint32_t dim) {
  Vec m = ZERO;
  for (uint32_t d = 0; d < dim; d += 4) m = wasm_f32x4_max(m, wasm_f32x4_abs(LOAD(x + d)));
  m = wasm_f32x4_max(m, wasm_i32x4_shuffle(m, m, 2, 3, 0, 1));
  m = wasm_f32x4_max(m, wasm_i32x4_shuffle(m, m, 1, 0, 3, 2));
  return wasm_f32x4_extract_lane(m, 0);
}

/* x: `dim` floats, zeros from head_dim on. An int8 head with NaN or an infinity gets a scale that is none either, and zeros. */
static void encode_head(uint32_t dtype, uint32_t head_dim, uint32_t dim, const float *x, char *row, uint32_t heads, uint32_t head) {
  const uint32_t first = head * head_dim, whole = head_dim & ~7u, bytes = dtype == ROW_F16 ? 2 : 1;
  if (dtype == ROW_F32) {
    float *to = (float *)row + first;
    for (uint32_t d = 0; d < whole; d += 4) STORE(to + d, LOAD(x + d));
    for (uint32_t d = whole; d < head_dim; d++) to[d] = x[d];
    return;
  }
  char *to = row + first * bytes;
  float inverse = 0;
  if (dtype == ROW_INT8) {
    const float most = largest_or_nan(x, dim);
    if (most > 0x1p-118f && most < __builtin_inff()) inverse = 127 / most;
    ((float *)(row + row_scales_at(heads, head_dim)))[head] = most / 127;
    for (uint32_t at = heads * head_dim; head + 1 == heads && at % 4 != 0; at++) row[at] = 0;
  }
  for (uint32_t d = 0; d < dim; d += 8) {
    const Vec low = LOAD(x + d), high = LOAD(x + d + 4);
    Vec packed = ZERO;
    if (dtype == ROW_F16) {
      packed = wasm_u16x8_narrow_i32x4(to_f16_row(low), to_f16_row(high));
    } else if (inverse != 0) {
      const Vec factor = SPLAT(inverse);
      const Vec words = wasm_i16x8_narrow_i32x4(round_to_int(MUL(low, factor)), round_to_int(MUL(high, factor)));
      packed = wasm_i8x16_narrow_i16x8(words, words);
    }
    if (d < whole) {
      wasm_v128_store64_lane(to + bytes * d, packed, 0);
      if (bytes == 2) wasm_v128_store64_lane(to + bytes * d + 8, packed, 1);
    } else { /* head_dim is even: up to six are left */
      char rest[16];
      STORE(rest, packed);
      for (uint32_t i = 0; i < (head_dim - d) * bytes; i++) to[bytes * d + i] = rest[i];
    }
  }
}
