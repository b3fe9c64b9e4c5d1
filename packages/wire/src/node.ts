/** What only Node has: TCP, TLS, and a port that serves frames and WebSockets both. */
export * from './node/listen.ts';
export * from './node/tcp-transport.ts';
