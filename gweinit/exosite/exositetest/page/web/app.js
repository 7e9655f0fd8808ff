// Which view is shown, and what changes in it.

import {get, live} from './api.js';
import {el, notify, update} from './dom.js';
import {showDevices} from './devices.js';
import {showDevice} from './device.js';
import {showContent} from './content.js';
import {showRequests} from './requests.js';

const main = document.getElementById('main');

// A view fills the main part and returns {change(message), close()}. It gets
// what is behind its name in the address.
const views = {devices: showDevices, device: showDevice, content: showContent, requests: showRequests};

let view = null;
let product = {product: '', resources: []};

function show() {
  const [, part = 'devices', argument = ''] = location.hash.split('/');
  let wanted = '';
  try {
    wanted = decodeURIComponent(argument);
  } catch { /* somebody's typing error: there is no such device */ }
  const make = Object.hasOwn(views, part) ? views[part] : showDevices;
  view?.close();
  update(main);
  for (const a of document.querySelectorAll('nav a')) {
    const here = a.hash === `#/${part === 'device' ? 'devices' : part}`;
    if (here) a.setAttribute('aria-current', 'page');
    else a.removeAttribute('aria-current');
  }
  const titles = {device: wanted, content: 'Content', requests: 'Requests and faults'};
  document.title = `${titles[part] ?? 'Devices'} – Exosite emulator`;
  window.scrollTo(0, 0);
  view = make(main, product, wanted);
}

function connected(yes) {
  const link = document.getElementById('link');
  link.textContent = yes ? 'live' : 'not connected';
  link.className = `badge ${yes ? 'good' : 'bad'}`;
}

async function start() {
  try {
    product = await get('/page/product');
  } catch (error) {
    update(main, el('p', {class: 'notice bad'}, `The page cannot begin: ${error.message}`));
    connected(false);
    setTimeout(start, 2000);
    return;
  }
  document.getElementById('product').textContent = product.product;
  window.addEventListener('hashchange', () => { show(); main.focus({preventScroll: true}); });
  window.addEventListener('unhandledrejection', e => {
    if (e.reason?.name === 'AbortError') e.preventDefault(); // a view that was left
    else notify(String(e.reason?.message ?? e.reason), 'bad');
  });
  show();
  live(message => view?.change(message), connected);
}

start();
