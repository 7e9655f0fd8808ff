// What was asked of the emulator, and what it does wrong on command.

import {get, send} from './api.js';
import {attempt, badge, details, el, field, name, notify, table, update} from './dom.js';
import {loader} from './loader.js';
import {plain} from './reports.js';
import {ago, bytes, count} from './units.js';

const requestsPath = '/emulator/requests', faultsPath = '/emulator/faults';
const every = 2000, most = 200; // ms, rows

const calls = ['activate', 'write', 'read', 'readwrite', 'poll', 'record', 'contentlist', 'contentinfo', 'content', 'timestamp', 'manage'];

export function showRequests(main) {
  const filter = el('input', {type: 'search', id: 'request-filter', placeholder: 'Call, serial number, path, status', oninput: () => showList()});
  const box = el('div', {id: 'requests'}), faults = el('div', {id: 'faults'});
  let requests = [];

  const showList = () => {
    const text = filter.value.trim().toLowerCase();
    const found = requests.filter(r => text === '' || [r.call, r.serial, r.path, r.status, r.method].some(v => plain(v).toLowerCase().includes(text)));
    const columns = [{title: 'Time'}, {title: 'Call'}, {title: 'Serial number'}, {title: 'Status', class: 'num'}, {title: 'Method and path', class: 'wide'},
      {title: 'In', class: 'num wide'}, {title: 'Out', class: 'num wide'}, {title: 'Took', class: 'num wide'}, {title: 'From', class: 'wide'}, {title: 'Fault', class: 'num'}];
    update(box, found.length === 0 ? el('p', {class: 'empty'}, requests.length === 0 ? 'No request has come yet.' : 'No request matches.') : [
      table('Requests', columns, found.slice(0, most).map(r => [
        ago(r.time), r.call || '–', el('span', {class: 'mono'}, name(r.serial || '–')),
        badge(r.status ? String(r.status) : 'none', statusKind(r.status)), el('span', {class: 'mono'}, name(`${r.method} ${r.path}`)),
        bytes(r.in), bytes(r.out), took(r.duration), el('span', {class: 'mono muted'}, r.from),
        r.fault ? badge(String(r.fault), 'warn') : ''])),
      found.length > most ? el('p', {class: 'muted'}, `and ${count(found.length - most)} older ones`) : null]);
  };

  const list = loader(async signal => {
    const answer = await get(requestsPath, null, signal);
    answer.reverse(); // the newest first
    if (requests.length > 0 && JSON.stringify(answer) === JSON.stringify(requests)) return; // what is marked stays so
    requests = answer;
    showList();
  });

  const remove = (what, path) => async () => {
    if (await attempt(what, () => send('DELETE', path))) {
      notify(what);
      faultList.again();
    }
  };
  let before = '';
  const faultList = loader(async signal => {
    const all = await get(faultsPath, null, signal), text = JSON.stringify(all);
    if (text === before) return;
    before = text;
    update(faults, all.length === 0 ? el('p', {class: 'empty'}, 'None: the emulator does all as it should.') : [
      table('Faults', [{title: 'Number', class: 'num tight'}, {title: 'Fault'}, {title: 'Actions', class: 'tight'}], all.map(({id, ...fault}) => [String(id),
        el('span', {class: 'mono cut'}, Object.entries(fault).map(([k, v]) => `${k}: ${plain(v)}`).join(', ')),
        el('button', {type: 'button', 'data-key': `fault ${id}`, onclick: remove('Cleared the fault', `${faultsPath}/${id}`)}, 'Clear')])),
      all.length > 1 ? el('div', {class: 'buttons'}, el('button', {type: 'button', class: 'danger', 'data-key': 'clear', onclick: remove('Cleared all faults', faultsPath)}, 'Clear all')) : null]);
  });

  update(main, el('div', {class: 'heading'}, el('h1', null, 'Requests and faults')),
    el('section', {class: 'card'}, el('h2', null, 'Faults'), faults, details('add fault', 'Add a fault', faultForm(faultList.again))),
    el('div', {class: 'bar-row'}, field('Filter requests', filter)), box);
  const polling = setInterval(() => { if (!document.hidden) { list.again(); faultList.again(); } }, every);
  return {change: m => { if (m.again) { list.again(); faultList.again(); } }, close: () => { clearInterval(polling); list.close(); faultList.close(); }};
}

// took is a duration in seconds.
function took(s) {
  if (!Number.isFinite(s)) return '–';
  return s < 1e-3 ? `${Math.round(s * 1e6)} µs` : s < 1 ? `${(s * 1e3).toFixed(1)} ms` : `${s.toFixed(1)} s`;
}

function statusKind(s) { return s >= 200 && s < 400 ? 'good' : s >= 500 || !s ? 'bad' : 'warn'; }

// Effects are what a fault can do: name, label, what is put in.
const effects = [
  ['status', 'Status', {type: 'number', min: 100, max: 599, placeholder: '503'}],
  ['retry_after', 'Retry-After', {placeholder: '30'}],
  ['body', 'Body', {}],
  ['delay', 'Delay', {placeholder: '2s'}],
  ['rate', 'Bytes per second', {type: 'number', min: 1}],
  ['drop_after', 'Drop after bytes', {type: 'number', min: 1}],
  ['length_by', 'Wrong length by', {type: 'number'}],
  ['flip_at', 'Flip the byte at', {type: 'number', min: 0}],
  ['clock', 'Clock wrong by', {placeholder: '-24h'}],
  ['hang', 'Never answer', {type: 'checkbox'}],
  ['drop', 'Drop connection', {type: 'checkbox'}],
  ['ignore_range', 'Ignore ranges', {type: 'checkbox'}],
];

function faultForm(added) {
  const call = el('select', {id: 'fault-call'}, el('option', {value: ''}, 'any'), calls.map(c => el('option', null, c)));
  const serial = el('input', {autocomplete: 'off', spellcheck: 'false', placeholder: 'any'});
  const times = el('input', {type: 'number', min: 1, step: 1, placeholder: 'until cleared'});
  const inputs = effects.map(([key, label, props]) => ({key, label, input: el('input', {autocomplete: 'off', ...props, id: `fault-${key}`})}));
  const text = el('textarea', {rows: 2, class: 'mono', spellcheck: 'false', required: true, id: 'fault-text'});
  const compose = () => {
    const fault = {};
    if (call.value) fault.call = call.value;
    if (serial.value.trim()) fault.serial = serial.value.trim();
    if (times.value) fault.times = times.valueAsNumber;
    for (const {key, input} of inputs) {
      if (input.type === 'checkbox') { if (input.checked) fault[key] = true; }
      else if (input.value !== '') fault[key] = input.type === 'number' ? input.valueAsNumber : input.value;
    }
    text.value = Object.keys(fault).length ? JSON.stringify(fault) : '';
  };
  return el('form', {
    oninput: e => { if (e.target !== text) compose(); },
    onsubmit: async e => {
      e.preventDefault();
      const form = e.target;
      if (await attempt('Add the fault', () => send('POST', faultsPath, null, text.value, 'application/json'))) {
        notify('Added a fault');
        form.reset();
        added();
      }
    }},
    el('div', {class: 'fault'}, field('Call', call), field('Serial number', serial), field('Times', times), inputs.map(i => field(i.label, i.input))),
    field('As JSON', text, 'made from the fields above; can be edited'),
    el('div', {class: 'buttons'}, el('button', {class: 'main', id: 'add-fault'}, 'Add the fault')));
}
