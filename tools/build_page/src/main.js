// The page of a report: the parts at the top, the view that the address names, keys and theme.

import {render} from 'preact';
import {useEffect, useMemo, useRef, useState} from 'preact/hooks';
import {chunk, pValue, rate} from './data.js';
import {Root} from './live.js';
import {FlagNames, Formulas, SamplePage} from './sample.js';
import {Samples, differences, isTyping} from './samples.js';
import {Search} from './search.js';
import {safe} from './text.js';
import {Training} from './training.js';
import {DataTable, Trouble, address, go, html, readAddress, useLoaded} from './ui.js';

// --- summary

function Summary({main}) {
  const results = main.tables[0];
  return html`<h1>Report</h1>
    ${main.warnings.map(line => html`<p class="warning">${safe(line)}</p>`)}
    ${results && html`<${DataTable} table=${results} />`}
    <${WhereToLook} main=${main} />
    <${Runs} main=${main} />
    <p class="made">Made by ${safe(main.made)}. <button type="button" class="plain" onClick=${() => go('#/keys')}>Keys</button></p>`;
}

// Pairs of runs on each task, the surest differences first.
function WhereToLook({main}) {
  const {value, error} = useLoaded(() => Promise.all(main.tasks.map(async task => ({main, task, pairs: (await chunk(task.chunk)).pairs}))), [main]);
  if (error) return html`<${Trouble} error=${error} />`;
  const lines = (value || []).flatMap(({main: of, task, pairs}) => pairs.map(pair => ({
    main: of, task, pair, settings: differences(of, task.id, pair[0], pair[1]).filter(line => !line.isNoted).map(line => line.name),
  }))).sort((a, b) => a.settings.length - b.settings.length || a.pair[8] - b.pair[8] || Math.abs(b.pair[5]) - Math.abs(a.pair[5])).slice(0, 12);
  if (!lines.length) return null;
  return html`<section><h2>Where runs differ</h2><p class="about"><i>compare samples</i> opens a pair with the problems on which it differs most first, the samples side by side. The p-values are not adjusted for the number of pairs.</p>
    <div class="scroll" tabindex="0" role="region" aria-label="Where runs differ"><table><thead><tr><th scope="col"><span class="sr">link</span></th><th scope="col">task</th><th scope="col">A</th><th scope="col">B</th><th scope="col">rates</th><th scope="col">B − A</th><th scope="col">p</th><th scope="col">settings that differ</th></tr></thead>
    <tbody>${lines.map(({main: of, task, settings, pair: [one, other, , x, y, d, low, high, p]}) => {
    const [a, b] = [of.runs[one].label, of.runs[other].label];
    return html`<tr><td><a href=${address('samples', [task.id], {a, b, sort: d >= 0 ? 'gain' : 'loss'})}>compare samples</a></td><td>${safe(task.id)}</td><td>${safe(a)}</td><td>${safe(b)}</td><td class="number">${rate(x)} / ${rate(y)}</td><td class="number">${d >= 0 ? '+' : ''}${rate(d)} <span class="interval">[${rate(low)}, ${rate(high)}]</span></td><td class="number">${pValue(p).slice(2)}</td>
      <td>${settings.join(', ') || '–'}</td></tr>`;
  })}</tbody></table></div></section>`;
}

const Runs = ({main}) => html`<${DataTable} table=${{
  id: 'runs', title: 'Runs', columns: ['run', 'kind', 'status', 'id', 'created', 'config digest', 'code'], notes: [],
  rows: main.runs.map(run => [run.label, run.kind, run.status, run.id, run.created, run.digest, run.code]),
}} />`;

// --- tables, plots, protocol

function Tables({main, parts}) {
  useEffect(() => { if (parts[0]) document.getElementById(`table-${parts[0]}`)?.scrollIntoView(); }, [parts[0]]);
  return html`<h1>Tables</h1><nav class="inside" aria-label="Tables">${main.tables.map(table => html`<a href=${address('tables', [table.id])}>${safe(table.title)}</a>`)}</nav>
    ${main.tables.map(table => html`<${DataTable} key=${table.id} table=${table} />`)}`;
}

function Plot({plot}) {
  const {value, error} = useLoaded(() => chunk(plot.chunk), [plot.chunk]);
  const image = useMemo(() => value && `data:image/svg+xml;base64,${btoa(utf8(value))}`, [value]);
  return html`<figure id=${`plot-${plot.id}`}>${error ? html`<${Trouble} error=${error} />` : image && html`<img src=${image} alt=${safe(plot.title)} />`}<figcaption>${safe(plot.title)}</figcaption></figure>`;
}

// Return the bytes of a text in UTF-8 as characters, which btoa takes.
function utf8(text) {
  let bytes = '';
  for (const byte of new TextEncoder().encode(text)) bytes += String.fromCharCode(byte);
  return bytes;
}

const Plots = ({main}) => html`<h1>Plots</h1><div class="plots">${main.plots.map(plot => html`<${Plot} key=${plot.id} plot=${plot} />`)}</div>`;

function Protocol({main, parts}) {
  const ids = Object.keys(main.cards.tasks);
  const task = ids.includes(parts[0]) ? parts[0] : ids[0];
  const [onlyDifferent, setOnly] = useState(main.cards.tasks[task]?.length > 1);
  if (task === undefined) return html`<h1>Protocol</h1><p>No evaluation is in this report.</p>`;
  const cards = main.cards.tasks[task];
  const rows = main.cards.names.map((name, i) => ({name, values: cards.map(card => card.values[i])}))
    .map(row => ({...row, differs: new Set(row.values).size > 1})).filter(row => !onlyDifferent || row.differs);
  return html`<h1>Protocol</h1><nav class="inside" aria-label="Tasks">${ids.map(id => html`<a href=${address('protocol', [id])} aria-current=${id === task ? 'page' : undefined}>${safe(id)}</a>`)}</nav>
    <p><label><input type="checkbox" checked=${onlyDifferent} onChange=${event => setOnly(event.target.checked)} /> only settings that differ between the runs</label></p>
    <div class="scroll" tabindex="0" role="region" aria-label="Protocol card"><table class="card"><thead><tr><th scope="col">setting</th>${cards.map(card => html`<th scope="col">${safe(main.runs[card.run].label)}</th>`)}</tr></thead>
      <tbody>${rows.map(row => html`<tr class=${row.differs ? 'differs' : ''}><th scope="row">${row.name}${row.differs && html`<span class="tag">differs</span>`}</th>${row.values.map(value => html`<td>${value === null ? '–' : safe(value)}</td>`)}</tr>`)}</tbody></table></div>
    ${rows.length === 0 && html`<p>All settings are equal.</p>`}`;
}

const KEYS = [['j, k', 'next and previous problem, in the samples; next and previous step with rollouts, in the training runs'], ['/', 'search the texts of all samples'], ['?', 'this list'], ['d', 'dark or light']];
const Keys = () => html`<h1>Keys</h1><table><tbody>${KEYS.map(([key, what]) => html`<tr><th scope="row"><kbd>${key}</kbd></th><td>${what}</td></tr>`)}</tbody></table>`;

// --- theme

function initialTheme() {
  try { return localStorage.getItem('harness-theme') || ''; } catch { return ''; }
}

function useTheme() {
  const [theme, set] = useState(initialTheme);
  useEffect(() => {
    if (theme) document.documentElement.dataset.theme = theme; else delete document.documentElement.dataset.theme;
    try { localStorage.setItem('harness-theme', theme); } catch { /* a page from disk may have no storage */ }
  }, [theme]);
  const isDark = theme ? theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
  return [isDark, () => set(isDark ? 'light' : 'dark')];
}

// --- the whole

const VIEWS = {
  summary: ['Summary', Summary, () => true],
  tables: ['Tables', Tables, main => main.tables.length],
  plots: ['Plots', Plots, main => main.plots.length],
  samples: ['Samples', Samples, main => main.tasks.length],
  training: ['Training', Training, main => main.training.length],
  protocol: ['Protocol', Protocol, main => Object.keys(main.cards.tasks).length],
  search: ['Search', Search, () => false],
  run: ['Sample', SamplePage, () => false],
  keys: ['Keys', Keys, () => false],
};

function App({main, status, trouble}) {
  const [place, setPlace] = useState(readAddress);
  const [isDark, toggleTheme] = useTheme();
  const [drawn, setDrawn] = useState(true);
  const field = useRef(null);
  useEffect(() => {
    const onMove = () => setPlace(readAddress());
    const onKey = event => {
      if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
      if (event.key === '/') { event.preventDefault(); field.current?.focus(); }
      if (event.key === '?') go('#/keys');
      if (event.key === 'd') toggleTheme();
    };
    window.addEventListener('hashchange', onMove);
    document.addEventListener('keydown', onKey);
    return () => { window.removeEventListener('hashchange', onMove); document.removeEventListener('keydown', onKey); };
  });
  const view = Object.hasOwn(VIEWS, place.view) ? place.view : 'summary';
  useEffect(() => { document.title = `${VIEWS[view][0]} · Report`; if (view !== 'samples') window.scrollTo(0, 0); }, [view, place.parts.join('/')]);
  const View = VIEWS[view][1];
  const current = view === 'run' || view === 'search' ? 'samples' : view;
  return html`<${FlagNames.Provider} value=${main.flags}><${Formulas.Provider} value=${drawn}>
    <header class="top"><a class="skip" href="#main" onClick=${event => { event.preventDefault(); document.getElementById('main').focus(); }}>Skip to the content</a>
      <nav aria-label="Parts of the report">${Object.entries(VIEWS).filter(([, [, , has]]) => has(main)).map(([id, [title]]) => html`<a href=${address(id)} aria-current=${id === current ? 'page' : undefined}>${title}</a>`)}</nav>
      <form role="search" onSubmit=${event => { event.preventDefault(); go(address('search', [], {q: field.current.value})); }}>
        <input type="search" ref=${field} aria-label="Search all samples" placeholder="search samples  /" defaultValue=${place.query.q || ''} /></form>
      <button type="button" aria-pressed=${drawn} title="draw formulas, or show their source" onClick=${() => setDrawn(!drawn)}>∑</button>
      <button type="button" aria-pressed=${isDark} title="dark or light (d)" onClick=${toggleTheme}>${isDark ? 'light' : 'dark'}</button>${status}</header>
    ${trouble}
    <main id="main" tabindex="-1" class=${`view-${view}`}><${View} key=${view} main=${main} parts=${place.parts} query=${place.query} /></main>
  </${Formulas.Provider}></${FlagNames.Provider}>`;
}

const app = document.getElementById('app');
chunk(Number(document.documentElement.dataset.main)).then(
  main => { app.textContent = ''; render(html`<${Root} App=${App} first=${main} />`, app); },
  error => { app.textContent = `This report can't be read: ${error.message}`; },
);
