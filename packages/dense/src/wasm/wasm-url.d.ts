/** Bundlers' way to the address of a file. */
declare module '*.wasm?url' {
  const url: string;
  // biome-ignore lint/style/noDefaultExport: bundlers export the address so
  export default url;
}
