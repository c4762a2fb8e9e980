// Of a page that is served: its chunks and its state come from the server that it came from.
window.harnessLive = {
  chunk: async number => {
    const answer = await fetch(`chunks/${number}`);
    if (!answer.ok) throw new Error('it belongs to an earlier state, which the server no longer keeps');
    return answer.text();
  },
  state: async () => {
    const answer = await fetch('state');
    if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
    return answer.json();
  },
};
