/** The way to the other page: lend this tab to a job that runs elsewhere. */
import { LendAddress } from './lend-address.tsx';

export function LendLink({ tellThrown }: { readonly tellThrown: (thrown: unknown) => void }) {
  return (
    <section class="card lend-card" aria-labelledby="lend-heading">
      <h2 id="lend-heading">Lend this tab</h2>
      <p class="lend-lead">
        A job that runs elsewhere can use this tab as part of its attention tier: <code>glinthawk run</code> with{' '}
        <code>--attention ws-listen://…</code> prints a link for it. Closing the tab loses nothing.
      </p>
      <LendAddress tellThrown={tellThrown} />
    </section>
  );
}
