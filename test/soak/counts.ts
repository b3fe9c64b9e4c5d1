/** What happened in a stretch of traffic, for people. */
export interface Counts {
  actions: number;
  steps: number;
  rows: number;
  appended: number;
  visited: number;
  forks: number;
  frees: number;
  preempted: number;
  aborted: number;
  refused: number;
  /** Outputs of one head of one row. */
  compared: number;
  /** Times that a backend's blocks and slots were what the model says, and how many of those with steps under way. */
  accounts: number;
  accountsUnderWay: number;
  /** Actions after which no shard had a block more than its groups would take. */
  full: number;
  longest: number;
}

export function noCounts(): Counts {
  return {
    actions: 0,
    steps: 0,
    rows: 0,
    appended: 0,
    visited: 0,
    forks: 0,
    frees: 0,
    preempted: 0,
    aborted: 0,
    refused: 0,
    compared: 0,
    accounts: 0,
    accountsUnderWay: 0,
    full: 0,
    longest: 0,
  };
}

const text = (count: number) => count.toLocaleString('en-US');

export function countsText(counts: Counts): string {
  const { actions, steps, rows, appended, visited, forks, frees, preempted, aborted, refused } = counts;
  return [
    `${text(actions)} actions: ${text(steps)} steps, ${text(rows)} rows (${text(appended)} tokens appended, ${text(visited)} rows visiting), longest ${text(counts.longest)}`,
    `${text(forks)} forks, ${text(frees)} freed, ${text(preempted)} preempted, ${text(aborted)} given up, ${text(refused)} refused; full after ${text(counts.full)}`,
    `${text(counts.compared)} outputs compared, blocks and slots ${text(counts.accounts)} times (${text(counts.accountsUnderWay)} with steps under way)`,
  ].join('; ');
}
