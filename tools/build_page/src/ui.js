// Parts that several views share: addresses, tables that sort, rows drawn on demand, bars of rates.

import {h} from 'preact';
import {useEffect, useLayoutEffect, useRef, useState} from 'preact/hooks';
import htm from 'htm';
import {number, rate, wilson} from './data.js';
import {safe} from './text.js';

export const html = htm.bind(h);

// --- addresses: #/view/part/part?name=value

export function readAddress() {
  const [path, query = ''] = location.hash.replace(/^#\/?/, '').split('?');
  const parts = path.split('/').map(part => { try { return decodeURIComponent(part); } catch { return part; } });
  return {view: parts[0] || 'summary', parts: parts.slice(1), query: Object.fromEntries(new URLSearchParams(query))};
}

export function address(view, parts = [], query = {}) {
  const kept = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== '');
  const path = [view, ...parts].map(part => encodeURIComponent(String(part).toWellFormed?.() ?? part)).join('/');
  return `#/${path}${kept.length ? `?${new URLSearchParams(kept)}` : ''}`;
}

export const go = to => { location.hash = to; };
export const goInPlace = to => { location.replace(to); };

// --- loading

export function useLoaded(load, keys) {
  const [state, set] = useState({value: null, error: null});
  useEffect(() => {
    let isCurrent = true;
    set(old => ({value: old.value, error: null, isOld: true}));
    Promise.resolve().then(load).then(
      value => isCurrent && set({value, error: null}),
      error => isCurrent && set({value: null, error}),
    );
    return () => { isCurrent = false; };
  }, keys);
  return state;
}

export const Trouble = ({error}) => html`<p class="trouble" role="alert">This part can't be read: ${safe(error.message)}</p>`;

// --- rates

export function Rate({right, n, label}) {
  if (!n) return html`<span class="rate none" title="no graded sample">–</span>`;
  const [low, high] = wilson(right, n);
  return html`<span class="rate" title=${`${right} of ${n} graded samples right; 95% Wilson interval over the samples of this problem`}>
    <span class="track" aria-hidden="true"><span class="range" style=${{left: `${100 * low}%`, width: `${100 * (high - low)}%`}}></span><span
      class="point" style=${{left: `${100 * right / n}%`}}></span></span>
    <span class="value">${label ? html`<span class="sr">${label}: </span>` : ''}${rate(right / n)}</span>
    <span class="interval">[${rate(low)}, ${rate(high)}]</span>
  </span>`;
}

export const OutcomeMark = ({code}) => html`<span class=${`mark o${code}`}>${{0: '✗ wrong', 1: '✓ right', 2: '? ungraded', 3: '… no verdict'}[code]}</span>`;

// --- tables

// As in the tables in markdown: bold is best, a dagger is not significantly worse, a star is a significant difference.
const MARKS = {tied: '†', significant: '*'};

const isEstimate = cell => cell !== null && typeof cell === 'object';
const sortKey = cell => (isEstimate(cell) ? cell.value : cell);

function Cell({cell}) {
  if (cell === null || cell === undefined) return html`<td class="none">–</td>`;
  if (typeof cell === 'number') return html`<td class="number">${number(cell)}</td>`;
  if (!isEstimate(cell)) return html`<td class=${String(cell).length > 12 ? 'label' : ''}>${safe(cell)}</td>`;
  const counts = `${cell.n_problems} problems, ${cell.n_completions} samples, ${cell.n_ungraded} ungraded; ${cell.method}`;
  const show = cell.in_percent ? value => (100 * value).toFixed(1) : value => value.toFixed(3);
  const value = cell.mark === 'best' ? html`<b>${show(cell.value)}</b>` : show(cell.value);
  return html`<td class=${`number ${cell.mark || ''}`} title=${safe(counts)}>${value}${MARKS[cell.mark] || ''} <span class="interval">[${show(cell.low)}, ${show(cell.high)}]</span></td>`;
}

function compare(one, other) {
  if (one === null || one === undefined) return other === null || other === undefined ? 0 : 1;
  if (other === null || other === undefined) return -1;
  if (typeof one === 'number' && typeof other === 'number') return one - other;
  return String(one).localeCompare(String(other), 'en', {numeric: true});
}

export function DataTable({table, level = 2}) {
  const [sort, setSort] = useState({column: -1, sign: 1});
  const columns = table.columns.map((_, i) => i).filter(i => !table.rows.length || table.rows.some(row => row[i] !== null));
  const rows = [...table.rows];
  if (sort.column >= 0) {
    rows.sort((a, b) => {
      const [x, y] = [sortKey(a[sort.column]), sortKey(b[sort.column])];
      const isAbsent = x === null || y === null;
      return compare(x, y) * (isAbsent ? 1 : sort.sign);
    });
  }
  const click = i => setSort(old => {
    const isNumber = table.rows.some(row => typeof sortKey(row[i]) === 'number');
    const first = isNumber ? -1 : 1;
    if (old.column !== i) return {column: i, sign: first};
    return old.sign === first ? {column: i, sign: -first} : {column: -1, sign: 1};
  });
  return html`<section class="table" id=${`table-${table.id}`}>
    ${level && h(`h${level}`, null, safe(table.title))}
    <div class="scroll" tabindex="0" role="region" aria-label=${`${safe(table.title)} (${safe(table.id)})`}><table>
      <thead><tr>${columns.map(i => html`<th scope="col" aria-sort=${sort.column === i ? (sort.sign > 0 ? 'ascending' : 'descending') : 'none'}>
        <button type="button" onClick=${() => click(i)}>${safe(table.columns[i])}<span aria-hidden="true" class="arrow">${sort.column === i ? (sort.sign > 0 ? '▲' : '▼') : ''}</span></button></th>`)}</tr></thead>
      <tbody>${rows.map(row => html`<tr>${columns.map(i => html`<${Cell} cell=${row[i]} />`)}</tr>`)}</tbody>
    </table></div>
    ${table.notes.length > 0 && html`<div class="notes">${table.notes.map(note => html`<p>${safe(note)}</p>`)}</div>`}
  </section>`;
}

// --- long lists: only the rows in view exist

export function useWindow(count, height, extra = 8) {
  const place = useRef(null);
  const [range, setRange] = useState([0, 40]);
  const update = () => {
    const element = place.current;
    if (!element) return;
    const first = Math.max(0, Math.floor(element.scrollTop / height) - extra);
    const last = Math.min(count, Math.ceil((element.scrollTop + element.clientHeight) / height) + extra);
    setRange(old => (old[0] === first && old[1] === last ? old : [first, last]));
  };
  useLayoutEffect(update, [count, height]);
  useEffect(() => {
    const element = place.current;
    if (!element) return undefined;
    element.addEventListener('scroll', update, {passive: true});
    window.addEventListener('resize', update);
    return () => { element.removeEventListener('scroll', update); window.removeEventListener('resize', update); };
  });
  const reveal = row => {
    const element = place.current;
    if (!element || row < 0) return;
    const head = 40; // the sticky head covers it
    const top = row * height;
    if (top < element.scrollTop) element.scrollTop = top;
    else if (top + height + head > element.scrollTop + element.clientHeight) element.scrollTop = top + height + head - element.clientHeight;
  };
  return {place, first: Math.min(range[0], count), last: Math.min(range[1], count), reveal};
}
