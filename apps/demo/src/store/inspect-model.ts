/**
 * What a person should know of a model before a byte of it is stored: how large, how many parameters, whether it fits here and runs here.
 * Reads headers by ranges where the server has them, and weights never.
 */
import { UnsupportedError } from '@glinthawk/core';
import { describeModel, openModelFiles } from '@glinthawk/model';
import { formatBytes } from '../state/format.ts';
import { wasmWeightBytes } from '../weight-bytes.ts';
import { CONFIG_FILE, isSingle } from './file-names.ts';
import { type LocateOptions, locateModel } from './locate-model.ts';
import { modelId, nameOfSource } from './model-source.ts';
import { remoteFiles } from './range-source.ts';
import type { ModelSource, RemoteFile, RemoteModel } from './store-api.ts';
import {
  isSameFile,
  modelDirectory,
  readDownload,
  readManifest,
  sizesHere,
  storageQuota,
  total,
} from './store-directory.ts';

/** A WebAssembly memory of 32-bit addresses ends there; each dense worker has one. */
const WORKER_BYTES = 4 * 2 ** 30;
/** Of the memory that a device says it has, in GiB: browsers tell no more than 8. */
const MAX_TOLD_GIB = 8;
/** What the engine has no use for while only sizes are looked at, and may be megabytes. */
const TEXT_FILES: ReadonlySet<string> = new Set(['tokenizer.json', 'tokenizer_config.json', 'chat_template.jinja']);

/** @throws InputError, ModelFormatError, NetworkError, AbortedError */
export async function inspectModel(source: ModelSource, options: LocateOptions): Promise<RemoteModel> {
  const { files, choices } = await locateModel(source, options);
  const name = nameOfSource(source);
  const figures = await readFigures(name, files, options);
  const bytes = total(files);
  const bytesHere = await bytesOfEarlier(source, files);
  const { quota, used, room } = await storageQuota();
  const obstacles = [
    ...(files.length === 0 ? [`This repository has ${choices.length} GGUF files: choose one of them.`] : []),
    ...(figures.unsupported === null ? [] : [figures.unsupported]),
    ...roomObstacle(bytes - bytesHere, room),
    ...memoryObstacles(figures.wasmWeightBytes),
    ...textObstacle(files),
  ];
  return {
    source,
    name,
    files,
    choices,
    bytes,
    bytesHere,
    parameters: figures.parameters,
    wasmWeightBytes: figures.wasmWeightBytes,
    quotaBytes: quota,
    usedBytes: used,
    obstacles,
  };
}

interface Figures {
  readonly parameters: number | null;
  readonly wasmWeightBytes: number | null;
  readonly unsupported: string | null;
}

async function readFigures(name: string, files: readonly RemoteFile[], options: LocateOptions): Promise<Figures> {
  const nothing = { parameters: null, wasmWeightBytes: null, unsupported: null };
  if (files.length === 0 || !files.every((file) => file.acceptsRanges)) return nothing;
  const wanted = files.filter((file) => !TEXT_FILES.has(file.name));
  try {
    const model = await openModelFiles(remoteFiles(name, wanted, isSingle(files), options), { headersOnly: true });
    try {
      const { parameters } = describeModel(model);
      return { parameters, wasmWeightBytes: wasmWeightBytes(model, parameters), unsupported: null };
    } finally {
      await model.close();
    }
  } catch (thrown) {
    if (!(thrown instanceof UnsupportedError)) throw thrown;
    const unsupported = `This version can't run it: ${thrown.message}.${thrown.hint === undefined ? '' : ` ${thrown.hint}`}`;
    return { ...nothing, unsupported };
  }
}

async function bytesOfEarlier(source: ModelSource, files: readonly RemoteFile[]): Promise<number> {
  const directory = await modelDirectory(await modelId(source));
  if (directory === null) return 0;
  const known = [...((await readDownload(directory))?.files ?? []), ...((await readManifest(directory))?.files ?? [])];
  const sizes = await sizesHere(directory);
  return files.reduce((sum, file) => {
    const here = known.filter((record) => isSameFile(record, file)).map(({ at }) => sizes.get(at) ?? 0);
    return sum + Math.min(Math.max(0, ...here), file.bytes);
  }, 0);
}

function roomObstacle(needed: number, room: number | null): readonly string[] {
  if (room === null || needed <= room) return [];
  return [
    `It needs ${formatBytes(needed)} of storage, but this browser has ${formatBytes(room)} left for this page: ${formatBytes(needed - room)} are missing. Delete another model, or open its files from disk.`,
  ];
}

function memoryObstacles(weightBytes: number | null): readonly string[] {
  if (weightBytes === null) return [];
  const obstacles: string[] = [];
  const workers = globalThis.crossOriginIsolated ? Math.max(1, navigator.hardwareConcurrency) : 1;
  if (weightBytes > workers * WORKER_BYTES) {
    obstacles.push(
      `On the WASM tier its weights take ${formatBytes(weightBytes)} (32-bit floats), and a worker's memory ends at 4 GiB: ${workers === 1 ? 'one worker' : `${workers} workers`} can't hold them. A GPU may, with half of that as 16-bit floats.`,
    );
  }
  const deviceGib =
    'deviceMemory' in navigator && typeof navigator.deviceMemory === 'number' ? navigator.deviceMemory : null;
  if (deviceGib !== null && deviceGib < MAX_TOLD_GIB && weightBytes > deviceGib * 2 ** 30) {
    obstacles.push(
      `On the WASM tier its weights take ${formatBytes(weightBytes)}, and this device has some ${deviceGib} GiB of memory.`,
    );
  }
  return obstacles;
}

function textObstacle(files: readonly RemoteFile[]): readonly string[] {
  const folder = files.some((file) => file.name === CONFIG_FILE);
  if (!folder || files.some((file) => file.name === 'tokenizer.json')) return [];
  return ['It has no tokenizer.json, so that it takes no text.'];
}
