// Training runs: the curve of each metric over the steps, with the runs on top of one another, and one step in full.

import {useEffect, useMemo, useRef, useState} from 'preact/hooks';
import {chunk, number} from './data.js';
import {isTyping} from './samples.js';
import {safe, withFormulas} from './text.js';
import {SampleBody} from './sample.js';
import {OutcomeMark, Trouble, address, goInPlace, html, useLoaded} from './ui.js';

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

// Return the steps of which any run kept rollouts.
const keptSteps = runs => [...new Set(runs.flatMap(run => run.groups.map(([step]) => step)))].sort((a, b) => a - b);

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
    return {x, y, lines, first, last, kept: keptSteps(runs), ticks: ticks(low, high)};
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
      ${shape.kept.map(s => html`<path class="kept" d=${`M${shape.x(s)} ${HEIGHT - PAD.bottom}v5`} />`)}
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
  const chooseInCurve = chosen => { choose(chosen); setTimeout(() => document.querySelector('.step')?.scrollIntoView()); };
  const last = all.reduce((most, run) => Math.max(most, run.steps.at(-1) || 0), 1);
  const kept = keptSteps(runs);
  useEffect(() => {
    const onKey = event => {
      if (!['j', 'k'].includes(event.key) || event.ctrlKey || event.metaKey || event.altKey || (isTyping(event.target) && event.target.type !== 'range')) return;
      const next = event.key === 'j' ? kept.find(at => at > (step ?? 0)) : kept.findLast(at => at < (step ?? last + 1));
      if (next !== undefined) choose(next);
    };
    document.addEventListener('keydown', onKey);
    return () => document.removeEventListener('keydown', onKey);
  });
  const toggle = label => setHidden(old => { const next = new Set(old); if (!next.delete(label)) next.add(label); return next; });
  return html`<h1>Training</h1>
    <p class="legend">${all.map((run, i) => html`<label><input type="checkbox" checked=${!hidden.has(run.label)} onChange=${() => toggle(run.label)} /> <span class=${`key c${runs.indexOf(run) < 0 ? 'none' : runs.indexOf(run) % 8}`}>${safe(run.label)}</span> (${run.steps.length} steps)</label>`)}</p>
    <p class="step-choice"><label>Step <input type="range" min="1" max=${last} value=${String(step ?? last)} onInput=${event => choose(Number(event.target.value))} /> <output>${step ?? 'none chosen'}</output></label>
      ${step !== null && html`<button type="button" onClick=${() => choose(null)}>close the step</button>`}</p>
    ${kept.length > 0 && html`<div class="kept-steps" role="group" aria-label="Steps with rollouts"><span>Rollouts of step</span>${kept.map(at => html`<button type="button" key=${at} aria-pressed=${at === step} onClick=${() => choose(at === step ? null : at)}>${at}</button>`)}</div>`}
    ${step === null && html`<p class="about">Choose a step, here or in a curve, for its metrics${kept.length > 0 && ' and the rollouts that the run kept of it or of the nearest step. Marks under the curves are such steps'}.</p>`}
    ${step !== null && html`<${Step} runs=${runs} names=${names} step=${step} />`}
    ${grouped(names).map(([title, members]) => html`<section key=${title}><h2>${title}</h2><div class="curves">${members.map(name => html`<${Curve} key=${name} name=${name} runs=${runs} step=${step} choose=${chooseInCurve} />`)}</div></section>`)}
    ${all.some(run => run.warnings.length) && html`<section><h2>Warnings</h2><ul>${all.flatMap(run => run.warnings.map(([at, text]) => html`<li>${safe(run.label)}, step ${at}: ${safe(text)}</li>`))}</ul></section>`}`;
}

function Step({runs, names, step}) {
  return html`<section class="step"><h2>Step ${step}</h2><details><summary>all metrics of this step</summary>
    <div class="scroll" tabindex="0" role="region" aria-label="Metrics of the step"><table><thead><tr><th scope="col">metric</th>${runs.map(run => html`<th scope="col">${safe(run.label)}</th>`)}</tr></thead>
    <tbody>${names.map(name => html`<tr><th scope="row">${safe(name)}</th>${runs.map(run => html`<td class="number">${number(run.metrics[name]?.[run.steps.indexOf(step)])}</td>`)}</tr>`)}</tbody></table></div></details>
    <div class="of-runs">${runs.filter(run => run.groups.length).map(run => html`<${Rollouts} key=${run.label} run=${run} step=${step} />`)}</div></section>`;
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

function Rollouts({run, step}) {
  const at = run.groups.map(([kept]) => kept).reduce((best, kept) => (Math.abs(kept - step) < Math.abs(best - step) ? kept : best));
  const {value, error, isOld} = useLoaded(() => chunk(run.groups.find(([kept]) => kept === at)[1]), [run, at]);
  const [bin, setBin] = useState(null);
  useEffect(() => setBin(null), [at]);
  if (error) return html`<${Trouble} error=${error} />`;
  if (!value) return html`<p class="loading" role="status">…</p>`;
  const groups = value.map(group => ({...group, samples: group.samples.map(sampleOf)}));
  const rewards = groups.flatMap(group => group.samples.map(one => one.reward)).filter(reward => reward !== null);
  const bins = binsOf(rewards);
  const counts = bins.map(one => rewards.filter(one.has).length);
  const most = Math.max(1, ...counts);
  const chosen = bins[bin] || null;
  return html`<section class="rollouts" aria-busy=${Boolean(isOld)}><h3>Rollouts of ${safe(run.label)}, step ${at}${at !== step && html` <small>the nearest of which it kept some</small>`}</h3>
    <div class="histogram" role="group" aria-label="Rewards; choose a bin for its samples">${bins.map((one, i) => html`<button type="button" aria-pressed=${bin === i} onClick=${() => setBin(bin === i ? null : i)}>
      <span class="count">${counts[i]}</span><span class="bar" style=${{height: `${4 + 60 * counts[i] / most}px`}} aria-hidden="true"></span><span>${number(one.low)}${one.high !== one.low ? `–${number(one.high)}` : ''}</span></button>`)}</div>
    <p class="about">${groups.length} group${groups.length === 1 ? '' : 's'} of the step, ${rewards.length} rewards, mean ${number(mean(rewards))}. ${chosen ? html`Only samples of the chosen bin are shown. <button type="button" class="plain" onClick=${() => setBin(null)}>show all</button>` : 'Choose a bar to see its samples only.'}</p>
    ${groups.map(group => html`<${RolloutGroup} key=${`${at} ${group.problem}`} group=${group} pieces=${run.pieces} bin=${chosen} />`)}</section>`;
}

const mean = values => (values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null);
const sampleOf = ([index, text, reward, outcome, extracted, reason, finish, nTokens, tokens, shaped, advantage]) => ({
  index, text, reward, outcome, extracted, reason, finish, nTokens, tokens: tokens || null, shaped, advantage, details: {}, others: {}, likelihoods: [],
});
const codeOf = outcome => ({correct: 1, incorrect: 0})[outcome] ?? 2;
const signed = value => (value > 0 ? `+${number(value)}` : number(value));
const trainedReward = one => one.shaped ?? one.reward ?? -Infinity;

function RolloutGroup({group, pieces, bin}) {
  const [most, setMost] = useState(2);
  const ordered = [...group.samples].sort((a, b) => trainedReward(b) - trainedReward(a) || a.index - b.index);
  const [best, worst] = [ordered[0], ordered.at(-1)];
  const differ = trainedReward(best) !== trainedReward(worst);
  const samples = ordered.filter(one => bin === null || (one.reward !== null && bin.has(one.reward)));
  if (!samples.length) return null;
  // The best and the worst first; the others on demand.
  const shown = samples.length <= most ? samples : [...samples.slice(0, most - 1), samples.at(-1)];
  const rewards = group.samples.map(one => one.reward).filter(reward => reward !== null);
  return html`<details class="group" open><summary><b class="group-name">${safe(group.problem)}</b> mean reward ${number(mean(rewards))} of ${rewards.length}${!differ && html`<span class="tag">all equal</span>`}${group.left_out && html`<span class="tag">left out of the update</span>`}
      <span class="strip" aria-hidden="true">${ordered.map(one => html`<span class=${`o${codeOf(one.outcome)}`}></span>`)}</span></summary>
    ${group.prompt && html`<details class="statement"><summary>Prompt</summary><div class="text" dir="ltr" tabindex="0">${withFormulas(group.prompt)}</div></details>`}
    ${shown.map(one => html`<article class="sample" key=${one.index}><header><span>#${one.index}</span> <${OutcomeMark} code=${codeOf(one.outcome)} /> <b>reward ${number(one.reward)}</b>
        ${one.shaped !== undefined && one.shaped !== null && Math.abs(one.shaped - one.reward) > 1e-6 && html`<span>trained on ${number(one.shaped)}</span>`} ${one.advantage !== undefined && one.advantage !== null && html`<span title="what the objective makes of the reward; a mean where each token has its own">advantage ${signed(one.advantage)}</span>`}
        ${differ && one === best && html`<span class="tag">best</span>`}${differ && one === worst && html`<span class="tag">worst</span>`} <span>${one.nTokens} tokens</span>${one.finish === 'length' && html`<span class="tag warn">cut off</span>`}</header>
      <${SampleBody} sample=${{...one, reward: null, pieces}} isShort=${true} /></article>`)}
    ${samples.length > most && html`<button type="button" onClick=${() => setMost(most + 16)}>${samples.length - most} more</button>`}</details>`;
}
