/** Reads Prometheus' text format 0.0.4 by its grammar, and throws at whatever it doesn't allow. */

export interface Exposition {
  /** Type by name of the metric. */
  readonly families: ReadonlyMap<string, string>;
  /** Value by name and labels, as they are written. */
  readonly samples: ReadonlyMap<string, number>;
}

const NAME = '[a-zA-Z_:][a-zA-Z0-9_:]*';
const LABEL = '[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\\\\n]|\\\\["\\\\n])*"';
const HELP = new RegExp(`^# HELP (${NAME}) \\S.*$`);
const TYPE = new RegExp(`^# TYPE (${NAME}) (counter|gauge|histogram|summary|untyped)$`);
const SAMPLE = new RegExp(`^(${NAME})(\\{${LABEL}(?:,${LABEL})*\\})? (\\S+)$`);

export function parseExposition(text: string): Exposition {
  if (!text.endsWith('\n')) throw new Error('the last line has no end');
  const helped = new Set<string>();
  const families = new Map<string, string>();
  const samples = new Map<string, number>();
  let current = '';
  for (const line of text.slice(0, -1).split('\n')) {
    if (line === '') continue;
    const [, help] = HELP.exec(line) ?? [];
    const [, typed, type = ''] = TYPE.exec(line) ?? [];
    const [, name, labels = '', number = ''] = SAMPLE.exec(line) ?? [];
    if (help !== undefined) {
      if (helped.has(help)) throw new Error(`a second HELP: ${line}`);
      helped.add(help);
    } else if (typed !== undefined) {
      if (families.has(typed) || !helped.has(typed)) throw new Error(`a TYPE without HELP, or a second: ${line}`);
      families.set(typed, type);
      current = typed;
    } else if (name !== undefined) {
      const ofFamily = families.get(current) === 'histogram' || families.get(current) === 'summary';
      const own = name === current || (ofFamily && name.replace(/_(bucket|sum|count)$/, '') === current);
      if (!own) throw new Error(`not beside its TYPE: ${line}`);
      if (samples.has(name + labels)) throw new Error(`there twice: ${line}`);
      const value = /^nan$/i.test(number) ? Number.NaN : Number(number.replace(/^([+-])Inf$/, '$1Infinity'));
      if (Number.isNaN(value) && !/^nan$/i.test(number)) throw new Error(`no number: ${line}`);
      samples.set(name + labels, value);
    } else {
      throw new Error(`neither comment nor sample: ${line}`);
    }
  }
  return { families, samples };
}
