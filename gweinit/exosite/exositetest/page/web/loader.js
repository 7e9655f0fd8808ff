// Loading what a view shows, again and again.

import {notify} from './dom.js';

// loader calls load with a signal: at once, and again after each call of
// again(), but never twice at the same time, and not more often than each
// pause ms. A failure is told once until something works.
export function loader(load, pause = 300) {
  const leaving = new AbortController();
  let running = false, wanted = false, failed = false;
  async function run() {
    running = true;
    while (wanted && !leaving.signal.aborted) {
      wanted = false;
      try {
        await load(leaving.signal);
        failed = false;
      } catch (error) {
        if (leaving.signal.aborted) break;
        if (!failed) notify(error.message, 'bad');
        failed = true;
      }
      await new Promise(done => setTimeout(done, pause));
    }
    running = false;
  }
  const again = () => {
    wanted = true;
    if (!running) run();
  };
  again();
  return {again, close: () => leaving.abort(), signal: leaving.signal};
}
