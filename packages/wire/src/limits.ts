/**
 * Every length that a peer can claim, and the most that is believed. A frame that claims more is refused before anything is
 * allocated for it. The values are part of the protocol (docs/protocol.md, "Caps").
 */
export const HEADER_BYTES = 32;
/** Sections and frames start on this boundary, so that typed arrays and SIMD loads view them in place. */
export const SECTION_ALIGN = 16;

/** JSON payloads. HELLO is the largest: a window per layer of a 4,096-layer model still fits. */
export const MAX_CONTROL_BYTES = 64 * 1024;
/** Tensor payloads: 6,500 rows of q, k and v of a 70B model in f32. */
export const MAX_PAYLOAD_BYTES = 256 * 1024 * 1024;
/** What is accepted from a peer that has not finished the handshake. */
export const MAX_HANDSHAKE_BYTES = MAX_CONTROL_BYTES;
/** And how often: the handshake's few frames, and keepalive for the better part of an hour. */
export const MAX_HANDSHAKE_FRAMES = 1_024;

export const MAX_ROWS = 65_536;
export const MAX_STEP_ENTRIES = 65_536;
/** Records of one OPEN or FREE frame. */
export const MAX_SLOT_RECORDS = 65_536;
export const MAX_SLOTS = 1_048_576;
export const MAX_SHARDS = 1_024;
export const MAX_WORKERS = 4_096;
/** What a shard's blocks may come to: it is one WASM memory, whose addresses have 32 bits. */
export const MAX_SHARD_BYTES = 2 ** 32;
/**
 * A block over the bare size of its keys and values: head_dim padded to 8 and the scales of int8 make the smallest head_dim, 2, six
 * times as large; at 64 and more it is under a tenth.
 */
export const MAX_BLOCK_OVERHEAD = 8;

export const MAX_LAYERS = 4_096;
export const MAX_KV_HEADS = 1_024;
export const MAX_GROUP_SIZE = 1_024;
export const MAX_HEAD_DIM = 1_024;
export const MAX_CONTEXT_TOKENS = 1 << 30;

export const MAX_NAME_CHARS = 256;
export const MAX_MESSAGE_CHARS = 4_096;

/**
 * One WebSocket message. Frames span messages where they are longer: a server that took whole frames as messages would have to
 * buffer MAX_PAYLOAD_BYTES for a peer that has shown no token yet.
 */
export const MAX_WEBSOCKET_MESSAGE_BYTES = 1024 * 1024;
