/*
 * The words of wasm_simd128.h that the kernels use, in AVX2 and FMA on vectors of 128 bits: the same source then shows what the
 * way through WebAssembly and V8 costs. Not for anything but that benchmark; x86-64 only.
 */
#pragma once
#include <immintrin.h>
#include <stdint.h>

typedef int32_t v128_t __attribute__((vector_size(16), aligned(16)));

#define SIMD static inline __attribute__((always_inline))
#define I(v) ((__m128i)(v))
#define F(v) ((__m128)(v))
#define V(v) ((v128_t)(v))

SIMD v128_t wasm_v128_load(const void *p) { return V(_mm_loadu_si128((const __m128i *)p)); }
SIMD void wasm_v128_store(void *p, v128_t v) { _mm_storeu_si128((__m128i *)p, I(v)); }
SIMD v128_t wasm_v128_load32_splat(const void *p) { return V(_mm_broadcast_ss((const float *)p)); }
SIMD v128_t wasm_v128_load64_splat(const void *p) { return V(_mm_loaddup_pd((const double *)p)); }
SIMD v128_t wasm_v128_load32_zero(const void *p) { return V(_mm_loadu_si32(p)); }
SIMD v128_t wasm_v128_load64_zero(const void *p) { return V(_mm_loadl_epi64((const __m128i *)p)); }
SIMD v128_t wasm_i16x8_load8x8(const void *p) { return V(_mm_cvtepi8_epi16(_mm_loadl_epi64((const __m128i *)p))); }
SIMD v128_t wasm_u16x8_load8x8(const void *p) { return V(_mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)p))); }
SIMD v128_t wasm_i32x4_load16x4(const void *p) { return V(_mm_cvtepi16_epi32(_mm_loadl_epi64((const __m128i *)p))); }
SIMD v128_t wasm_u32x4_load16x4(const void *p) { return V(_mm_cvtepu16_epi32(_mm_loadl_epi64((const __m128i *)p))); }
#define wasm_v128_store8_lane(p, v, i) (*(uint8_t *)(p) = (uint8_t)_mm_extract_epi8(I(v), i))
#define wasm_v128_store16_lane(p, v, i) _mm_storeu_si16(p, _mm_cvtsi32_si128(_mm_extract_epi16(I(v), i)))
#define wasm_v128_store32_lane(p, v, i) _mm_storeu_si32(p, _mm_cvtsi32_si128(_mm_extract_epi32(I(v), i)))
#define wasm_v128_store64_lane(p, v, i) _mm_storeu_si64(p, (i) ? _mm_unpackhi_epi64(I(v), I(v)) : I(v))

SIMD v128_t wasm_v128_and(v128_t a, v128_t b) { return a & b; }
SIMD v128_t wasm_v128_or(v128_t a, v128_t b) { return a | b; }
SIMD v128_t wasm_v128_xor(v128_t a, v128_t b) { return a ^ b; }
SIMD v128_t wasm_v128_not(v128_t a) { return ~a; }
SIMD v128_t wasm_v128_andnot(v128_t a, v128_t b) { return a & ~b; }
SIMD v128_t wasm_v128_bitselect(v128_t a, v128_t b, v128_t mask) { return (a & mask) | (b & ~mask); }

SIMD v128_t wasm_i8x16_splat(int8_t x) { return V(_mm_set1_epi8(x)); }
SIMD v128_t wasm_i16x8_splat(int16_t x) { return V(_mm_set1_epi16(x)); }
SIMD v128_t wasm_i32x4_splat(int32_t x) { return V(_mm_set1_epi32(x)); }
SIMD v128_t wasm_f32x4_splat(float x) { return V(_mm_set1_ps(x)); }
#define wasm_i8x16_const_splat wasm_i8x16_splat
#define wasm_i16x8_const_splat wasm_i16x8_splat
#define wasm_i32x4_const_splat wasm_i32x4_splat
#define wasm_f32x4_const_splat wasm_f32x4_splat
#define wasm_i32x4_const(a, b, c, d) V(_mm_setr_epi32(a, b, c, d))
#define wasm_i32x4_make wasm_i32x4_const
#define wasm_f32x4_make(a, b, c, d) V(_mm_setr_ps(a, b, c, d))
#define wasm_i32x4_extract_lane(v, i) ((v)[i])
#define wasm_f32x4_extract_lane(v, i) (((__v4sf)(v))[i])

SIMD v128_t wasm_i16x8_shl(v128_t v, uint32_t n) { return V(_mm_sll_epi16(I(v), _mm_cvtsi32_si128((int)n))); }
SIMD v128_t wasm_i16x8_shr(v128_t v, uint32_t n) { return V(_mm_sra_epi16(I(v), _mm_cvtsi32_si128((int)n))); }
SIMD v128_t wasm_u16x8_shr(v128_t v, uint32_t n) { return V(_mm_srl_epi16(I(v), _mm_cvtsi32_si128((int)n))); }
SIMD v128_t wasm_i32x4_shl(v128_t v, uint32_t n) { return v << (int)n; }
SIMD v128_t wasm_i32x4_shr(v128_t v, uint32_t n) { return v >> (int)n; }
SIMD v128_t wasm_u32x4_shr(v128_t v, uint32_t n) { return V((__v4su)v >> n); }

SIMD v128_t wasm_i8x16_add(v128_t a, v128_t b) { return V(_mm_add_epi8(I(a), I(b))); }
SIMD v128_t wasm_i8x16_sub(v128_t a, v128_t b) { return V(_mm_sub_epi8(I(a), I(b))); }
SIMD v128_t wasm_i16x8_add(v128_t a, v128_t b) { return V(_mm_add_epi16(I(a), I(b))); }
SIMD v128_t wasm_i16x8_sub(v128_t a, v128_t b) { return V(_mm_sub_epi16(I(a), I(b))); }
SIMD v128_t wasm_i16x8_mul(v128_t a, v128_t b) { return V(_mm_mullo_epi16(I(a), I(b))); }
SIMD v128_t wasm_i32x4_add(v128_t a, v128_t b) { return V(_mm_add_epi32(I(a), I(b))); }
SIMD v128_t wasm_i32x4_sub(v128_t a, v128_t b) { return V(_mm_sub_epi32(I(a), I(b))); }
SIMD v128_t wasm_i32x4_mul(v128_t a, v128_t b) { return V(_mm_mullo_epi32(I(a), I(b))); }
SIMD v128_t wasm_i32x4_neg(v128_t a) { return V(_mm_sub_epi32(_mm_setzero_si128(), I(a))); }
SIMD v128_t wasm_i32x4_abs(v128_t a) { return V(_mm_abs_epi32(I(a))); }
SIMD v128_t wasm_i32x4_min(v128_t a, v128_t b) { return V(_mm_min_epi32(I(a), I(b))); }
SIMD v128_t wasm_i32x4_max(v128_t a, v128_t b) { return V(_mm_max_epi32(I(a), I(b))); }
SIMD v128_t wasm_u32x4_min(v128_t a, v128_t b) { return V(_mm_min_epu32(I(a), I(b))); }
SIMD v128_t wasm_u32x4_max(v128_t a, v128_t b) { return V(_mm_max_epu32(I(a), I(b))); }
SIMD v128_t wasm_i32x4_eq(v128_t a, v128_t b) { return V(a == b); }
SIMD v128_t wasm_i32x4_lt(v128_t a, v128_t b) { return V(a < b); }
SIMD v128_t wasm_i32x4_gt(v128_t a, v128_t b) { return V(a > b); }
SIMD v128_t wasm_i32x4_dot_i16x8(v128_t a, v128_t b) { return V(_mm_madd_epi16(I(a), I(b))); }
SIMD v128_t wasm_i8x16_narrow_i16x8(v128_t a, v128_t b) { return V(_mm_packs_epi16(I(a), I(b))); }
SIMD v128_t wasm_u8x16_narrow_i16x8(v128_t a, v128_t b) { return V(_mm_packus_epi16(I(a), I(b))); }
SIMD v128_t wasm_i16x8_narrow_i32x4(v128_t a, v128_t b) { return V(_mm_packs_epi32(I(a), I(b))); }
SIMD v128_t wasm_u16x8_narrow_i32x4(v128_t a, v128_t b) { return V(_mm_packus_epi32(I(a), I(b))); }
SIMD v128_t wasm_i16x8_extend_low_i8x16(v128_t v) { return V(_mm_cvtepi8_epi16(I(v))); }
SIMD v128_t wasm_i16x8_extend_high_i8x16(v128_t v) { return V(_mm_cvtepi8_epi16(_mm_unpackhi_epi64(I(v), I(v)))); }
SIMD v128_t wasm_u16x8_extend_low_u8x16(v128_t v) { return V(_mm_cvtepu8_epi16(I(v))); }
SIMD v128_t wasm_u16x8_extend_high_u8x16(v128_t v) { return V(_mm_cvtepu8_epi16(_mm_unpackhi_epi64(I(v), I(v)))); }
SIMD v128_t wasm_i32x4_extend_low_i16x8(v128_t v) { return V(_mm_cvtepi16_epi32(I(v))); }
SIMD v128_t wasm_i32x4_extend_high_i16x8(v128_t v) { return V(_mm_cvtepi16_epi32(_mm_unpackhi_epi64(I(v), I(v)))); }
SIMD v128_t wasm_u32x4_extend_low_u16x8(v128_t v) { return V(_mm_cvtepu16_epi32(I(v))); }
SIMD v128_t wasm_u32x4_extend_high_u16x8(v128_t v) { return V(_mm_cvtepu16_epi32(_mm_unpackhi_epi64(I(v), I(v)))); }

SIMD v128_t wasm_f32x4_add(v128_t a, v128_t b) { return V(_mm_add_ps(F(a), F(b))); }
SIMD v128_t wasm_f32x4_sub(v128_t a, v128_t b) { return V(_mm_sub_ps(F(a), F(b))); }
SIMD v128_t wasm_f32x4_mul(v128_t a, v128_t b) { return V(_mm_mul_ps(F(a), F(b))); }
SIMD v128_t wasm_f32x4_div(v128_t a, v128_t b) { return V(_mm_div_ps(F(a), F(b))); }
SIMD v128_t wasm_f32x4_abs(v128_t a) { return a & wasm_i32x4_splat(0x7fffffff); }
SIMD v128_t wasm_f32x4_pmax(v128_t a, v128_t b) { return V(_mm_max_ps(F(b), F(a))); }
SIMD v128_t wasm_f32x4_pmin(v128_t a, v128_t b) { return V(_mm_min_ps(F(b), F(a))); }
SIMD v128_t wasm_f32x4_max(v128_t a, v128_t b) { return V(_mm_max_ps(F(a), F(b))); }
SIMD v128_t wasm_f32x4_min(v128_t a, v128_t b) { return V(_mm_min_ps(F(a), F(b))); }
SIMD v128_t wasm_f32x4_gt(v128_t a, v128_t b) { return V(_mm_cmp_ps(F(a), F(b), _CMP_GT_OQ)); }
SIMD v128_t wasm_f32x4_ge(v128_t a, v128_t b) { return V(_mm_cmp_ps(F(a), F(b), _CMP_GE_OQ)); }
SIMD v128_t wasm_f32x4_lt(v128_t a, v128_t b) { return V(_mm_cmp_ps(F(a), F(b), _CMP_LT_OQ)); }
SIMD v128_t wasm_f32x4_le(v128_t a, v128_t b) { return V(_mm_cmp_ps(F(a), F(b), _CMP_LE_OQ)); }
SIMD v128_t wasm_f32x4_nearest(v128_t a) { return V(_mm_round_ps(F(a), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)); }
SIMD v128_t wasm_f32x4_convert_i32x4(v128_t a) { return V(_mm_cvtepi32_ps(I(a))); }
SIMD v128_t wasm_i32x4_relaxed_trunc_f32x4(v128_t a) { return V(_mm_cvttps_epi32(F(a))); }
SIMD v128_t wasm_f32x4_relaxed_madd(v128_t a, v128_t b, v128_t c) { return V(_mm_fmadd_ps(F(a), F(b), F(c))); }
SIMD v128_t wasm_f32x4_relaxed_nmadd(v128_t a, v128_t b, v128_t c) { return V(_mm_fnmadd_ps(F(a), F(b), F(c))); }
#define wasm_f32x4_relaxed_max wasm_f32x4_max
#define wasm_f32x4_relaxed_min wasm_f32x4_min
#define wasm_i32x4_relaxed_laneselect wasm_v128_bitselect

/* As V8 compiles it: the second operand is the unsigned one. */
SIMD v128_t wasm_i32x4_relaxed_dot_i8x16_i7x16_add(v128_t a, v128_t b, v128_t c) {
#if defined(__AVXVNNI__)
  return V(_mm_dpbusd_avx_epi32(I(c), I(b), I(a)));
#elif defined(__AVX512VNNI__) && defined(__AVX512VL__)
  return V(_mm_dpbusd_epi32(I(c), I(b), I(a)));
#else
  return V(_mm_add_epi32(I(c), _mm_madd_epi16(_mm_maddubs_epi16(I(b), I(a)), _mm_set1_epi16(1))));
#endif
}

#define wasm_i8x16_shuffle(a, b, ...) V(__builtin_shufflevector((__v16qi)(a), (__v16qi)(b), __VA_ARGS__))
#define wasm_i16x8_shuffle(a, b, ...) V(__builtin_shufflevector((__v8hi)(a), (__v8hi)(b), __VA_ARGS__))
#define wasm_i32x4_shuffle(a, b, ...) V(__builtin_shufflevector((__v4si)(a), (__v4si)(b), __VA_ARGS__))
#define wasm_i64x2_shuffle(a, b, ...) V(__builtin_shufflevector((__v2di)(a), (__v2di)(b), __VA_ARGS__))
SIMD v128_t wasm_i8x16_relaxed_swizzle(v128_t a, v128_t b) { return V(_mm_shuffle_epi8(I(a), I(b))); }
