/** The KV memory as a filling map: a grid a node, a cell for one or several blocks, a colour a sequence, free ones empty. */
import { useSignal } from '@preact/signals';
import { useEffect, useRef } from 'preact/hooks';
import { formatBytes } from '../state/format.ts';
import { blocksPerCell, cellGrid, KvPlaces, slicesOf } from './kv-cells.ts';
import { sequenceColour } from './palette.ts';
import type { SampleLog } from './sample-log.ts';
import { readTheme, type Theme, watchTheme } from './theme.ts';

export interface KvMapProps {
  readonly log: SampleLog;
  readonly nodeName: (node: number) => string;
}

const MAX_NODES = 12;

export function KvMap({ log, nodeName }: KvMapProps) {
  const nodes = useSignal(0);
  useEffect(
    () =>
      log.subscribe(() => {
        nodes.value = log.nodes.length;
      }),
    [log],
  );
  const shown = Math.min(nodes.value, MAX_NODES);
  return (
    <div class="see-kv">
      {Array.from({ length: shown }, (_, node) => (
        <KvNode key={node} log={log} node={node} name={nodeName(node)} />
      ))}
      {nodes.value > shown && <p class="see-hint">and {nodes.value - shown} more nodes</p>}
      {nodes.value === 0 && <p class="see-hint">No KV memory yet: open a model first.</p>}
    </div>
  );
}

interface KvFigures {
  readonly used: number;
  readonly blocks: number;
  readonly blockBytes: number;
  readonly blockTokens: number;
  readonly sequences: number;
  readonly blocksPerCell: number;
  readonly connected: boolean;
}

function KvNode({ log, node, name }: { readonly log: SampleLog; readonly node: number; readonly name: string }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const figures = useSignal<KvFigures | null>(null);
  useEffect(() => {
    const element = canvas.current;
    const context = element?.getContext('2d');
    if (element == null || context == null) return;
    const parent = element.parentElement ?? document.body;
    const places = new KvPlaces();
    let theme = readTheme(parent);
    let drawnVersion = -1;
    let visible = true;
    let width = parent.clientWidth;
    const draw = (again: boolean) => {
      const sample = log.nodes[node];
      if (sample === undefined || !visible || document.hidden || (drawnVersion === log.version && !again)) return;
      drawnVersion = log.version;
      const residents = log.residents.filter((resident) => resident.node === node);
      places.update(sample, residents);
      drawCells(element, context, places.owners, theme, width);
      const { usedBlocks: used, blocks, blockBytes, blockTokens, connected } = sample;
      const sequences = residents.length;
      figures.value = {
        used,
        blocks,
        blockBytes,
        blockTokens,
        sequences,
        connected,
        blocksPerCell: blocksPerCell(blocks, width),
      };
    };
    const redraw = () => {
      theme = readTheme(parent);
      draw(true);
    };
    const resize = new ResizeObserver((entries) => {
      width = Math.floor(entries.at(-1)?.contentRect.width ?? width);
      redraw();
    });
    resize.observe(parent);
    const sight = new IntersectionObserver((entries) => {
      visible = entries.at(-1)?.isIntersecting ?? true;
      // Its width may have changed while nobody saw it.
      draw(true);
    });
    sight.observe(element);
    const undo = [
      log.subscribe(() => draw(false)),
      watchTheme(redraw),
      () => resize.disconnect(),
      () => sight.disconnect(),
    ];
    return () => {
      for (const each of undo) each();
    };
  }, [log, node]);
  const now = figures.value;
  const words = now === null ? 'empty' : figuresInWords(now);
  return (
    <figure class="see-kv-node">
      <figcaption>
        <b class="see-kv-name">{name}</b> <span>{words}</span>
      </figcaption>
      <div>
        <canvas ref={canvas} role="img" aria-label={`KV blocks of ${name}: ${words}`} />
      </div>
    </figure>
  );
}

function figuresInWords(now: KvFigures): string {
  if (!now.connected) return 'not connected';
  const each = now.blocksPerCell === 1 ? 'a cell is one block' : `a cell is ${now.blocksPerCell} blocks`;
  return (
    `${now.used} of ${now.blocks} blocks, ${formatBytes(now.used * now.blockBytes)} of ${formatBytes(now.blocks * now.blockBytes)}, ` +
    `${now.sequences} ${now.sequences === 1 ? 'sequence' : 'sequences'} (${each} of ${now.blockTokens} tokens)`
  );
}

function drawCells(
  canvas: HTMLCanvasElement,
  context: CanvasRenderingContext2D,
  owners: Uint32Array,
  theme: Theme,
  width: number,
): void {
  const each = blocksPerCell(owners.length, width);
  const cells = Math.ceil(owners.length / each);
  const { columns, size, height } = cellGrid(cells, width);
  const scale = Math.min(3, devicePixelRatio || 1);
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  context.clearRect(0, 0, canvas.width, canvas.height);
  const gap = size >= 12 ? 2 : 1;
  const inner = (size - gap) * scale;
  for (let cell = 0; cell < cells; cell++) {
    const left = (cell % columns) * size * scale;
    const top = Math.floor(cell / columns) * size * scale;
    context.fillStyle = theme.colours.sunken;
    context.fillRect(left, top, inner, inner);
    slicesOf(owners, cell, each, (owner, from, to) => {
      context.fillStyle = sequenceColour(owner, theme.scheme);
      context.fillRect(left + from * inner, top, (to - from) * inner, inner);
    });
  }
}
