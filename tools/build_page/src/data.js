// The data of the page: chunks that are opened on demand, and the columns of a task that filters scan.

const root = document.documentElement;
const folder = root.dataset.folder;
export const live = window.harnessLive; // of a page that is served: see reports/page/live.js
const texts = new Map(); // number -> the resolver of a chunk that is being loaded, in a page with a folder
const opened = new Map(); // number -> promise of its value, the least recently used first
const MOST_OPENED = 48;

const policy = folder && window.trustedTypes
  ? window.trustedTypes.createPolicy('chunks', {
    createScriptURL: url => {
      if (!/^report-data\/\d+\.js$/.test(url)) throw new TypeError(`not a chunk: ${url}`);
      return url;
    },
  })
  : null;

if (folder) window.harnessChunk = (number, text) => texts.get(number)?.(text);

function loadScript(number) {
  return new Promise((resolve, reject) => {
    const script = document.createElement('script');
    const url = `report-data/${number}.js`;
    const clean = () => { texts.delete(number); script.remove(); };
    texts.set(number, text => { clean(); resolve(text); });
    script.onerror = () => { clean(); reject(new Error(`${url} is missing; it belongs next to this page`)); };
    script.src = policy ? policy.createScriptURL(url) : url;
    document.head.append(script);
  });
}

// The chunks of a page in one file follow its script, so they may still be on their way.
const parsed = new Promise(resolve => {
  if (document.readyState !== 'loading') resolve();
  else document.addEventListener('DOMContentLoaded', resolve, {once: true});
});

async function textOf(number) {
  if (live) return live.chunk(number);
  if (folder) return loadScript(number);
  const id = `c${number}`;
  let block = document.getElementById(id);
  if (!block || !(block.nextElementSibling || document.readyState !== 'loading')) {
    await parsed;
    block = document.getElementById(id);
  }
  if (!block) throw new Error('the end of this file is missing');
  return block.textContent;
}

async function decode(text) {
  const packed = atob(text);
  const bytes = new Uint8Array(packed.length);
  for (let i = 0; i < packed.length; i++) bytes[i] = packed.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('deflate'));
  return JSON.parse(await new Response(stream).text());
}

export function chunk(number) {
  let value = opened.get(number);
  if (value) opened.delete(number);
  else {
    value = textOf(number).then(decode);
    value.catch(() => opened.delete(number));
  }
  opened.set(number, value);
  if (opened.size > MOST_OPENED) opened.delete(opened.keys().next().value);
  return value;
}

// Return the entry of a row in chunks that begin at `starts`.
async function rowOf({starts, chunks}, row) {
  let k = 0;
  let end = starts.length;
  while (end - k > 1) {
    const middle = (k + end) >> 1;
    if (starts[middle] <= row) k = middle; else end = middle;
  }
  return (await chunk(chunks[k]))[row - starts[k]];
}

export const RIGHT = '1';
export const WRONG = '0';
export const UNGRADED = '2';
export const NO_VERDICT = '3';
export const OUTCOMES = {0: 'wrong', 1: 'right', 2: 'ungraded', 3: 'no verdict yet'};
const CUT = '1';

const RESULT_FIELDS = ['right', 'graded', 'n', 'cut', 'unread', 'disagree', 'start'];

// Return the columns of one run with counts by problem.
function runColumns(run, nProblems) {
  const counts = Object.fromEntries(RESULT_FIELDS.map(name => [name, new Int32Array(nProblems)]));
  const others = Object.values(run.g);
  let row = 0;
  run.p.forEach((problem, place) => {
    counts.start[problem] = row;
    counts.n[problem] = run.n[place];
    for (const end = row + run.n[place]; row < end; row++) {
      const outcome = run.o[row];
      if (outcome === RIGHT) counts.right[problem]++;
      if (outcome === RIGHT || outcome === WRONG) counts.graded[problem]++;
      if (run.f[row] === CUT) counts.cut[problem]++;
      if (isUnread(run, row)) counts.unread[problem]++;
      if (isDisputed(run, row, others)) counts.disagree[problem]++;
    }
  });
  return {...run, ...counts};
}

export const isCut = (run, row) => run.f[row] === CUT;
export const isUnread = (run, row) => run.o[row] === WRONG && run.x[row] === '0';
export function isDisputed(run, row, others = Object.values(run.g)) {
  const own = run.o[row];
  if (own !== RIGHT && own !== WRONG) return false;
  return others.some(codes => (codes[row] === RIGHT || codes[row] === WRONG) && codes[row] !== own);
}

const tasks = new Map(); // id -> its newest chunk and the promise of its value
export function openTask(task) {
  if (tasks.get(task.id)?.chunk !== task.chunk) {
    const value = chunk(task.chunk).then(index => {
      const n = index.problems.length;
      const runs = new Map(index.runs.map(run => [run.run, runColumns(run, n)]));
      const shown = index.problems.map((_, p) => p).filter(p => [...runs.values()].some(run => run.n[p]));
      const numbers = new Map(index.problems.map((name, p) => [name, p]));
      return {...task, ...index, runs, shown, numbers};
    });
    tasks.set(task.id, {chunk: task.chunk, value});
  }
  return tasks.get(task.id).value;
}

// Return a sample with its texts.
export async function openSample(run, row) {
  const [text, extracted, reason, reward, details, others, likelihoods, tokens] = await rowOf(run, row);
  return {
    text, extracted, reason, reward, details: details || {}, others: others || {}, likelihoods: likelihoods || [],
    tokens: tokens || null, pieces: run.pieces,
  };
}

export async function openStatement(index, problem) {
  const [text, reference] = await rowOf(index.statements, problem);
  return {text, reference};
}

// --- numbers

const Z = 1.959963984540054;

// Return the 95% Wilson interval of a rate.
export function wilson(right, n) {
  if (!n) return [0, 1];
  const p = right / n;
  const scale = 1 + Z * Z / n;
  const centre = (p + Z * Z / (2 * n)) / scale;
  const half = Z * Math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n)) / scale;
  return [right ? Math.max(0, centre - half) : 0, right === n ? 1 : Math.min(1, centre + half)];
}

export function rateOf(run, problem) {
  return run.graded[problem] ? run.right[problem] / run.graded[problem] : null;
}

// Return how many right samples of a problem each strategy has.
export function strategies(run, problem) {
  const found = new Map();
  const start = run.start[problem];
  for (let row = start; row < start + run.n[problem]; row++) {
    if (run.o[row] === RIGHT) found.set(run.s[row], (found.get(run.s[row]) || 0) + 1);
  }
  return found;
}

// Return the share of right samples that use other strategies: 0 for the same mixture, 1 for disjoint ones.
export function distance(first, second) {
  const total = counts => [...counts.values()].reduce((sum, n) => sum + n, 0);
  const [n, m] = [total(first), total(second)];
  if (!n || !m) return 0;
  let sum = 0;
  for (const key of new Set([...first.keys(), ...second.keys()])) {
    sum += Math.abs((first.get(key) || 0) / n - (second.get(key) || 0) / m);
  }
  return sum / 2;
}

export const number = value => {
  if (value === null || value === undefined || Number.isNaN(value)) return '–';
  const size = Math.abs(value);
  if (size >= 1000 && size < 1e15) return value.toFixed(0);
  return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(4)));
};
export const rate = value => (value === null || value === undefined ? '–' : value.toFixed(3).replace(/^(-?)0\./, '$1.'));
export const pValue = p => (p < 0.001 ? 'p < .001' : `p = ${p.toFixed(3).replace(/^0/, '')}`);
