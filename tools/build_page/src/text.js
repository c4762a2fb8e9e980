// Text of models as text: invisible and direction-changing characters are shown as escapes, formulas as MathML.

import temml from 'temml';
import {Fragment, h} from 'preact';
import {useEffect, useRef} from 'preact/hooks';

// The same characters as `harness.core.text.printable`.
const UNSAFE = new RegExp(
  '[\\0-\\x08\\x0b-\\x1f\\x7f-\\x9f\\xad\\u061c\\u180e\\u200b-\\u200f\\u2028-\\u202f\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb'
  + '\\ud800-\\udfff\\u{1bca0}-\\u{1bca3}\\u{1d173}-\\u{1d17a}\\u{e0000}-\\u{e0fff}]', 'gu',
);

function escapeOf(character) {
  const code = character.codePointAt(0);
  if (code === 13) return '\\r';
  if (code < 256) return `\\x${code.toString(16).padStart(2, '0')}`;
  return code < 65536 ? `\\u${code.toString(16).padStart(4, '0')}` : `\\U${code.toString(16).padStart(8, '0')}`;
}

// Return the text on one line of a label or a cell.
export const safe = text => String(text).replace(UNSAFE, escapeOf);

// Return the text in parts, each escape in an element of its own.
export function visible(text) {
  const parts = [];
  let end = 0;
  for (const match of text.matchAll(UNSAFE)) {
    parts.push(text.slice(end, match.index), h('span', {class: 'escape'}, escapeOf(match[0])));
    end = match.index + match[0].length;
  }
  return end ? h(Fragment, null, ...parts, text.slice(end)) : text;
}

// Return the text of a problem with one kind of line ends. A sample keeps its own.
export const linesOf = text => text.replaceAll('\r\n', '\n');

// --- formulas

const FORMULA = /\$\$([^$]{1,4000}?)\$\$|\\\[([\s\S]{1,4000}?)\\\]|\\\(([\s\S]{1,2000}?)\\\)|(?<![\\$\w])\$(?!\s)([^$\n]{1,600}?)(?<![\s\\])\$(?![\d$])|(\\boxed\{(?:[^{}]|\{[^{}]*\}){1,300}\})/g;
const MOST_FORMULAS = 400;
const MOST_CHARACTERS = 60000;

function Formula({tex, raw, isBlock}) {
  const place = useRef(null);
  useEffect(() => {
    const element = place.current;
    try {
      element.textContent = '';
      temml.render(tex, element, {displayMode: isBlock, throwOnError: true, trust: false, maxExpand: 200, maxSize: [20, 20], strict: false});
    } catch {
      element.textContent = raw;
    }
  }, [tex, raw, isBlock]);
  return h(isBlock ? 'div' : 'span', {class: isBlock ? 'formula block' : 'formula', ref: place, title: safe(raw)});
}

// Return a text with its programs in a fixed width and the formulas around them drawn.
export function withFormulas(text) {
  const parts = text.split(FENCED);
  return parts.length === 1 ? drawn(text) : h(Fragment, null, ...parts.map((part, i) => (i % 2 ? h('code', {class: 'program'}, visible(part)) : drawn(part))));
}

const FENCED = /^(```[^\n`]*\n[\s\S]*?^```$)/m;

// Return a text with its formulas drawn. What can't be read as a formula stays as it is.
function drawn(text) {
  if (text.length > MOST_CHARACTERS || !/[$\\]/.test(text)) return visible(text);
  const parts = [];
  let end = 0;
  for (const match of text.matchAll(FORMULA)) {
    if (parts.length > 2 * MOST_FORMULAS) break;
    const [raw, dollars, brackets, round, inline, boxed] = match;
    UNSAFE.lastIndex = 0;
    if (UNSAFE.test(raw)) continue;
    const tex = dollars ?? brackets ?? round ?? inline ?? boxed;
    parts.push(visible(text.slice(end, match.index)), h(Formula, {tex, raw, isBlock: (dollars ?? brackets) !== undefined}));
    end = match.index + raw.length;
  }
  return h(Fragment, null, ...parts, visible(text.slice(end)));
}
