// One sample: its text, its verdict, its program with the test that failed, and the page of it.

import {useContext, useState} from 'preact/hooks';
import {createContext} from 'preact';
import {OUTCOMES, isCut, isDisputed, isUnread, number, openSample, openStatement, openTask} from './data.js';
import {linesOf, safe, visible, withFormulas} from './text.js';
import {OutcomeMark, Trouble, address, html, useLoaded} from './ui.js';

export const Formulas = createContext(true);
export const FlagNames = createContext([]);
const TAGGED = new Set(['graders disagree', 'token limit']); // with a tag of their own

export const Flags = ({names, run, row}) => names.map((name, place) => ((run.flags[row] >> place) & 1 && !TAGGED.has(name) ? html`<span class="tag warn">${name}</span>` : null));

const LONG = 1200;
const PROGRAM = /^(AC|WA|TLE|MLE|OLE|RE|CE)$/;
const PROGRAM_WORDS = {
  AC: 'passes all tests', WA: 'wrong answer', TLE: 'time limit', MLE: 'memory limit', OLE: 'output limit', RE: 'runtime error', CE: 'does not compile',
};
const TEST_PARTS = ['input', 'expected', 'got', 'difference', 'cause'];
const SHOWN_ELSEWHERE = new Set([...TEST_PARTS, 'verdict', 'test', 'solution', 'origin', 'n_tests', 'n_passed']);

export function SampleBody({sample, isShort}) {
  const drawn = useContext(Formulas);
  const [hasLens, setLens] = useState(false);
  const [isOpen, setOpen] = useState(!isShort);
  const isLong = sample.text.length > LONG;
  const text = isLong && !isOpen ? sample.text.slice(0, LONG) : sample.text;
  return html`
    ${sample.tokens && html`<button type="button" class="plain" aria-pressed=${hasLens} onClick=${() => setLens(!hasLens)}>${hasLens ? 'text' : 'token probabilities'}</button>`}
    ${hasLens ? html`<${Lens} sample=${sample} />` : sample.text ? html`<div class="text" dir="ltr">${drawn ? withFormulas(text) : visible(text)}${isLong && !isOpen && '…'}</div>` : html`<p class="empty">${sample.likelihoods.length ? '' : 'No text.'}</p>`}
    ${isLong && !hasLens && html`<button type="button" class="plain" onClick=${() => setOpen(!isOpen)}>${isOpen ? 'less' : `all ${sample.text.length} characters`}</button>`}
    ${sample.likelihoods.length > 0 && html`<table class="small"><thead><tr><th scope="col">passage</th><th scope="col">log-likelihood</th><th scope="col">tokens</th><th scope="col">greedy</th></tr></thead><tbody>
      ${sample.likelihoods.map((one, i) => html`<tr><td>${i + 1}</td><td>${number(one.logp)}</td><td>${one.n_tokens}</td><td>${one.is_greedy ? 'yes' : 'no'}</td></tr>`)}</tbody></table>`}
    <${Verdict} sample=${sample} isShort=${isShort} />`;
}

// --- the lens: each token with the probability that the sampler gave it

const LEVELS = [0.9, 0.5, 0.2, 0.05]; // shown in five shades, the darkest for the least likely
const MOST_TOKENS = 4000;

export function Lens({sample: {tokens: [ids, logps], pieces}}) {
  const known = logps.filter(Number.isFinite);
  const mean = known.reduce((sum, value) => sum + value, 0) / (known.length || 1);
  const lowest = known.reduce((a, b) => Math.min(a, b), 0);
  return html`<p class="about">${ids.length} tokens, mean log-probability ${number(mean)}, lowest ${number(lowest)}. <span class="lens">${['≥ .9', '.5', '.2', '.05', 'less'].map((words, i) => html`<span class=${`token l${i}`}>${words}</span> `)}</span></p>
    <div class="text lens" dir="ltr">${ids.slice(0, MOST_TOKENS).map((id, i) => {
    const p = Number.isFinite(logps[i]) ? Math.exp(logps[i]) : null;
    const level = p === null ? 0 : LEVELS.findIndex(least => p >= least);
    return html`<span class=${`token l${level < 0 ? 4 : level}`} title=${`p = ${number(p)}, log ${number(logps[i])}, token ${id}`}>${visible(pieces[id] ?? `⟨${id}⟩`)}</span>`;
  })}${ids.length > MOST_TOKENS && '…'}</div>`;
}

// Return the beginning of a text that may be megabytes long.
const cut = (text, most) => (text.length > most ? `${text.slice(0, most)} … (${text.length} characters)` : text);
const MOST_SHORT = 600;
const MOST_LONG = 50000;

function Verdict({sample, isShort}) {
  const {details, extracted, reason, reward, others} = sample;
  const most = isShort ? MOST_SHORT : MOST_LONG;
  const isProgram = PROGRAM.test(details.verdict) || (extracted || '').includes('\n');
  const rest = Object.entries(details).filter(([name]) => !SHOWN_ELSEWHERE.has(name));
  return html`${isProgram && html`<${Program} sample=${sample} isShort=${isShort} />`}<dl class="verdict">
    ${extracted !== null && extracted !== undefined && !isProgram && extracted !== sample.text.trim() && html`<dt>extracted</dt><dd>${visible(cut(extracted, most))}</dd>`}
    ${reason && !(isProgram && PROGRAM.test(reason.split(/[ :]/)[0])) && html`<dt>reason</dt><dd>${visible(cut(reason, most))}</dd>`}
    ${reward !== null && reward !== undefined && reward !== 0 && reward !== 1 && html`<dt>reward</dt><dd>${number(reward)}</dd>`}
    ${Object.entries(others).map(([name, [outcome, why]]) => html`<dt>by ${safe(name)}</dt><dd>${outcome}${why && `: ${safe(cut(why, most))}`}</dd>`)}
    ${!isShort && rest.map(([name, value]) => html`<dt>${safe(name)}</dt><dd>${visible(cut(typeof value === 'string' ? value : JSON.stringify(value), most))}</dd>`)}
  </dl>`;
}

// --- a program: the test that it failed, and its source unless the text above shows it

function Program({sample: {text, details, extracted}, isShort}) {
  const most = isShort ? MOST_SHORT : MOST_LONG;
  const isBroken = details.verdict === 'CE'; // whatever the test
  const shown = (isBroken ? ['cause'] : TEST_PARTS).filter(name => details[name] !== undefined && details[name] !== null && details[name] !== '');
  const isInText = Boolean(extracted) && text.length <= LONG && text.includes(extracted);
  const where = Number.isInteger(details.test) && !isBroken && [`on test ${details.test + 1}`, details.n_tests && `of ${details.n_tests}`, details.origin && `(${safe(details.origin)})`];
  return html`<section class="failure">
    <p><b>${details.verdict === 'AC' && details.n_tests ? `passes all ${details.n_tests} tests` : PROGRAM_WORDS[details.verdict] || 'program'}</b> ${where && where.filter(Boolean).join(' ')}${where && details.n_passed ? `, ${details.n_passed} passed` : ''}</p>
    ${shown.length > 0 && html`<dl class="test">${shown.map(name => html`<div class=${`part-${name}`}><dt>${name}</dt><dd><pre tabindex="0">${visible(cut(typeof details[name] === 'string' ? details[name] : JSON.stringify(details[name]), most))}</pre></dd></div>`)}</dl>`}
    ${extracted && html`<details class="program" open=${!isShort && !isInText}><summary>program</summary><pre tabindex="0"><code>${visible(cut(extracted, MOST_LONG))}</code></pre></details>`}
  </section>`;
}

// --- the page of one sample: #/run/RUN/TASK/PROBLEM/SAMPLE

export function SamplePage({main, parts}) {
  const [label, taskId, problemId, index] = parts;
  const info = main.tasks.find(task => task.id === taskId);
  const {value, error} = useLoaded(async () => {
    const task = info && await openTask(info);
    const run = task?.runs.get(main.runs.findIndex(one => one.label === label));
    const problem = task?.numbers.get(problemId);
    if (!run || problem === undefined || !run.n[problem]) return {};
    const start = run.start[problem];
    const indices = run.i.slice(start, start + run.n[problem]);
    const row = start + Math.max(0, indices.indexOf(Number(index)));
    const [sample, statement] = await Promise.all([openSample(run, row), openStatement(task, problem)]);
    return {task, run, row, sample, statement, indices};
  }, [main, ...parts]);
  if (error) return html`<${Trouble} error=${error} />`;
  if (!value) return html`<p class="loading" role="status">Opening the sample.</p>`;
  const {task, run, row, sample, statement, indices} = value;
  if (!sample) return html`<h1>Sample</h1><p class="trouble" role="alert">This report has no sample ${safe(parts.join(' / '))}.</p>`;
  const at = indices.indexOf(run.i[row]);
  const link = place => address('run', [label, taskId, problemId, indices[place]]);
  return html`<article class="sample-page">
    <h1>${safe(problemId)} <small>sample ${run.i[row]} of ${safe(label)}, ${safe(taskId)}</small></h1>
    <p class="counts"><${OutcomeMark} code=${run.o[row]} /> <span>by ${safe(run.grader)}</span> <span>${run.t[row]} tokens</span>
      ${run.s[row] >= 0 && task.solutions && html`<span>strategy: ${task.groups[run.s[row]]}</span>`}
      ${isCut(run, row) && html`<span class="tag warn">cut off</span>`}${isUnread(run, row) && html`<span class="tag warn">not extracted</span>`}${isDisputed(run, row) && html`<span class="tag warn">graders disagree</span>`}<${Flags} names=${main.flags} run=${run} row=${row} /></p>
    <p class="counts">${at > 0 && html`<a href=${link(at - 1)}>previous sample</a>`} <span>${at + 1} of ${indices.length}</span> ${at < indices.length - 1 && html`<a href=${link(at + 1)}>next sample</a>`}
      <a href=${address('samples', [taskId], {a: label, p: problemId})}>all samples of this problem</a></p>
    ${statement.text !== null && html`<details class="statement" open><summary>Problem${statement.reference !== null && html` · answer: <b>${safe(statement.reference)}</b>`}</summary><div class="text" tabindex="0">${withFormulas(linesOf(statement.text))}</div></details>`}
    <${SampleBody} key=${parts.join('/')} sample=${sample} isShort=${false} />
  </article>`;
}

export const outcomeName = code => OUTCOMES[code];
