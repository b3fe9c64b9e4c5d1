/**
 * exp for the two loops that need millions of them a step: SwiGLU and the head's log-sum-exp. Table and cubic instead of
 * Math.exp: the same to 4e-16 relative, several times faster in V8, and the same bits on every machine.
 */
const STEPS = 2048; // table entries an octave
const STEPS_PER_UNIT = STEPS / Math.LN2;
// ln 2 / 2048 in two parts (Cody and Waite): the high one has 24 trailing zero bits, so that k · high is exact.
const STEP_HIGH = Math.fround(Math.LN2 / STEPS);
const STEP_LOW = Math.LN2 / STEPS - STEP_HIGH;
/** Adding and subtracting 1.5 · 2^52 rounds a double to the nearest integer. */
const ROUND = 6755399441055744;
/** Below this exp is under 1e-307; callers add it to numbers near 1. */
const SMALLEST = -707;
const LARGEST = 709;

const fractions = Float64Array.from({ length: STEPS }, (_, i) => 2 ** (i / STEPS));
const octaves = Float64Array.from({ length: 2048 }, (_, i) => 2 ** (i - 1023)); // [exponent + 1023]

/** e^x; 0 below −707, Infinity above 709. */
export function exponential(x: number): number {
  if (!(x >= SMALLEST && x <= LARGEST)) return x < SMALLEST ? 0 : x > LARGEST ? Infinity : Number.NaN;
  const k = x * STEPS_PER_UNIT + ROUND - ROUND;
  const r = x - k * STEP_HIGH - k * STEP_LOW; // |r| < 1.7e-4
  const step = k | 0;
  const scale = (fractions[step & (STEPS - 1)] as number) * (octaves[(step >> 11) + 1023] as number);
  return scale + scale * (r + r * r * (0.5 + r * (1 / 6)));
}
