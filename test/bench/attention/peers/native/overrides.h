/* What simd.h says to clang for WebAssembly, said to the native compiler; stands behind its own definitions. */
#undef UNROLL
#undef ROLLED
#undef PIN
#undef EXPORT
#define EXPORT(name)
#define PIN(v) __asm__ volatile("" : "+x"(v))
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#define ROLLED _Pragma("clang loop unroll(disable)")
#else
#define UNROLL _Pragma("GCC unroll 64")
#define ROLLED _Pragma("GCC unroll 1")
#endif
