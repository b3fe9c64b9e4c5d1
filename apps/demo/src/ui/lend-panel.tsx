/** Lend this tab: to whom, how much, one button; then what it does, live. */
import { type Signal, useSignal } from '@preact/signals';
import { type LendLink, parseLendLink } from '../lend/lend-link.ts';
import type { Lender, LendStatus } from '../lend/lender.ts';
import { MAX_WORKERS, MIB } from '../limits.ts';
import { formatBytes, formatCount } from '../state/format.ts';
import { lendFigures, lendStatusText, workerWords } from '../state/lend-figures.ts';
import { SelectField, Stepper } from './field.tsx';
import { LendAddress } from './lend-address.tsx';

const MEMORIES_MIB = [128, 256, 512, 1024, 2048, 4096] as const;

export function LendPanel(props: {
  readonly lender: Lender;
  readonly status: Signal<LendStatus>;
  readonly tellThrown: (thrown: unknown) => void;
}) {
  const { lender, tellThrown } = props;
  const link = linkOfPage();
  const workers = useSignal(Math.max(1, Math.floor(navigator.hardwareConcurrency / 2)));
  const memoryMib = useSignal('512');
  const status = props.status.value;

  function start(to: LendLink): void {
    try {
      const memoryBytes = Number(memoryMib.value) * MIB;
      lender.start({ workers: workers.value, url: to.url, token: to.token, memoryBytes });
    } catch (thrown) {
      tellThrown(thrown);
    }
  }

  return (
    <section class="card lend-card" aria-labelledby="lend-heading">
      <h2 id="lend-heading">Lend this tab</h2>
      <p class="lend-lead">
        A model is at work elsewhere. This tab can hold part of its <strong class="is-attention">attention tier</strong>
        : keep keys and values of its text in memory, and answer which of them matter for the next token.
      </p>
      {'fault' in link ? <BadLink fault={link.fault} tellThrown={tellThrown} /> : <Job link={link} />}
      {!('fault' in link) && (
        <>
          <div class="fields lend-fields">
            <Stepper
              label="Workers"
              value={workers.value}
              low={1}
              high={MAX_WORKERS}
              disabled={status.lending}
              hint={`this device has ${navigator.hardwareConcurrency} cores`}
              onChange={(value) => {
                workers.value = value;
              }}
            />
            <SelectField
              label="Memory at most"
              value={memoryMib.value}
              choices={MEMORIES_MIB.map((mib) => ({ value: String(mib), label: formatBytes(mib * MIB) }))}
              hint="taken as it is used"
              onChange={(value) => {
                memoryMib.value = value;
              }}
            />
          </div>
          <div class="actions lend-actions">
            <button type="button" class="primary big" disabled={status.lending} onClick={() => start(link)}>
              Lend
            </button>
            <button
              type="button"
              class="big"
              disabled={!status.lending}
              onClick={() => void lender.stop().catch(tellThrown)}
            >
              Stop lending
            </button>
            <p role="status" aria-label="Lending status">
              {lendStatusText(status)}
            </p>
          </div>
          {status.workers.length > 0 && <LendLive status={status} />}
        </>
      )}
      <Promises />
    </section>
  );
}

function linkOfPage(): LendLink | { readonly fault: unknown } {
  try {
    const link = parseLendLink(location.hash, location.href);
    return link ?? { fault: new Error('the address names no job') };
  } catch (thrown) {
    return { fault: thrown };
  }
}

function BadLink({ fault, tellThrown }: { readonly fault: unknown; readonly tellThrown: (thrown: unknown) => void }) {
  return (
    <>
      <p class="is-bad">This link can’t be used: {fault instanceof Error ? fault.message : String(fault)}.</p>
      <LendAddress tellThrown={tellThrown} />
    </>
  );
}

function Job({ link }: { readonly link: LendLink }) {
  return (
    <dl class="facts">
      <div>
        <dt>Serves the job at</dt>
        <dd>
          <code>{link.url}</code>
        </dd>
      </div>
      <div>
        <dt>Join token</dt>
        <dd>
          {link.token === null
            ? 'none in the link: the job may refuse'
            : "in the link, and so in this tab's address and history; kept nowhere else"}
        </dd>
      </div>
    </dl>
  );
}

function LendLive({ status }: { readonly status: LendStatus }) {
  const figures = lendFigures(status);
  const busy = Math.round(figures.busyShare * 100);
  const rows = [
    ['Connected', `${figures.connected} of ${figures.workers}`],
    [
      'Blocks held',
      `${formatCount(figures.usedBlocks)} of ${formatCount(figures.blocks)}, ${formatBytes(figures.bytesHeld)}`,
    ],
    ['Sequences', formatCount(figures.slots)],
    ['Attends', formatCount(figures.attends)],
    ['Received', formatBytes(figures.bytesIn)],
    ['Sent', formatBytes(figures.bytesOut)],
    ['Busy', `${busy} %`],
  ] as const;
  return (
    <div class="lend-live">
      <dl class="figures-grid">
        {rows.map(([label, value]) => (
          <div key={label}>
            <dt>{label}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
      <ul class="lent-workers" aria-label="Workers of this tab">
        {status.workers.map((worker) => (
          <li key={worker.name} class={worker.state}>
            <span class="lent-name">{worker.name}</span>
            <span class="busy-bar" aria-hidden="true">
              <span style={{ width: `${share(worker.usedBlocks, worker.blocks)}%` }} />
            </span>
            <span class="note">{workerWords(worker)}</span>
          </li>
        ))}
      </ul>
    </div>
  );
}

function share(used: number, all: number): number {
  return all === 0 ? 0 : Math.round((used / all) * 100);
}

function Promises() {
  return (
    <ul class="promises">
      <li>
        <strong>What is computed:</strong> attention only. Vectors come in, vectors go out; no weights and no words
        reach this tab, and no file of yours is read.
      </li>
      <li>
        <strong>Closing the tab loses nothing.</strong> The job knows every token; what was held here is computed again
        elsewhere.
      </li>
      <li>
        <strong>It ends when you say so:</strong> with the button, or by closing the tab. In the background it goes on.
      </li>
    </ul>
  );
}
