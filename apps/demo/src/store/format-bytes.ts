/** Byte counts for people, in the decimal units that browsers and disks are sold in. */

const UNITS = ['bytes', 'kB', 'MB', 'GB', 'TB'] as const;

/** `999 bytes`, `1.2 kB`, `12 MB`, `4.3 GB`. */
export function formatBytes(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${unit === 0 || value >= 9.95 ? Math.round(value) : value.toFixed(1)} ${UNITS[unit]}`;
}
