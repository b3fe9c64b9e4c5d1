/** Failures and remarks, each with what to do about it, until dismissed. A polite live region. */
import type { AppState } from '../state/app-state.ts';
import type { Notice } from '../state/notices.ts';

export function Notices({ app }: { readonly app: Pick<AppState, 'notices' | 'dismiss'> }) {
  return (
    <section class="notices" aria-label="Notices" aria-live="polite">
      {app.notices.value.map((notice) => (
        <NoticeCard key={notice.id} notice={notice} onDismiss={() => app.dismiss(notice.id)} />
      ))}
    </section>
  );
}

const LEVEL_NAMES: Readonly<Record<Notice['level'], string>> = { info: 'Note', warn: 'Warning', error: 'Failed' };

function NoticeCard({ notice, onDismiss }: { readonly notice: Notice; readonly onDismiss: () => void }) {
  return (
    <div class={`notice ${notice.level}`}>
      <p>
        <strong>{LEVEL_NAMES[notice.level]}.</strong> {notice.text}
        {notice.count > 1 && <span class="count"> {notice.count} times.</span>}
        {notice.hint !== null && <span class="hint">{notice.hint}</span>}
      </p>
      <button type="button" class="quiet" aria-label={`Dismiss: ${notice.text}`} onClick={onDismiss}>
        Dismiss
      </button>
    </div>
  );
}
