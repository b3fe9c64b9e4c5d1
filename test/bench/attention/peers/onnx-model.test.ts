import { expect, test } from 'vitest';
import { encodeModel } from './onnx-model.ts';

test('a model is the protocol buffers that onnx.proto describes', () => {
  const model = encodeModel({
    nodes: [{ type: 'Softmax', inputs: ['x'], outputs: ['y'], attributes: { axis: 2 } }],
    inputs: [{ name: 'x', dims: [300] }],
    outputs: [{ name: 'y', dims: [1], integer: true }],
    initializers: [{ name: 'w', dims: [1], data: Float32Array.of(1) }],
  });
  const text = (value: string) => [value.length, ...new TextEncoder().encode(value)];
  const node = [
    0x0a,
    ...text('x'),
    0x12,
    ...text('y'),
    0x22,
    ...text('Softmax'),
    0x2a,
    11,
    0x0a,
    ...text('axis'),
    0x18,
    2,
    0xa0,
    1,
    2,
  ];
  const tensor = [0x08, 1, 0x10, 1, 0x42, ...text('w'), 0x4a, 4, 0, 0, 0x80, 0x3f];
  const x = [0x0a, ...text('x'), 0x12, 11, 0x0a, 9, 0x08, 1, 0x12, 5, 0x0a, 3, 0x08, 0xac, 0x02];
  const y = [0x0a, ...text('y'), 0x12, 10, 0x0a, 8, 0x08, 6, 0x12, 4, 0x0a, 2, 0x08, 1];
  const graph = [
    0x0a,
    node.length,
    ...node,
    0x12,
    ...text('attention'),
    0x2a,
    tensor.length,
    ...tensor,
    0x5a,
    x.length,
    ...x,
    0x62,
    y.length,
    ...y,
  ];
  const opsets = [0x42, 4, 0x0a, 0, 0x10, 17, 0x42, 17, 0x0a, ...text('com.microsoft'), 0x10, 1];
  expect([...model]).toEqual([0x08, 8, 0x3a, graph.length, ...graph, ...opsets]);
});
