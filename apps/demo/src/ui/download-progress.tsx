/** How far a download is, how fast, and a way to stop it; what is here by then is kept. */
import { secondsLeft } from '../state/download-state.ts';
import type { Downloads } from '../state/downloads.ts';
import { formatBytes, formatDuration } from '../state/format.ts';
import type { RemoteModel } from '../store/store-api.ts';
import { ProgressBar } from './progress-bar.tsx';

export function DownloadProgressView({
  downloads,
  remote,
}: {
  readonly downloads: Downloads;
  readonly remote: RemoteModel;
}) {
  const progress = downloads.state.value.download?.progress ?? null;
  const left = progress === null ? null : secondsLeft(progress);
  return (
    <div class="downloading">
      <ProgressBar
        label={`Download of ${remote.name}`}
        share={progress === null ? null : progress.bytesDone / Math.max(1, progress.bytesTotal)}
      />
      <p class="note">
        {progress === null
          ? 'Beginning…'
          : `${formatBytes(progress.bytesDone)} of ${formatBytes(progress.bytesTotal)}, ${formatBytes(progress.bytesPerSecond)}/s`}
        {left === null ? '' : `, ${formatDuration(left * 1000)} left`}
        {progress !== null && progress.retrying !== null && (
          <span class="is-warn"> Trying again: {progress.retrying}</span>
        )}
      </p>
      {progress !== null && progress.note !== null && <p class="note is-warn">{progress.note}</p>}
      <div class="actions">
        <button type="button" onClick={downloads.stop}>
          Stop download
        </button>
      </div>
    </div>
  );
}
