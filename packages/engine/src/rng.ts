/**
 * The draws of seeded sampling. There is no state: draw i of seed s is a pure function of (s, i), so that a sequence that was
 * preempted, moved or resumed draws the same numbers again. SplitMix64's finaliser (Steele, Lea, Flood, "Fast splittable
 * pseudorandom number generators", OOPSLA 2014, with Stafford's mix 13) is applied to the seed, and then to the seed plus
 * i + 1 golden gammas; mixing the seed first keeps the streams of neighbouring seeds apart.
 */
const mask = 0xffffffffffffffffn;
const goldenGamma = 0x9e3779b97f4a7c15n;

export function mix64(value: bigint): bigint {
  let z = value & mask;
  z = ((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n) & mask;
  z = ((z ^ (z >> 27n)) * 0x94d049bb133111ebn) & mask;
  return z ^ (z >> 31n);
}

/** Uniform in [0, 1), a multiple of 2^-53. `seed` is taken modulo 2^64. */
export function uniform(seed: bigint, index: number): number {
  const bits = mix64(mix64(seed) + goldenGamma * BigInt(index + 1));
  return Number(bits >> 11n) * 2 ** -53;
}
