/**
 * Where tests find models. The example model is part of the repository; the others stand beside a checkout of the project's
 * own machines (`../shared/models`, or $GLINTHAWK_MODELS) and are skipped by name in a stranger's clone. In CI their absence
 * is a failure, so that no golden goes unchecked in silence.
 */
import { describe, it } from 'vitest';
import { modelPath, modelsRoot } from './model-paths.ts';

export { exampleModel, modelPath, repositoryRoot } from './model-paths.ts';

/** A `describe` whose tests need a model that may be absent: skipped by name, or failed in CI. */
export function describeWithModel(title: string, name: string, tests: (path: string) => void): void {
  const path = modelPath(name);
  if (path !== null) {
    describe(title, () => tests(path));
  } else if (process.env.CI) {
    describe(title, () => {
      it(`has the model ${name}`, () => {
        throw new Error(`CI needs the model ${name} in ${modelsRoot}; set GLINTHAWK_MODELS`);
      });
    });
  } else {
    describe.skip(`${title} (no model ${name})`, () => {
      it('needs the model', () => {});
    });
  }
}
