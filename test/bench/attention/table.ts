/** Tables of text in columns that fit 120 characters, or of Markdown. The first column is words, the others are figures. */

export interface Table {
  readonly heads: readonly string[];
  readonly rows: readonly (readonly string[])[];
}

export function formatTable({ heads, rows }: Table, markdown: boolean): string {
  const all = [heads, ...rows];
  const widths = heads.map((_, column) => Math.max(...all.map((row) => (row[column] ?? '').length)));
  const line = (row: readonly string[]) => {
    const cells = heads.map((_, i) =>
      i === 0 ? (row[i] ?? '').padEnd(widths[i] ?? 0) : (row[i] ?? '').padStart(widths[i] ?? 0),
    );
    return markdown
      ? `| ${(row === heads ? heads : row).map((cell, i) => cells[i] ?? cell).join(' | ')} |`
      : cells.join('  ').trimEnd();
  };
  const rule = markdown
    ? `|${heads.map((_, i) => (i === 0 ? '---|' : '---:|')).join('')}`
    : '-'.repeat(line(heads).length);
  return [line(heads), rule, ...rows.map(line)].join('\n');
}

export const percent = (share: number): string => `${(100 * share).toFixed(0)} %`;

/** Three digits or so: 1.23, 12.3, 123, 12,345. */
export function figure(value: number): string {
  if (value >= 1000) return Math.round(value).toLocaleString('en-US');
  return value.toFixed(value >= 100 ? 0 : value >= 10 ? 1 : 2);
}
