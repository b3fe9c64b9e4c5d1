/** What only Node has: attention over TCP and TLS, and a node on a port. */
export * from './remote/index.node.ts';
