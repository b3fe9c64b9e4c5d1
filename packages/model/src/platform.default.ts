/** Where there are no paths (browsers): a model is opened from files instead. */
import { UnsupportedError } from '@glinthawk/core';
import type { ModelFiles } from './file-source.ts';

/** @throws UnsupportedError always. */
export async function openPath(path: string): Promise<ModelFiles> {
  throw new UnsupportedError('UNSUPPORTED_PATH', `there is no file system here to open ${path} from`, {
    hint: 'Use openModelFiles with Blobs or another FileSource.',
  });
}
