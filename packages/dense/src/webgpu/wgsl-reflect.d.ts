/** The package's `main`, which Node takes, is CommonJS in a package that says it is ESM: tests import its module build. */
declare module 'wgsl_reflect/wgsl_reflect.module.js' {
  export * from 'wgsl_reflect';
}
