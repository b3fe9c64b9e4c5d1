/** The engine's side of the handshake: HELLO, the token's proofs, WELCOME. */
import { NodeLostError, ProtocolError } from '@glinthawk/core';
import {
  authFrame,
  authProof,
  type Connection,
  ConnectionClosedError,
  checkPromise,
  decodeAuth,
  decodeError,
  decodeReason,
  decodeWelcome,
  equalBytes,
  type Frame,
  FrameType,
  frameRule,
  fromErrorMessage,
  type Hello,
  helloFrame,
  type Welcome,
} from '@glinthawk/wire';

/**
 * @param name of the node, for messages
 * @throws ProtocolError when the node refuses, or is not who it should be; NodeLostError when it goes away meanwhile
 */
export async function greet(connection: Connection, name: string, hello: Hello, token?: string): Promise<Welcome> {
  try {
    const outgoing = helloFrame(hello);
    const helloPayload = outgoing.sections[0] as Uint8Array;
    connection.send(outgoing);
    let reply = await next(connection, name);
    let expected: Uint8Array | undefined;
    if (reply.header.type === FrameType.AUTH) {
      const challenge = decodeAuth(reply.payload);
      if (challenge.kind !== 'challenge')
        throw new ProtocolError('UNEXPECTED_FRAME', `${name} sent a proof, not a challenge`);
      if (token === undefined) {
        throw new ProtocolError('TOKEN_REQUIRED', `${name} asks for a token`, {
          hint: 'give the one that the node was started with',
        });
      }
      const nonce = challenge.nonce;
      expected = authProof(token, 'node', helloPayload, nonce);
      connection.send(authFrame({ kind: 'proof', proof: authProof(token, 'engine', helloPayload, nonce) }));
      reply = await next(connection, name);
    }
    if (reply.header.type === FrameType.HELLO) {
      throw new ProtocolError('NOT_A_NODE', `${name} is an engine, not an attention node`, {
        hint: 'an address of `--attention ws-listen://…` is for nodes that lend themselves, not for engines',
      });
    }
    if (reply.header.type !== FrameType.WELCOME) {
      throw new ProtocolError('UNEXPECTED_FRAME', `${name} sent ${frameRule(reply.header.type)?.name}, not WELCOME`);
    }
    const welcome = decodeWelcome(reply.payload);
    if (
      token !== undefined &&
      (expected === undefined || welcome.proof === null || !equalBytes(welcome.proof, expected))
    ) {
      const message = `${name} does not know the token: it may not be the node that it seems to be`;
      throw new ProtocolError('NODE_UNPROVEN', message, {
        hint: 'start the node with the same token, or use none on both ends',
      });
    }
    if (welcome.wireDtype !== hello.wireDtype) {
      throw new ProtocolError('BAD_DTYPE', `${name} answers in ${welcome.wireDtype}; ${hello.wireDtype} was asked for`);
    }
    checkPromise(welcome, hello);
    return welcome;
  } catch (error) {
    if (!(error instanceof ConnectionClosedError)) throw error;
    throw new NodeLostError(name, `${name} closed the connection during the handshake`, { cause: error });
  }
}

async function next(connection: Connection, name: string): Promise<Frame> {
  const frame = await connection.receive();
  if (frame.header.type === FrameType.BYE) {
    throw new NodeLostError(name, `${name} says good-bye: ${decodeReason('BYE', frame.payload)}`);
  }
  if (frame.header.type !== FrameType.ERROR) return frame;
  const told = decodeError(frame.payload);
  const error = fromErrorMessage(told, name);
  if (error instanceof NodeLostError || error instanceof ProtocolError) throw error;
  // A node that has no room, or can't do what the model needs, refuses this engine all the same.
  const hint = told.hint === undefined ? {} : { hint: told.hint };
  throw new ProtocolError(told.code, error.message, { cause: error, ...hint });
}
