// A page that is served: it asks for newer states of its runs, and shows them in the place that is open.

import {useEffect, useState} from 'preact/hooks';
import {chunk, live} from './data.js';
import {safe} from './text.js';
import {html} from './ui.js';

const EVERY_MS = 2000;

export const Root = ({App, first}) => (live ? html`<${Live} App=${App} first=${first} />` : html`<${App} main=${first} />`);

function Live({App, first}) {
  const [shown, setShown] = useState({main: first, number: Number(document.documentElement.dataset.main)});
  const [newest, setNewest] = useState(null);
  const [isLost, setLost] = useState(false);
  const [follows, setFollows] = useState(true);
  useEffect(() => {
    let timer = null;
    const ask = async () => {
      if (!document.hidden) {
        await live.state().then(state => { setNewest(state); setLost(false); }, () => setLost(true));
      }
      timer = setTimeout(ask, EVERY_MS);
    };
    ask();
    return () => clearTimeout(timer);
  }, []);
  const isOld = newest !== null && newest.main !== shown.number;
  const show = ({main: number}) => chunk(number).then(main => setShown({main, number}), () => {}); // asked again soon
  useEffect(() => { if (isOld && follows) show(newest); }, [isOld, follows, newest]);
  const status = html`<span class="live"><label title="show new samples and steps as they come"><input type="checkbox" checked=${follows} onChange=${event => setFollows(event.target.checked)} /> live</label>
    ${isOld && !follows && html` <button type="button" onClick=${() => show(newest)}>show what is new</button>`}
    ${newest && !isOld && html` <span class="count">${new Date(newest.made).toLocaleTimeString()}</span>`}</span>`;
  const trouble = isLost ? html`<p class="trouble" role="alert">The server does not answer any more; this is the last state. \`harness view\` starts it again.</p>`
    : newest?.error && html`<p class="trouble" role="alert">The page can't be brought up to date: ${safe(newest.error)}</p>`;
  return html`<${App} main=${shown.main} status=${status} trouble=${trouble} />`;
}
