/**
 * exp for the two loops that need millions of them a step: SwiGLU and the head's log-sum-exp. A table and a cubic: within 4e-15
 * of Math.exp relatively, four times as fast in V8 (2 ns against 8), and the same bits on every machine.
 */
const STEPS = 2048; // table entries an octave
const STEPS_PER_UNIT = STEPS / Math.LN2;
// ln 2 / 2048 in two parts (Cody and Waite): the high one has 29 trailing zero bits, so that k · high is exact.
const STEP_HIGH = Math.fround(Math.LN2 / STEPS);
const STEP_LOW = (Math.LN2 - STEP_HIGH * STEPS + 2.3190468138462996e-17) / STEPS; // with what Math.LN2 lacks of ln 2
/** Adding and subtracting 1.5 · 2^52 rounds a double to the nearest integer. */
const ROUND = 6755399441055744;
/** e^±700 is a normal double; a larger argument differs from it only where the result is lost in 1 + e^x anyway. */
const LIMIT = 700;

const fractions = Float64Array.from({ length: STEPS }, (_, i) => 2 ** (i / STEPS));
const octaves = Float64Array.from({ length: 2048 }, (_, i) => 2 ** (i - 1023)); // [exponent + 1023]

/** e^x, x taken as −700 or 700 beyond those. Clamped, not branched on: with branches V8 doesn't inline it (9 ns). NaN gives NaN. */
export function exponential(x: number): number {
  const clamped = Math.max(-LIMIT, Math.min(LIMIT, x));
  const k = clamped * STEPS_PER_UNIT + ROUND - ROUND;
  const r = clamped - k * STEP_HIGH - k * STEP_LOW; // |r| < 1.7e-4
  const step = k | 0;
  const scale = (fractions[step & (STEPS - 1)] as number) * (octaves[(step >> 11) + 1023] as number);
  return scale + scale * (r + r * r * (0.5 + r * (1 / 6)));
}
