/** A batch job's files: the input read twice, the journal, the outputs that follow from it, the lock. */
export * from './disk.ts';
export * from './input-file.ts';
export * from './job.ts';
export type { JobHeader, Receipt } from './journal.ts';
export * from './lock.ts';
