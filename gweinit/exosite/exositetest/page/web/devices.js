// The list of devices.

import {get, send} from './api.js';
import {attempt, badge, confirm, el, field, name, notify, table, update} from './dom.js';
import {loader} from './loader.js';
import {apps, firmware, isRunning, memory, mounts, object, stateKind} from './reports.js';
import {ago, bytes, count, setNow} from './units.js';

const pageSize = 50;

const statusKinds = {activated: 'good', notactivated: 'warn', disabled: 'bad', unused: ''};
const statusNames = {activated: 'activated', notactivated: 'to be activated', disabled: 'disabled', unused: 'unused'};

export function status(s) { return badge(statusNames[s] ?? s, statusKinds[s]); }

// The filter stays while one looks at a device.
const wanted = {filter: '', sort: 'sn', offset: 0};

export function showDevices(main) {
  const chosen = new Set();
  let shown = [];

  const filter = el('input', {type: 'search', id: 'filter', placeholder: 'Serial number, extra or status', value: wanted.filter,
    oninput: () => { wanted.filter = filter.value; wanted.offset = 0; list.again(); }});
  const sort = el('select', {onchange: () => { wanted.sort = sort.value; wanted.offset = 0; list.again(); }},
    [['sn', 'Serial number'], ['seen', 'Last seen'], ['status', 'Status']].map(([value, text]) => el('option', {value, selected: value === wanted.sort}, text)));
  const box = el('div', {id: 'devices'});
  const bar = el('div', {class: 'bar-row'});
  const where = el('span', {class: 'muted', role: 'status'}), pages = el('div', {class: 'buttons'});

  const row = d => {
    const report = object(d.reports?.engine_report?.value ?? ''), info = object(d.reports?.device_info?.value ?? '');
    const all = apps(report), running = all.filter(a => isRunning(a.app)).length;
    const fw = firmware(report), mem = memory(info?.free);
    return [
      el('input', {type: 'checkbox', 'aria-label': `Choose ${d.sn}`, 'data-key': `choose ${d.sn}`, checked: chosen.has(d.sn),
        onchange: e => { if (e.target.checked) chosen.add(d.sn); else chosen.delete(d.sn); showBar(); }}),
      [el('a', {href: `#/device/${encodeURIComponent(d.sn)}`, class: 'mono', 'data-key': `open ${d.sn}`}, name(d.sn)),
        d.extra ? el('small', {class: 'muted'}, name(d.extra)) : null],
      status(d.status),
      ago(d.seen),
      [fw.version || '–', fw.slot ? el('span', {class: 'muted'}, ` slot ${fw.slot}`) : null],
      all.length ? el('span', {class: all.some(a => stateKind(a.app) === 'bad') ? 'attention' : ''}, `${running} / ${all.length}`) : '–',
      room(fullest(mounts(info?.df))),
      room(mem && {free: mem.available, total: mem.total}),
    ];
  };

  const showBar = () => {
    const sns = [...chosen];
    const act = (what, verb) => async () => {
      if (await attempt(verb, () => send('POST', `/page/devices/${what}`, null, {sn: sns}))) {
        notify(`${verb}: ${count(sns.length)} ${sns.length === 1 ? 'device' : 'devices'}`);
        chosen.clear();
        showBar();
        list.again();
      }
    };
    const remove = async () => {
      const all = sns.length === 1 ? sns[0] : `${count(sns.length)} devices`;
      if (await confirm(`Remove ${all}?`, 'The serial numbers, their credentials and all data of them are deleted.', 'Remove')) act('remove', 'Removed')();
    };
    bar.hidden = sns.length === 0;
    update(bar, el('span', null, `${count(sns.length)} chosen`),
      el('button', {type: 'button', onclick: act('enable', 'Enabled'), 'data-key': 'enable'}, 'Enable again'),
      el('button', {type: 'button', onclick: act('disable', 'Disabled'), 'data-key': 'disable'}, 'Disable'),
      el('button', {type: 'button', class: 'danger', onclick: remove, 'data-key': 'remove'}, 'Remove'),
      el('button', {type: 'button', class: 'quiet', 'data-key': 'none', onclick: () => { chosen.clear(); showBar(); list.again(); }}, 'Choose none'));
  };

  const list = loader(async signal => {
    const answer = await get('/page/devices', {...wanted, limit: pageSize}, signal);
    if (answer.devices.length === 0 && answer.found > 0) { // the last page has gone
      wanted.offset = Math.floor((answer.found - 1) / pageSize) * pageSize;
      return list.again();
    }
    setNow(answer.now);
    shown = answer.devices;
    const all = el('input', {type: 'checkbox', 'aria-label': 'Choose all on this page', 'data-key': 'choose all',
      checked: shown.length > 0 && shown.every(d => chosen.has(d.sn)),
      onchange: () => { for (const d of shown) { if (all.checked) chosen.add(d.sn); else chosen.delete(d.sn); } showBar(); list.again(); }});
    const columns = [{title: all, class: 'tight wide'}, {title: 'Serial number'}, {title: 'Status'}, {title: 'Last seen'}, {title: 'Firmware', class: 'wide'},
      {title: 'Apps', class: 'num'}, {title: 'Free disk', class: 'wide num'}, {title: 'Free memory', class: 'wide num'}];
    update(box, shown.length > 0 ? table('Devices', columns, shown.map(row)) : el('p', {class: 'empty'},
      answer.total === 0 ? 'There is no device yet. Add one; then it can activate with its serial number.' : 'No device matches.'));
    const go = offset => () => { wanted.offset = offset; list.again(); };
    const from = answer.offset + 1, to = answer.offset + shown.length;
    const text = answer.found === 0 ? '' : `${count(from)}–${count(to)} of ${count(answer.found)}${answer.found < answer.total ? ` (${count(answer.total)} in all)` : ''}`;
    if (where.textContent !== text) where.textContent = text; // it is read out
    update(pages, answer.found <= pageSize ? null : [
      el('button', {type: 'button', 'data-key': 'before', disabled: answer.offset === 0, onclick: go(Math.max(0, answer.offset - pageSize))}, 'Previous'),
      el('button', {type: 'button', 'data-key': 'after', disabled: to >= answer.found, onclick: go(answer.offset + pageSize)}, 'Next')]);
  });

  update(main,
    el('div', {class: 'heading'}, el('h1', null, 'Devices'),
      el('button', {type: 'button', class: 'main', onclick: () => add(list.again)}, 'Add a device')),
    el('div', {class: 'bar-row'}, field('Filter', filter), field('Sort by', sort), el('div', {class: 'bar-row'}, where, pages)),
    bar, box);
  showBar();
  // What devices only read is no change, but they were seen.
  const seen = setInterval(() => { if (!document.hidden) list.again(); }, 15000);
  return {
    change: m => { if (m.again || m.all || m.devices) list.again(); },
    close: () => { clearInterval(seen); list.close(); },
  };
}

// fullest is the mount that has the smallest part free, of those that can be
// written.
function fullest(all) {
  const disks = all.filter(m => m.device.startsWith('/dev/') && m.free > 0);
  const list = disks.length ? disks : all;
  return list.length ? list.reduce((a, b) => (b.free / b.total < a.free / a.total ? b : a)) : null;
}

function room(r) {
  if (!r) return '–';
  return el('span', {class: r.free / r.total < 0.1 ? 'attention' : '', title: `${bytes(r.free)} of ${bytes(r.total)}${r.mount ? ` on ${r.mount}` : ''}`}, bytes(r.free));
}

function add(added) {
  const sn = el('input', {required: true, maxlength: 256, autocomplete: 'off', spellcheck: 'false', id: 'new-sn', placeholder: '00:2F:AC:43:55:A0'});
  const extra = el('input', {maxlength: 256, autocomplete: 'off'});
  const dialog = el('dialog', {'aria-labelledby': 'add'},
    el('form', {onsubmit: async e => {
      e.preventDefault();
      if (await attempt('Add the device', () => send('POST', '/page/devices', null, {sn: sn.value.trim(), extra: extra.value.trim()}))) {
        notify(`Added ${sn.value.trim()}: it can be activated now`);
        dialog.close();
        added();
      }
    }},
      el('h2', {id: 'add'}, 'Add a device'),
      field('Serial number', sn, 'what the gateway says it is, by default its MAC address in upper case'),
      field('Extra', extra, 'for yourself, may be empty'),
      el('div', {class: 'buttons'},
        el('button', {type: 'button', onclick: () => dialog.close()}, 'Cancel'),
        el('button', {class: 'main'}, 'Add and enable'))));
  dialog.addEventListener('close', () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
