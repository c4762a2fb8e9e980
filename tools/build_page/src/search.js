// Search in the texts of all samples: a scan of the chunks, one after another, with the hits shown as they come.

import {useEffect, useState} from 'preact/hooks';
import {openTask, chunk} from './data.js';
import {safe, visible} from './text.js';
import {OutcomeMark, Trouble, address, html} from './ui.js';

const MOST = 300;
const AROUND = 80;

function snippet(text, at, length) {
  const from = Math.max(0, at - AROUND);
  const to = Math.min(text.length, at + length + AROUND);
  return [(from > 0 ? '…' : '') + text.slice(from, at), text.slice(at, at + length), text.slice(at + length, to) + (to < text.length ? '…' : '')];
}

// Call `found` with each hit and `progress` with the share of the chunks read, until `isOver` says so.
async function scan(main, words, isOver, found, progress) {
  const needle = words.toLowerCase();
  const total = main.tasks.reduce((n, task) => n + task.samples, 0);
  let done = 0;
  for (const info of main.tasks) {
    const task = await openTask(info);
    for (const run of task.runs.values()) {
      let problemAt = 0;
      let end = run.n[run.p[0]] ?? 0;
      for (let k = 0; k < run.chunks.length && !isOver(); k++) {
        const rows = await chunk(run.chunks[k]);
        for (let i = 0; i < rows.length; i++) {
          const row = run.starts[k] + i;
          while (row >= end) end += run.n[run.p[++problemAt]];
          const text = rows[i][0];
          const at = text.toLowerCase().indexOf(needle);
          if (at >= 0) found({label: main.runs[run.run].label, task, run, row, problem: run.p[problemAt], parts: snippet(text, at, words.length)});
          if (isOver()) return;
        }
        done += rows.length;
        progress(done / total);
      }
    }
  }
}

export function Search({main, query}) {
  const words = query.q || '';
  const [state, setState] = useState({hits: [], share: 0, isDone: false, error: null});
  useEffect(() => {
    let isOver = words.trim() === '';
    const hits = [];
    const show = changed => isOver || setState(old => ({...old, hits: [...hits], ...changed}));
    setState({hits: [], share: 0, isDone: isOver, error: null});
    let shown = 0;
    if (!isOver) {
      scan(main, words, () => isOver || hits.length >= MOST, hit => hits.push(hit), share => {
        if (share - shown > 0.02 || share === 1) { shown = share; show({share}); }
      }).then(() => show({isDone: true, share: 1}), error => show({error}));
    }
    return () => { isOver = true; };
  }, [words]); // not again when the runs of a served page grow
  return html`<h1>Search</h1>
    <p role="status">${words.trim() === '' ? 'Type words in the field at the top.'
    : `${state.hits.length}${state.hits.length >= MOST ? ' or more' : ''} samples with “${safe(words)}”${state.isDone ? '' : `; ${Math.round(100 * state.share)} % read`}`}</p>
    ${state.error && html`<${Trouble} error=${state.error} />`}
    <ol class="hits">${state.hits.map(({label, task, run, row, problem, parts}) => html`<li key=${`${task.id} ${label} ${row}`}>
      <a href=${address('run', [label, task.id, task.problems[problem], run.i[row]])}>${safe(label)} · ${safe(task.problems[problem])} #${run.i[row]}</a> <${OutcomeMark} code=${run.o[row]} />
      <div class="snippet">${visible(parts[0])}<mark>${visible(parts[1])}</mark>${visible(parts[2])}</div></li>`)}</ol>`;
}
