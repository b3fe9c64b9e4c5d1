/*
 * The vector words that the kernels are written in. Two builds come from the same source: with relaxed SIMD a multiply-add
 * is one instruction, without it two; nothing else differs. Loop pragmas and PIN are part of the meaning here: V8 keeps the
 * order of instructions that it is given, so an order that LLVM regroups by accumulator spills.
 */
#pragma once
#include <stdint.h>
#include <wasm_simd128.h>

#define EXPORT(name) __attribute__((export_name(#name)))
#define INLINE static inline __attribute__((always_inline))
#define NOINLINE static __attribute__((noinline))
#define UNROLL _Pragma("clang loop unroll(full)")
/* KV loops stay rolled: fully unrolled they read memory at half the speed. */
#define ROLLED _Pragma("clang loop unroll(disable)")
/* Holds the program order of accumulator updates; costs no instruction. */
#define PIN(v) __asm__ volatile("" : "+r"(v))

typedef v128_t Vec;

#define LOAD(p) wasm_v128_load(p)
#define STORE(p, v) wasm_v128_store(p, v)
#define SPLAT_AT(p) wasm_v128_load32_splat(p)
#define SPLAT(x) wasm_f32x4_splat(x)
#define ZERO wasm_i32x4_const_splat(0)
#define BITS(x) wasm_i32x4_splat((int32_t)(x))
INLINE uint32_t min_u32(uint32_t a, uint32_t b) { return a < b ? a : b; }

#define ADD wasm_f32x4_add
#define SUB wasm_f32x4_sub
#define MUL wasm_f32x4_mul

#ifdef __wasm_relaxed_simd__
#define MADD(a, b, c) wasm_f32x4_relaxed_madd(a, b, c)
#define MAX wasm_f32x4_relaxed_max
/* i32 += sums of four products of signed bytes with bytes that the probe in src/kernel.ts found to be read as unsigned. */
#define HAS_DOT 1
#define DOT(s, u, c) wasm_i32x4_relaxed_dot_i8x16_i7x16_add(s, u, c)
#else
#define MADD(a, b, c) wasm_f32x4_add(wasm_f32x4_mul(a, b), c)
#define MAX(a, b) wasm_f32x4_pmax(a, b)
#define HAS_DOT 0
#define DOT(s, u, c) (c)
#endif

INLINE float max_lane(Vec v) {
  v = MAX(v, wasm_i32x4_shuffle(v, v, 2, 3, 0, 1));
  v = MAX(v, wasm_i32x4_shuffle(v, v, 1, 0, 3, 2));
  return wasm_f32x4_extract_lane(v, 0);
}

INLINE float add_lanes(Vec v) {
  v = ADD(v, wasm_i32x4_shuffle(v, v, 2, 3, 0, 1));
  v = ADD(v, wasm_i32x4_shuffle(v, v, 1, 0, 3, 2));
  return wasm_f32x4_extract_lane(v, 0);
}

/* Four rows of four 32-bit lanes become four columns. */
INLINE void transpose4(const Vec *row, Vec *column) {
  Vec a = wasm_i32x4_shuffle(row[0], row[1], 0, 4, 1, 5), b = wasm_i32x4_shuffle(row[2], row[3], 0, 4, 1, 5);
  Vec c = wasm_i32x4_shuffle(row[0], row[1], 2, 6, 3, 7), d = wasm_i32x4_shuffle(row[2], row[3], 2, 6, 3, 7);
  column[0] = wasm_i64x2_shuffle(a, b, 0, 2);
  column[1] = wasm_i64x2_shuffle(a, b, 1, 3);
  column[2] = wasm_i64x2_shuffle(c, d, 0, 2);
  column[3] = wasm_i64x2_shuffle(c, d, 1, 3);
}

/* Nearest integer of |x| < 2^22, ties to even: adding 1.5 * 2^23 leaves it in the low mantissa bits. */
INLINE Vec round_to_int(Vec x) {
  return wasm_i32x4_sub(ADD(x, SPLAT(12582912.0f)), BITS(0x4b400000));
}

/*
 * Constants of a loop. Left to the compiler they are v128.const inside it, which V8 builds anew in several instructions each
 * time; pinned they stay in registers.
 */
#define CONSTANT(name, value) \
  Vec name = (value);         \
  PIN(name)

typedef struct {
  Vec least, shift, c[6];
} Exp2;

/* Degree 5 has a relative error of 2e-7, degree 3 of 1e-4, enough for weights of 8 bits. */
INLINE Exp2 exp2_of_degree(const int degree) {
  static const float coefficients[2][6] = {{1, 6.9328312e-1f, 2.4221172e-1f, 5.5007929e-2f},
                                           {1, 6.9314718e-1f, 2.4022651e-1f, 5.5504109e-2f, 9.6181291e-3f, 1.3333558e-3f}};
  Exp2 e = {.least = SPLAT(-127.0f), .shift = SPLAT(12582912.0f)};
  PIN(e.least);
  PIN(e.shift);
  UNROLL for (int i = 0; i <= degree; i++) {
    e.c[i] = SPLAT(coefficients[degree == 5][i]);
    PIN(e.c[i]);
  }
  return e;
}

/* 2^x for x <= 0, exactly 0 from -127 down, so that a masked score weighs nothing. */
INLINE Vec exp2_nonpositive(const int degree, const Exp2 *e, Vec x) {
  x = MAX(x, e->least);
  Vec shifted = ADD(x, e->shift), f = SUB(x, SUB(shifted, e->shift)), r = e->c[degree];
  UNROLL for (int i = degree - 1; i >= 0; i--) r = MADD(r, f, e->c[i]);
  return wasm_i32x4_add(r, wasm_i32x4_shl(shifted, 23));
}
