/** The whole page takes drops: a model's files or folder, or a JSONL file of requests. Shows what a drop would do while one hovers. */
import { InputError } from '@glinthawk/core';
import { useSignal } from '@preact/signals';
import { useEffect } from 'preact/hooks';
import { type LocalFile, type LocalModel, localModel } from '../state/local-files.ts';
import { MAX_SHOWN_BYTES } from './batch-panel.tsx';
import { filesOfDrop } from './picked-files.ts';

interface Props {
  readonly onModel: (model: LocalModel) => void;
  readonly onBatch: (text: string) => void;
  readonly onFault: (thrown: unknown) => void;
}

export function DropTarget({ onModel, onBatch, onFault }: Props) {
  const hovering = useSignal(false);

  useEffect(() => {
    async function take(transfer: DataTransfer): Promise<void> {
      const files = await filesOfDrop(transfer);
      const requests = requestsAmong(files);
      if (requests === null) return onModel(localModel(files));
      if (requests.size > MAX_SHOWN_BYTES)
        throw new InputError(
          'BATCH_TOO_LARGE_TO_DROP',
          'a dropped JSONL file is shown for editing, and this one is too large',
          {
            hint: 'use “Choose a JSONL file” under Generate, Batch: it takes files of any size',
          },
        );
      onBatch(await requests.text());
    }
    const onDragOver = (event: DragEvent): void => {
      if (event.dataTransfer?.types.includes('Files') !== true) return;
      event.preventDefault();
      hovering.value = true;
    };
    const onDragLeave = (event: DragEvent): void => {
      if (event.relatedTarget === null) hovering.value = false;
    };
    const onDrop = (event: DragEvent): void => {
      hovering.value = false;
      if (event.dataTransfer?.types.includes('Files') !== true) return;
      event.preventDefault();
      take(event.dataTransfer).catch(onFault);
    };
    document.addEventListener('dragover', onDragOver);
    document.addEventListener('dragleave', onDragLeave);
    document.addEventListener('drop', onDrop);
    return () => {
      document.removeEventListener('dragover', onDragOver);
      document.removeEventListener('dragleave', onDragLeave);
      document.removeEventListener('drop', onDrop);
    };
  }, [onModel, onBatch, onFault, hovering]);

  if (!hovering.value) return null;
  return (
    <div class="drop-shade" aria-hidden="true">
      <p>Drop a model (.gguf, or its folder) or requests (.jsonl)</p>
    </div>
  );
}

function requestsAmong(files: readonly LocalFile[]): Blob | null {
  const [only] = files;
  return files.length === 1 && only !== undefined && /\.(jsonl|ndjson)$/i.test(only.path) ? only.blob : null;
}
