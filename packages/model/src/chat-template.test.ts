import { InputError, ModelFormatError } from '@glinthawk/core';
import { describe, expect, it } from 'vitest';
import { configuredTemplate, configuredToken, configuredTokens, createChatTemplate } from './chat-template.ts';
import { Fields } from './config-fields.ts';

const tokens = { bos_token: '<s>', eos_token: '</s>', pad_token: '<pad>', unk_token: undefined };
const user = [{ role: 'user', content: 'hi' }];
const render = (source: string, messages: readonly { role: string; content: string }[] = user) =>
  createChatTemplate(source, 'chat_template.jinja', tokens).render(messages);

describe('chat templates', () => {
  it('see the messages, the special tokens and the generation prompt', () => {
    const source =
      "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m.content }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}";
    expect(render(source)).toBe('<s>[user]hi</s>[assistant]');
  });

  it('trim blocks and strip the space before them, as transformers sets Jinja up', () => {
    expect(render('{% for m in messages %}\n  {% if true %}\n{{ m.content }}\n  {% endif %}\n{% endfor %}')).toBe(
      'hi\n',
    );
  });

  it('are given no tools and no documents, not nothing', () => {
    expect(render('{% if tools is not none %}T{% endif %}{% if documents is not none %}D{% endif %}-')).toBe('-');
    expect(render('{{ tools is defined }} {{ documents is none }} {% if tools %}T{% endif %}')).toBe('true true ');
  });

  it('see each special token that the model has', () => {
    expect(render('{{ pad_token }} {{ unk_token is defined }}')).toBe('<pad> false');
    const config = Fields.of('tokenizer_config.json', { unk_token: { content: '<unk>' }, pad_token: '<pad>' });
    expect(configuredTokens(config)).toMatchObject({ unk_token: '<unk>', pad_token: '<pad>', bos_token: undefined });
  });

  it('may refuse', () => {
    const source =
      "{% if messages[0].role != 'system' %}{{ raise_exception('a system message comes first') }}{% endif %}ok";
    expect(() => render(source)).toThrow(InputError);
    expect(() => render(source)).toThrow(/a system message comes first/);
    expect(render(source, [{ role: 'system', content: 'x' }])).toBe('ok');
  });

  it('may ask for the date', () => {
    expect(render("{{ strftime_now('%Y') }}")).toMatch(/^\d{4}$/);
  });

  it('that do not parse, or are too long, are refused', () => {
    expect(() => render('{% if %}')).toThrow(ModelFormatError);
    expect(() => render('x'.repeat(1_000_001))).toThrow(/1000001 characters/);
  });

  it('are a string, or the default of several', () => {
    const of = (value: unknown) => configuredTemplate(Fields.of('tokenizer_config.json', { chat_template: value }));
    expect(of('x')).toBe('x');
    expect(of(null)).toBeUndefined();
    const named = (name: string) => ({ name, template: `is ${name}` });
    expect(of([named('tool_use'), named('default')])).toBe('is default');
    expect(of([named('tool_use')])).toBeUndefined();
    expect(() => of(3)).toThrow(ModelFormatError);
    expect(() => of([3])).toThrow(ModelFormatError);
  });
});

it('tokens are a string or an object with content', () => {
  const of = (value: unknown) => configuredToken(Fields.of('tokenizer_config.json', { bos_token: value }), 'bos_token');
  expect(of('<s>')).toBe('<s>');
  expect(of({ content: '<s>', lstrip: false })).toBe('<s>');
  expect(of(null)).toBeUndefined();
  expect(() => of(3)).toThrow(ModelFormatError);
  expect(() => of(['<s>'])).toThrow(ModelFormatError);
});
