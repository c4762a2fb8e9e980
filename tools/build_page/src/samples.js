// The paired browser: problems by runs, and the samples of two runs side by side.

import {diffWordsWithSpace} from 'diff';
import {useContext, useEffect, useMemo, useRef, useState} from 'preact/hooks';
import {
  OUTCOMES, RIGHT, UNGRADED, WRONG, distance, isCut, isDisputed, isUnread, openSample, openStatement, openTask, pValue, rate, rateOf, strategies,
} from './data.js';
import {FlagNames, Flags, SampleBody} from './sample.js';
import {linesOf, safe, visible, withFormulas} from './text.js';
import {OutcomeMark, Rate, Trouble, address, go, goInPlace, html, readAddress, useLoaded, useWindow} from './ui.js';

const ROW = 44; // pixels of a row of the list, as in page.css

// --- filters

const above = (run, p) => rateOf(run, p) > 0.5;
const any = (name, {a, b}, p) => a[name][p] > 0 || (b && b[name][p] > 0);

function isSameByOthers({a, b, task}, p) {
  if (!task.solutions) return false;
  const [one, other] = [rateOf(a, p), rateOf(b, p)];
  if (!one || !other || Math.abs(one - other) > 1 / Math.min(a.graded[p], b.graded[p]) + 1e-9) return false;
  return distance(strategies(a, p), strategies(b, p)) >= 0.5;
}

export const FILTERS = [
  {id: 'all', title: 'All', about: 'Every problem.', has: () => true},
  {id: 'a-right', title: 'A right, B wrong', pair: true, about: 'More than half of the samples of A are right, and at most half of those of B.', has: ({a, b}, p) => b.graded[p] && above(a, p) && !above(b, p)},
  {id: 'b-right', title: 'B right, A wrong', pair: true, about: 'More than half of the samples of B are right, and at most half of those of A.', has: ({a, b}, p) => a.graded[p] && above(b, p) && !above(a, p)},
  {id: 'only-a', title: 'Only A ever', pair: true, about: 'A has a right sample, B has none.', has: ({a, b}, p) => a.right[p] > 0 && b.graded[p] && !b.right[p]},
  {id: 'only-b', title: 'Only B ever', pair: true, about: 'B has a right sample, A has none.', has: ({a, b}, p) => b.right[p] > 0 && a.graded[p] && !a.right[p]},
  {id: 'strategies', title: 'Same rate, other strategies', pair: true, about: 'Both rates are above 0 and differ by at most one sample; at least half of the right samples would have to change strategy for the mixtures to be equal.', has: isSameByOthers},
  {id: 'disagree', title: 'Graders disagree', about: 'Two graders judge a sample differently.', has: (pair, p) => any('disagree', pair, p), sample: isDisputed},
  {id: 'cut', title: 'Cut off', about: 'A sample ended at the token limit.', has: (pair, p) => any('cut', pair, p), sample: isCut},
  {id: 'unread', title: 'Not extracted', about: 'A wrong sample in which the grader found no answer.', has: (pair, p) => any('unread', pair, p), sample: isUnread},
  {id: 'ungraded', title: 'Ungraded', about: 'A sample that could not be graded.', has: ({a, b}, p) => a.graded[p] < a.n[p] || (b && b.graded[p] < b.n[p]), sample: (run, row) => run.o[row] === UNGRADED},
];

const OWN_FILTER = new Set(['graders disagree', 'token limit']);

// Return a filter for each flag that a sample of the task has and that has no filter of its own.
export function flagFilters(main, task) {
  const all = [...task.runs.values()].reduce((bits, run) => run.flags.reduce((sum, one) => sum | one, bits), 0);
  return main.flags.flatMap((name, place) => {
    const bit = 1 << place;
    if (!(all & bit) || OWN_FILTER.has(name)) return [];
    const has = (run, row) => (run.flags[row] & bit) !== 0;
    const hasProblem = (run, p) => {
      for (let row = run.start[p], end = row + run.n[p]; row < end; row++) if (has(run, row)) return true;
      return false;
    };
    const title = name[0].toUpperCase() + name.slice(1);
    return [{id: `flag-${place}`, title, about: 'A flag for a person to look at; it says nothing about the verdict.', has: ({a, b}, p) => hasProblem(a, p) || (b !== null && hasProblem(b, p)), sample: has}];
  });
}

const less = ({a, b}, p) => (b ? (rateOf(b, p) ?? 0) - (rateOf(a, p) ?? 0) : 0);
const SORTS = {
  order: ['order of the task', null],
  gain: ['B ahead first', (pair, p) => -less(pair, p)],
  loss: ['A ahead first', (pair, p) => less(pair, p)],
  hard: ['hardest for A first', ({a}, p) => rateOf(a, p) ?? 2],
  easy: ['easiest for A first', ({a}, p) => -(rateOf(a, p) ?? -1)],
};

export function chosenProblems(pair, filter, sort, words) {
  const needle = words.toLowerCase();
  const found = pair.task.shown.filter(p => (pair.a.n[p] || pair.b?.n[p]) && filter.has(pair, p)
    && (!needle || pair.task.problems[p].toLowerCase().includes(needle)));
  const key = SORTS[sort]?.[1];
  if (key) {
    const keys = new Map(found.map(p => [p, key(pair, p)]));
    found.sort((one, other) => keys.get(one) - keys.get(other) || one - other);
  }
  return found;
}

// --- the view

export function Samples({main, parts, query}) {
  const info = main.tasks.find(task => task.id === parts[0]) || main.tasks[0];
  // With the state that it is of, as a newer one may number its runs in another way.
  const {value, error} = useLoaded(async () => info && {main, task: await openTask(info)}, [info?.id, info?.chunk]);
  if (!info) return html`<p>These runs have no samples.</p>`;
  if (error) return html`<${Trouble} error=${error} />`;
  if (!value || value.task.id !== info.id) return html`<p class="loading" role="status">Opening the samples of ${safe(info.id)}.</p>`;
  return html`<${Browser} main=${value.main} task=${value.task} query=${query} />`;
}

function Browser({main, task, query}) {
  const labels = main.runs.map(run => run.label);
  const keys = [...task.runs.keys()];
  const numberOf = label => keys.find(run => labels[run] === label);
  const first = numberOf(query.a) ?? keys[0];
  const second = query.b === 'none' ? undefined : numberOf(query.b) ?? likest(main, task, keys, first);
  const pair = useMemo(() => ({task, a: task.runs.get(first), b: second === undefined ? null : task.runs.get(second)}), [task, first, second]);
  const filters = useMemo(() => [...FILTERS, ...flagFilters(main, task)].filter(f => (pair.b || !f.pair) && (f.id !== 'strategies' || task.solutions)), [pair]);
  const filter = filters.find(f => f.id === query.filter) || filters[0];
  const [words, setWords] = useState('');
  const [showAll, setShowAll] = useState(false);
  const problems = useMemo(() => chosenProblems(pair, filter, query.sort, words), [pair, filter.id, query.sort, words]);
  const counts = useMemo(() => new Map(filters.map(f => [f.id, task.shown.reduce(
    (n, p) => n + ((pair.a.n[p] || pair.b?.n[p]) && f.has(pair, p) ? 1 : 0), 0)])), [pair]);
  const chosen = query.p !== undefined && task.numbers.has(query.p) ? task.numbers.get(query.p) : problems[0];
  const place = problems.indexOf(chosen);

  const change = (changed, inPlace = true) => {
    const to = address('samples', [task.id], {...query, a: labels[first], b: second === undefined ? 'none' : labels[second], ...changed});
    (inPlace ? goInPlace : go)(to);
  };
  const move = by => {
    const at = problems.indexOf(task.numbers.get(readAddress().query.p) ?? chosen); // keys may come faster than renders
    const next = problems[at < 0 ? 0 : Math.min(problems.length - 1, Math.max(0, at + by))];
    if (next !== undefined) change({p: task.problems[next]});
  };
  useEffect(() => {
    const onKey = event => {
      if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
      if (event.key === 'j' || event.key === 'k') { event.preventDefault(); move(event.key === 'j' ? 1 : -1); }
    };
    document.addEventListener('keydown', onKey);
    return () => document.removeEventListener('keydown', onKey);
  });

  return html`<div class="browser">
    <div class="controls">
      <h1 class="sr">Samples of ${safe(task.id)}</h1>
      <${Choice} label="Task" value=${task.id} options=${main.tasks.map(t => [t.id, `${safe(t.id)} (${t.samples} samples)`])} onChange=${id => go(address('samples', [id]))} />
      <${Choice} label="A" value=${String(first)} options=${keys.map(k => [String(k), safe(labels[k])])} onChange=${k => change({a: labels[k]})} />
      <button type="button" class="plain" title="Swap A and B" aria-label="Swap A and B" disabled=${!pair.b} onClick=${() => change({a: labels[second], b: labels[first]})}>⇄</button>
      <${Choice} label="B" value=${second === undefined ? 'none' : String(second)} options=${[...keys.map(k => [String(k), safe(labels[k])]), ['none', '(none)']]} onChange=${k => change({b: k === 'none' ? 'none' : labels[k]})} />
      <${Choice} label="Sort" value=${query.sort || 'order'} options=${Object.entries(SORTS).map(([id, [title]]) => [id, title])} onChange=${sort => change({sort})} />
    </div>
    <${PairHead} main=${main} task=${task} first=${first} second=${second} pair=${pair} />
    <div class="filters" role="group" aria-label="Which problems">
      ${filters.map(f => html`<button type="button" key=${f.id} data-filter=${f.id} title=${f.about} aria-pressed=${f.id === filter.id} onClick=${() => change({filter: f.id === 'all' ? '' : f.id, p: undefined})}>${f.title} <span class="count">${counts.get(f.id)}</span></button>`)}
    </div>
    ${filter.id !== 'all' && html`<p class="about">${filter.about}</p>`}
    <div class="panes">
      <${ProblemList} task=${task} pair=${pair} problems=${problems} chosen=${chosen} labels=${labels} first=${first} second=${second} showAll=${showAll} setShowAll=${setShowAll} words=${words} setWords=${setWords} open=${p => change({p: task.problems[p]})} />
      ${chosen === undefined ? html`<p class="empty">No problem passes the filter.</p>`
        : html`<${Problem} key=${`${task.id} ${task.problems[chosen]}`} task=${task} pair=${pair} problem=${chosen} labels=${labels} first=${first} second=${second} filter=${filter} place=${place} n=${problems.length} move=${move} />`}
    </div>
  </div>`;
}

// Return the run that can be compared with the first best: under the same protocol if there is one.
function likest(main, task, keys, first) {
  const others = keys.filter(run => run !== first);
  return others.find(run => differences(main, task.id, first, run).every(line => line.isNoted)) ?? others[0];
}

export const isTyping = element => /^(input|textarea|select)$/i.test(element?.tagName || '') || element?.isContentEditable;

function Choice({label, value, options, onChange}) {
  return html`<label class="choice"><span>${label}</span> <select value=${value} onChange=${event => onChange(event.target.value)}>
    ${options.map(([id, title]) => html`<option value=${id} selected=${id === value}>${title}</option>`)}</select></label>`;
}

// --- the head of a pair

export function differences(main, task, first, second) {
  const cards = main.cards.tasks[task]?.filter(card => card.run === first || card.run === second) || [];
  if (cards.length < 2) return [];
  return main.cards.names.flatMap((name, i) => {
    const [one, other] = [first, second].map(run => cards.find(card => card.run === run)?.values[i]);
    if (one === other || main.cards.ignored.includes(name)) return [];
    return [{name, one, other, isNoted: main.cards.noted.includes(name)}];
  });
}

function PairHead({main, task, first, second, pair}) {
  const found = task.pairs.find(([one, other]) => (one === first && other === second) || (one === second && other === first));
  const different = useMemo(() => (pair.b ? differences(main, task.id, first, second) : []), [task, first, second]);
  if (!pair.b) return null;
  if (!found) return html`<p class="pair-head">No problem has graded samples in both runs.</p>`;
  const [one, , n, x, y, d, low, high, p] = found;
  const sign = one === first ? 1 : -1;
  const [a, b] = sign > 0 ? [x, y] : [y, x];
  const [from, to] = sign > 0 ? [low, high] : [-high, -low];
  const decided = different.filter(line => !line.isNoted);
  return html`<p class="pair-head"><span><b>A</b> ${rate(a)}</span> <span><b>B</b> ${rate(b)}</span>
    <span title="B less A, over the problems that both have, with a 95% interval">B − A <b>${sign * d >= 0 ? '+' : ''}${rate(sign * d)}</b> [${rate(from)}, ${rate(to)}]</span>
    <span title="Sign-flip test of the paired differences, as harness compare computes it; not adjusted for looking at several pairs"><b>${pValue(p)}</b></span> <span>${n} problems</span>
    ${decided.length > 0 && html`<span class="warn" title="The difference may be due to these settings">differs: ${decided.slice(0, 4).map(line => `${line.name} ${safe(line.one ?? '–')} / ${safe(line.other ?? '–')}`).join('; ')}${decided.length > 4 ? ` and ${decided.length - 4} more` : ''}</span>`}
  </p>`;
}

// --- the list of problems

function ProblemList({task, pair, problems, chosen, labels, first, second, showAll, setShowAll, words, setWords, open}) {
  const {place, first: from, last: to, reveal} = useWindow(problems.length, ROW);
  const at = problems.indexOf(chosen);
  useEffect(() => reveal(at), [chosen, at]);
  const runs = showAll ? [...task.runs.keys()] : [first, second].filter(run => run !== undefined);
  const title = run => (run === first ? 'A' : run === second ? 'B' : safe(labels[run]));
  const rows = [];
  for (let i = from; i < to; i++) {
    const p = problems[i];
    rows.push(html`<tr key=${p} class=${p === chosen ? 'chosen' : ''} aria-current=${p === chosen ? 'true' : undefined} onClick=${() => open(p)}>
      <th scope="row"><button type="button" onClick=${event => { event.stopPropagation(); open(p); }}>${safe(task.problems[p])}</button></th>
      ${runs.map(run => html`<td><${Rate} right=${task.runs.get(run).right[p]} n=${task.runs.get(run).graded[p]} /></td>`)}</tr>`);
  }
  return html`<section class="list" aria-label="Problems">
    <div class="list-head"><input type="search" placeholder="problem id" aria-label="Find a problem by its id" value=${words} onInput=${event => setWords(event.target.value)} />
      <span role="status">${problems.length} of ${task.shown.length}</span>
      ${task.runs.size > 2 && html`<label><input type="checkbox" checked=${showAll} onChange=${event => setShowAll(event.target.checked)} /> all runs</label>`}</div>
    <div class="rows scroll" tabindex="0" role="region" aria-label="Problems by runs" ref=${place}><table aria-rowcount=${problems.length + 1}>
      <thead><tr><th scope="col">problem</th>${runs.map(run => html`<th scope="col" title=${safe(labels[run])}>${title(run)}</th>`)}</tr></thead>
      <tbody>${from > 0 && html`<tr aria-hidden="true" class="space" style=${{height: `${from * ROW}px`}}></tr>`}${rows}${to < problems.length && html`<tr aria-hidden="true" class="space" style=${{height: `${(problems.length - to) * ROW}px`}}></tr>`}</tbody>
    </table></div>
  </section>`;
}

// --- one problem

function Problem({task, pair, problem, labels, first, second, filter, place, n, move}) {
  const {value: statement} = useLoaded(() => openStatement(task, problem), [task, problem]);
  const [picked, setPicked] = useState([]);
  const [onlyMatching, setOnlyMatching] = useState(true);
  const narrowing = filter.sample && onlyMatching ? filter.sample : null;
  const pick = choice => setPicked(old => (old.some(one => one.key === choice.key) ? old.filter(one => one.key !== choice.key) : [...old, choice].slice(-2)));
  const sides = [['A', pair.a, first, pair.b], ...(pair.b ? [['B', pair.b, second, pair.a]] : [])];
  return html`<section class="problem" aria-label="Problem">
    <header><h2>${safe(task.problems[problem])}</h2>
      <span class="steps"><button type="button" onClick=${() => move(-1)} disabled=${place <= 0} title="previous (k)" aria-label="Previous problem">◀</button>
      <span>${place >= 0 ? `${place + 1} of ${n}` : 'not in the list'}</span>
      <button type="button" onClick=${() => move(1)} disabled=${place >= n - 1} title="next (j)" aria-label="Next problem">▶</button></span></header>
    ${statement && (statement.text !== null ? html`<details class="statement" open><summary>Problem${statement.reference !== null && html` · answer: <b>${safe(statement.reference)}</b>`}</summary><div class="text" tabindex="0">${withFormulas(linesOf(statement.text))}</div></details>`
      : html`<p class="about">The text of the problem is not in this report${task.no_texts ? `: ${safe(task.no_texts)}` : ''}.</p>`)}
    ${filter.sample && html`<label class="about"><input type="checkbox" checked=${onlyMatching} onChange=${event => setOnlyMatching(event.target.checked)} /> only samples that the filter is about</label>`}
    ${picked.length === 1 && html`<p class="about" role="status">One sample is chosen; choose another one to see how they differ.</p>`}
    ${picked.length === 2 && html`<${Difference} picked=${picked} close=${() => setPicked([])} />`}
    <div class="sides">${sides.map(([name, run, number, other]) => html`<${Side} key=${name} name=${name} task=${task} run=${run} other=${other} label=${labels[number]} problem=${problem} narrowing=${narrowing} picked=${picked} pick=${pick} />`)}</div>
  </section>`;
}

// Return the samples of a problem in groups of one outcome and one strategy or answer, the largest first.
export function groupsOf(run, problem, narrowing) {
  const found = new Map();
  const start = run.start[problem];
  for (let row = start; row < start + run.n[problem]; row++) {
    if (narrowing && !narrowing(run, row)) continue;
    const key = `${run.o[row]} ${run.s[row]}`;
    if (!found.has(key)) found.set(key, {key, outcome: run.o[row], name: run.s[row], rows: []});
    found.get(key).rows.push(row);
  }
  const rank = {[RIGHT]: 0, [WRONG]: 1, [UNGRADED]: 2};
  return [...found.values()].sort((a, b) => (rank[a.outcome] ?? 3) - (rank[b.outcome] ?? 3) || b.rows.length - a.rows.length || a.rows[0] - b.rows[0]);
}

function Side({name, task, run, other, label, problem, narrowing, picked, pick}) {
  const groups = useMemo(() => groupsOf(run, problem, narrowing), [run, problem, narrowing]);
  const elsewhere = useMemo(() => (other ? strategies(other, problem) : new Map()), [other, problem]);
  const [most, setMost] = useState({}); // outcome -> groups shown
  const outcomes = [...new Set(groups.map(group => group.outcome))];
  const first = outcomes.length > 1 ? 3 : 12; // so that right and wrong ones are in view together
  return html`<div class="side"><h3><span class="letter">${name}</span> ${safe(label)}</h3>
    <p class="counts"><${Rate} right=${run.right[problem]} n=${run.graded[problem]} />
      <span>${run.n[problem]} samples${run.cut[problem] ? `, ${run.cut[problem]} cut off` : ''}${run.n[problem] - run.graded[problem] ? `, ${run.n[problem] - run.graded[problem]} ungraded` : ''}</span></p>
    ${groups.length === 0 && html`<p class="empty">No sample.</p>`}
    ${outcomes.map(outcome => {
    const same = groups.filter(group => group.outcome === outcome);
    const n = most[outcome] || first;
    return html`${same.slice(0, n).map((group, i) => html`<${Group} key=${`${outcome} ${task.groups[group.name]}`} task=${task} run=${run} label=${label} problem=${problem} group=${group} isOpen=${i < (outcomes.length > 1 ? 1 : 2)} isShared=${elsewhere.has(group.name)} hasOther=${other !== null} picked=${picked} pick=${pick} />`)}
      ${same.length > n && html`<button type="button" key=${outcome} onClick=${() => setMost({...most, [outcome]: n + 40})}>${same.length - n} more groups: ${OUTCOMES[outcome]}</button>`}`;
  })}
  </div>`;
}

function Group({task, run, label, problem, group, isOpen, isShared, hasOther, picked, pick}) {
  const [open, setOpen] = useState(isOpen);
  const [most, setMost] = useState(2);
  const what = task.solutions && group.outcome === RIGHT ? 'strategy' : 'answer';
  return html`<details class=${`group o${group.outcome}`} open=${open} onToggle=${event => setOpen(event.currentTarget.open)}>
    <summary><${OutcomeMark} code=${group.outcome} /> <span class="size">${group.rows.length}×</span>
      ${group.name >= 0 ? html`<span class="group-name" title=${what}>${task.groups[group.name]}</span>` : html`<i class="group-name">${run.x[group.rows[0]] === '0' ? 'nothing extracted' : `no ${what} named`}</i>`}
      ${hasOther && group.outcome === RIGHT && task.solutions && group.name >= 0 && html`<span class="tag">${isShared ? 'both' : 'only here'}</span>`}</summary>
    ${open && group.rows.slice(0, most).map(row => html`<${Sample} key=${run.i[row]} task=${task} run=${run} label=${label} problem=${problem} row=${row} picked=${picked} pick=${pick} />`)}
    ${open && group.rows.length > most && html`<button type="button" onClick=${() => setMost(most + 32)}>${group.rows.length - most} more</button>`}
  </details>`;
}

function Sample({task, run, label, problem, row, picked, pick}) {
  const {value: sample, error} = useLoaded(() => openSample(run, row), [run, row]);
  const names = useContext(FlagNames);
  const key = `${label} ${task.problems[problem]} ${run.i[row]}`;
  const isPicked = picked.some(one => one.key === key);
  if (error) return html`<${Trouble} error=${error} />`;
  if (!sample) return html`<article class="sample loading">…</article>`;
  return html`<article class="sample">
    <header><a href=${address('run', [label, task.id, task.problems[problem], run.i[row]])} title="link to this sample">#${run.i[row]}</a>
      <span>${run.t[row]} tokens</span>
      ${isCut(run, row) && html`<span class="tag warn">cut off</span>`}${isUnread(run, row) && html`<span class="tag warn">not extracted</span>`}${isDisputed(run, row) && html`<span class="tag warn">graders disagree</span>`}<${Flags} names=${names} run=${run} row=${row} />
      <button type="button" class="plain" aria-pressed=${isPicked} onClick=${() => pick({key, run, row, name: `${label} #${run.i[row]}`})}>${isPicked ? 'chosen' : 'compare'}</button></header>
    <${SampleBody} sample=${sample} isShort=${true} />
  </article>`;
}

// --- two texts

function Difference({picked, close}) {
  const dialog = useRef(null);
  const keys = picked.map(one => one.key).join('|');
  const {value, error} = useLoaded(async () => {
    const [one, other] = await Promise.all(picked.map(({run, row}) => openSample(run, row)));
    return diffWordsWithSpace(one.text, other.text, {timeout: 3000, maxEditLength: 20000});
  }, [keys]);
  useEffect(() => { dialog.current?.showModal?.(); }, [keys]);
  return html`<dialog class="difference" ref=${dialog} onClose=${close} aria-label="How two samples differ">
    <header><h2>${safe(picked[0].name)} → ${safe(picked[1].name)}</h2><button type="button" onClick=${close}>Close</button></header>
    ${error ? html`<${Trouble} error=${error} />` : value === null ? html`<p>…</p>`
      : value === undefined ? html`<p>These texts have too little in common.</p>`
        : html`<div class="text" tabindex="0">${value.map(part => (part.added ? html`<ins>${visible(part.value)}</ins>` : part.removed ? html`<del>${visible(part.value)}</del>` : visible(part.value)))}</div>`}
  </dialog>`;
}
