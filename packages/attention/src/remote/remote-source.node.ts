/** Remote attention as Node reaches it: by TCP, plain or under TLS, or by WebSocket. */
import { connectTcp, type TlsConnectOptions } from '@glinthawk/wire/node';
import { parseAttentionUrl, RemoteSource, type RemoteSourceOptions, webSocketSource } from './remote-source.ts';

export interface NodeRemoteSourceOptions extends RemoteSourceOptions {
  /** For `tls://`: what to trust beside the system's certificates. */
  readonly tls?: TlsConnectOptions;
}

/** A source for `tcp://`, `tls://`, `ws://` or `wss://`. @throws InputError */
export function remoteSource(url: string, options: NodeRemoteSourceOptions = {}): RemoteSource {
  const { tls, ...rest } = options;
  const { scheme, host, port } = parseAttentionUrl(url);
  switch (scheme) {
    case 'ws':
    case 'wss':
      return webSocketSource(url, rest);
    case 'tcp':
      return new RemoteSource(url, (dial) => connectTcp({ host, port }, dial), rest);
    case 'tls':
      return new RemoteSource(url, (dial) => connectTcp({ host, port }, { ...dial, tls: tls ?? {} }), rest);
    default:
      return scheme satisfies never;
  }
}
