// Training runs: the curve of each metric over the steps, with the runs on top of one another, and one step in full.

import {useMemo, useRef, useState} from 'preact/hooks';
import {chunk, number} from './data.js';
import {safe} from './text.js';
import {SampleBody} from './sample.js';
import {Trouble, address, goInPlace, html, useLoaded} from './ui.js';

const GROUPS = [
  ['Rewards', /^(reward|solve_rate|groups_with|distinct|n_ungraded|val|eval)/],
  ['Samples', /^(mean_tokens|truncated|n_|sampling_rounds|tokens)/],
  ['Policy', /^(entropy|kl|importance|ratio|clip|weight|logp|mismatch|off_policy)/],
  ['Partition function', /^log_z/],
  ['Optimiser', /^(loss|grad|lr|update|critic|value|advantage|policy)/],
  ['Time', /_s$|^tokens_per|memory/],
];
const WIDTH = 320;
const HEIGHT = 150;
const PAD = {left: 46, right: 8, top: 8, bottom: 20};

function grouped(names) {
  const time = GROUPS.at(-1);
  const groupOf = name => (time[1].test(name) ? time[0] : GROUPS.find(([, pattern]) => pattern.test(name))?.[0] || 'Others');
  const found = new Map(GROUPS.map(([title]) => [title, []]));
  for (const name of names) {
    const title = groupOf(name);
    found.set(title, [...(found.get(title) || []), name]);
  }
  return [...found].filter(([, members]) => members.length);
}

function ticks(low, high) {
  const step = 10 ** Math.floor(Math.log10((high - low) / 2 || 1));
  const size = [1, 2, 5, 10].map(k => k * step).find(k => (high - low) / k <= 3.5) || step;
  const found = [];
  for (let v = Math.ceil(low / size) * size; v <= high + size * 1e-9; v += size) found.push(Math.abs(v) < size * 1e-9 ? 0 : v);
  return found;
}

function Curve({name, runs, step, choose}) {
  const [hover, setHover] = useState(null);
  const picture = useRef(null);
  const shape = useMemo(() => {
    const values = runs.flatMap(run => run.metrics[name] || []).filter(Number.isFinite);
    const steps = runs.flatMap(run => run.steps);
    let [low, high] = [values.reduce((a, b) => Math.min(a, b), Infinity), values.reduce((a, b) => Math.max(a, b), -Infinity)];
    if (low === high) { low -= Math.abs(low) * 0.1 || 0.5; high += Math.abs(high) * 0.1 || 0.5; }
    const [first, last] = [steps.reduce((a, b) => Math.min(a, b), Infinity), steps.reduce((a, b) => Math.max(a, b), 1)];
    const x = s => PAD.left + (s - first) / (last - first || 1) * (WIDTH - PAD.left - PAD.right);
    const y = v => HEIGHT - PAD.bottom - (v - low) / (high - low) * (HEIGHT - PAD.top - PAD.bottom);
    const lines = runs.map(run => (run.metrics[name] || []).map((v, i) => (Number.isFinite(v) ? `${x(run.steps[i]).toFixed(1)},${y(v).toFixed(1)}` : null))
      .reduce((parts, point) => { if (point === null) parts.push([]); else parts.at(-1).push(point); return parts; }, [[]]).filter(part => part.length));
    return {x, y, lines, first, last, ticks: ticks(low, high)};
  }, [runs, name]);
  const stepAt = event => {
    const box = picture.current.getBoundingClientRect();
    const share = ((event.clientX - box.left) / box.width * WIDTH - PAD.left) / (WIDTH - PAD.left - PAD.right);
    return Math.max(shape.first, Math.min(shape.last, Math.round(shape.first + share * (shape.last - shape.first))));
  };
  const at = hover ?? step;
  const valueAt = run => run.metrics[name]?.[run.steps.indexOf(at)];
  return html`<figure class="curve"><figcaption>${safe(name)}</figcaption>
    <svg ref=${picture} viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} role="img" aria-label=${`${name} by step`} onMouseMove=${event => setHover(stepAt(event))} onMouseLeave=${() => setHover(null)} onClick=${event => choose(stepAt(event))}>
      ${shape.ticks.map(v => html`<line class="grid" x1=${PAD.left} x2=${WIDTH - PAD.right} y1=${shape.y(v)} y2=${shape.y(v)} /><text x=${PAD.left - 4} y=${shape.y(v) + 3} text-anchor="end">${number(v)}</text>`)}
      <text x=${PAD.left} y=${HEIGHT - 5}>${shape.first}</text><text x=${WIDTH - PAD.right} y=${HEIGHT - 5} text-anchor="end">${shape.last}</text>
      ${at !== null && html`<line class="at" x1=${shape.x(at)} x2=${shape.x(at)} y1=${PAD.top} y2=${HEIGHT - PAD.bottom} />`}
      ${shape.lines.map((parts, i) => parts.map(points => (points.length > 1 ? html`<polyline class=${`line c${i % 8}`} points=${points.join(' ')} />`
    : html`<circle class=${`dot c${i % 8}`} cx=${points[0].split(',')[0]} cy=${points[0].split(',')[1]} r="2.5" />`)))}
    </svg>
    <p class="readout">${at === null ? '' : html`step ${at}: ${runs.map((run, i) => html`<span class=${`key c${i % 8}`}>${number(valueAt(run))}</span> `)}`}</p></figure>`;
}

export function Training({main, query}) {
  const {value, error} = useLoaded(() => Promise.all(main.training.map(async one => ({label: main.runs[one.run].label, ...(await chunk(one.chunk))}))), [main]);
  if (error) return html`<${Trouble} error=${error} />`;
  if (!value) return html`<p class="loading" role="status">Opening the training runs.</p>`;
  return html`<${Curves} all=${value} query=${query} />`;
}

function Curves({all, query}) {
  const [hidden, setHidden] = useState(new Set());
  const runs = useMemo(() => all.filter(run => !hidden.has(run.label)), [all, hidden]);
  const names = useMemo(() => [...new Set(all.flatMap(run => Object.keys(run.metrics)))].filter(
    name => all.some(run => run.metrics[name]?.some(Number.isFinite))), [all]);
  const step = query.step === undefined ? null : Number(query.step);
  const choose = chosen => goInPlace(address('training', [], {...query, step: chosen}));
  const last = all.reduce((most, run) => Math.max(most, run.steps.at(-1) || 0), 1);
  const toggle = label => setHidden(old => { const next = new Set(old); if (!next.delete(label)) next.add(label); return next; });
  return html`<h1>Training</h1>
    <p class="legend">${all.map((run, i) => html`<label><input type="checkbox" checked=${!hidden.has(run.label)} onChange=${() => toggle(run.label)} /> <span class=${`key c${runs.indexOf(run) < 0 ? 'none' : runs.indexOf(run) % 8}`}>${safe(run.label)}</span> (${run.steps.length} steps)</label>`)}</p>
    <p class="step-choice"><label>Step <input type="range" min="1" max=${last} value=${String(step ?? last)} onInput=${event => choose(Number(event.target.value))} /> <output>${step ?? 'none chosen'}</output></label>
      ${step !== null && html`<button type="button" onClick=${() => choose(null)}>close the step</button>`}</p>
    ${step === null && all.some(run => run.groups.length) && html`<p class="about">Choose a step, here or in a curve, for its metrics and the rollouts that were kept.</p>`}
    ${step !== null && html`<${Step} runs=${runs} names=${names} step=${step} choose=${choose} />`}
    ${grouped(names).map(([title, members]) => html`<section key=${title}><h2>${title}</h2><div class="curves">${members.map(name => html`<${Curve} key=${name} name=${name} runs=${runs} step=${step} choose=${choose} />`)}</div></section>`)}
    ${all.some(run => run.warnings.length) && html`<section><h2>Warnings</h2><ul>${all.flatMap(run => run.warnings.map(([at, text]) => html`<li>${safe(run.label)}, step ${at}: ${safe(text)}</li>`))}</ul></section>`}`;
}

function Step({runs, names, step, choose}) {
  return html`<section class="step"><h2>Step ${step}</h2><details><summary>all metrics of this step</summary>
    <div class="scroll" tabindex="0" role="region" aria-label="Metrics of the step"><table><thead><tr><th scope="col">metric</th>${runs.map(run => html`<th scope="col">${safe(run.label)}</th>`)}</tr></thead>
    <tbody>${names.map(name => html`<tr><th scope="row">${safe(name)}</th>${runs.map(run => html`<td class="number">${number(run.metrics[name]?.[run.steps.indexOf(step)])}</td>`)}</tr>`)}</tbody></table></div></details>
    ${runs.filter(run => run.groups.length).map(run => html`<${Rollouts} key=${run.label} run=${run} step=${step} choose=${choose} />`)}</section>`;
}

// --- the rollouts of a step

const BINS = 10;

// Return bins of equal width over the rewards; few different rewards get a bin each.
export function binsOf(rewards) {
  const different = [...new Set(rewards)].sort((a, b) => a - b);
  if (different.length <= BINS) return different.map(value => ({low: value, high: value, has: reward => reward === value}));
  const [low, high] = [different[0], different.at(-1)];
  const width = (high - low) / BINS;
  return Array.from({length: BINS}, (_, i) => {
    const [from, to] = [low + i * width, i === BINS - 1 ? high : low + (i + 1) * width];
    return {low: from, high: to, has: reward => reward >= from && (i === BINS - 1 ? reward <= high : reward < to)};
  });
}

function Rollouts({run, step, choose}) {
  const kept = run.groups.map(([at]) => at);
  const nearest = kept.reduce((best, at) => (Math.abs(at - step) < Math.abs(best - step) ? at : best), kept[0]);
  const {value, error} = useLoaded(() => chunk(run.groups.find(([at]) => at === nearest)[1]), [run, nearest]);
  const [bin, setBin] = useState(null);
  if (nearest !== step) {
    return html`<p class="about">${safe(run.label)} kept rollouts of other steps; the nearest is <button type="button" class="plain" onClick=${() => choose(nearest)}>step ${nearest}</button>.</p>`;
  }
  if (error) return html`<${Trouble} error=${error} />`;
  if (!value) return html`<p class="loading" role="status">…</p>`;
  const groups = value.map(group => ({...group, samples: group.samples.map(sampleOf)}))
    .map(group => ({...group, mean: mean(group.samples.map(one => one.reward).filter(reward => reward !== null))}));
  const rewards = groups.flatMap(group => group.samples.map(one => one.reward)).filter(reward => reward !== null);
  const bins = binsOf(rewards);
  const counts = bins.map(one => rewards.filter(one.has).length);
  const most = Math.max(1, ...counts);
  const chosen = bin === null ? null : bins[bin];
  return html`<section class="rollouts"><h3>Rollouts of ${safe(run.label)}</h3>
    <div class="histogram" role="group" aria-label="Rewards; choose a bin for its samples">${bins.map((one, i) => html`<button type="button" aria-pressed=${bin === i} onClick=${() => setBin(bin === i ? null : i)}>
      <span class="bar" style=${{height: `${4 + 60 * counts[i] / most}px`}} aria-hidden="true"></span><span>${number(one.low)}${one.high !== one.low ? `–${number(one.high)}` : ''}</span><span class="count">${counts[i]}</span></button>`)}</div>
    <p class="about">${groups.length} groups, ${rewards.length} rewards, mean ${number(mean(rewards))}${value.length >= run.most_groups ? `; a report keeps the first ${run.most_groups} groups of a step` : ''}. ${chosen && 'Only samples of the chosen bin are shown.'}</p>
    ${groups.map(group => html`<${RolloutGroup} key=${group.problem} group=${group} pieces=${run.pieces} bin=${chosen} />`)}</section>`;
}

const mean = values => (values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null);
const sampleOf = ([index, text, reward, outcome, extracted, reason, finish, nTokens, tokens]) => ({
  index, text, reward, outcome, extracted, reason, finish, nTokens, tokens: tokens || null, details: {}, others: {}, likelihoods: [],
});

function RolloutGroup({group, pieces, bin}) {
  const [most, setMost] = useState(2);
  const samples = group.samples.filter(one => bin === null || (one.reward !== null && bin.has(one.reward)))
    .sort((a, b) => (b.reward ?? -Infinity) - (a.reward ?? -Infinity) || a.index - b.index);
  if (!samples.length) return null;
  // The best and the worst first; the others on demand.
  const shown = samples.length <= most ? samples : [...samples.slice(0, most - 1), samples.at(-1)];
  return html`<details class="group" open><summary><b>${safe(group.problem)}</b> mean reward ${number(group.mean)} of ${group.samples.length}${group.left_out && html`<span class="tag">left out of the update</span>`}
      <span class="strip" aria-hidden="true">${group.samples.map(one => html`<span class=${`o${one.outcome === 'correct' ? 1 : one.outcome === 'incorrect' ? 0 : 2}`}></span>`)}</span></summary>
    ${shown.map((one, i) => html`<article class="sample" key=${one.index}><header><span>#${one.index}</span> <b>reward ${number(one.reward)}</b> ${samples.length > 1 && i === 0 && html`<span class="tag">best</span>`}${samples.length > 1 && one === samples.at(-1) && html`<span class="tag">worst</span>`} <span>${one.nTokens} tokens</span>${one.finish === 'length' && html`<span class="tag warn">cut off</span>`}</header>
      <${SampleBody} sample=${{...one, pieces}} isShort=${true} /></article>`)}
    ${samples.length > most && html`<button type="button" onClick=${() => setMost(most + 16)}>${samples.length - most} more</button>`}</details>`;
}
