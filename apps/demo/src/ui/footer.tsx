/** What this is made of, and where to read on. */
export function Footer() {
  return (
    <footer class="bottom">
      <p>
        Glinthawk runs language models on two tiers: weights on one, keys and values on the other. The idea is from the
        paper <cite>Glinthawk: A Two-Tiered Architecture for Offline LLM Inference</cite> (arXiv 2501.11779). This page
        runs the same engine as its command line.
      </p>
      <p>
        In its repository: <code>docs/architecture.md</code>, <code>docs/protocol.md</code>,{' '}
        <code>docs/performance.md</code>, <code>docs/cli.md</code>. MIT licence.
      </p>
    </footer>
  );
}
