// A device: its reports, its commands, and what happened to it.

import {get, send} from './api.js';
import {attempt, badge, confirm, details, el, field, name, notify, raw, table, update} from './dom.js';
import {status} from './devices.js';
import {loader} from './loader.js';
import {plot} from './plot.js';
import {apps, isObject, isRunning, memory, mounts, object, plain, series, stateKind, usage} from './reports.js';
import {ago, bytes, count, moment, relative, setNow} from './units.js';

const titles = {
  engine_report: 'Apps', device_info: 'System', usage_report: 'Data usage', fetch_status: 'Installer',
  engine_fetch: 'Install', update_interval: 'Check-in interval',
};

// Commands are cleared by the gateway once it has taken them.
const commands = ['engine_fetch', 'update_interval'];

const lastPoints = 10, maxRows = 200;

export function showDevice(main, product, sn) {
  const head = el('div'), log = el('section', {class: 'card'});
  const cards = product.resources.map(r => card(r, sn));
  let leaving = false; // there is nothing to ask for any more

  const remove = async () => {
    if (!await confirm(`Remove ${sn}?`, 'The serial number, its credential and all its data are deleted.', 'Remove')) return;
    leaving = true;
    leaving = await attempt('Remove', () => send('POST', '/page/devices/remove', null, {sn: [sn]}));
    if (!leaving) return;
    notify(`Removed ${sn}`);
    location.hash = '#/devices';
  };

  const device = loader(async signal => {
    let answer;
    try {
      answer = await get('/page/device', {sn}, signal);
    } catch (error) {
      if (error.status !== 404) throw error;
      device.close();
      for (const c of cards) c.close();
      update(main, el('p', null, el('a', {href: '#/devices'}, '← Devices')), el('p', {class: 'empty', role: 'alert'}, 'There is no device ', name(sn), ' (any more).'));
      return;
    }
    setNow(answer.now);
    update(head, heading(answer.device, device.again, remove));
    update(log, el('h2', null, 'What happened'), happened(answer.device.log ?? []));
  });

  const reports = cards.filter(c => !c.resource.settable), settable = cards.filter(c => c.resource.settable);
  update(main, el('p', null, el('a', {href: '#/devices'}, '← Devices')), head,
    el('div', {class: 'columns'},
      el('div', null, reports.map(c => c.box)),
      el('div', null, settable.map(c => c.box), log)));
  const seen = setInterval(() => { if (!document.hidden && !leaving) device.again(); }, 15000);
  return {
    change: m => {
      const aliases = m.devices?.[sn];
      if (leaving || !(m.again || m.all || aliases || m.content)) return;
      if (m.again || m.all || aliases) device.again();
      for (const c of cards) {
        if (m.again || m.all || aliases?.includes(c.resource.alias)) c.again();
        if (m.again || m.content) c.content?.();
      }
    },
    close: () => { clearInterval(seen); device.close(); for (const c of cards) c.close(); },
  };
}

function heading(d, again, remove) {
  const act = (what, done) => async () => {
    if (await attempt(done, () => send('POST', `/page/devices/${what}`, null, {sn: [d.sn]}))) {
      notify(`${done} ${d.sn}`);
      again();
    }
  };
  const never = t => t ? moment(Date.parse(t)) : 'never';
  const copy = () => attempt('Copy', async () => {
    await navigator.clipboard.writeText(`${d.sn}\nstatus: ${d.status}\nlast seen: ${never(d.seen)}\nactivated: ${never(d.activated)}\n`);
    notify('Copied serial number, status and times');
  });
  return [
    el('div', {class: 'heading'}, el('h1', {class: 'mono'}, name(d.sn)), status(d.status),
      el('div', {class: 'buttons'},
        el('button', {type: 'button', 'data-key': 'enable', onclick: act('enable', 'Enabled')}, d.status === 'unused' ? 'Enable' : 'Enable again'),
        el('button', {type: 'button', 'data-key': 'disable', disabled: d.status === 'disabled', onclick: act('disable', 'Disabled')}, 'Disable'),
        // Browsers have a clipboard for this machine's pages and those with TLS.
        navigator.clipboard ? el('button', {type: 'button', 'data-key': 'copy', onclick: copy, title: 'Serial number, status and times: nothing secret'}, 'Copy summary') : null,
        el('button', {type: 'button', class: 'danger', 'data-key': 'remove', onclick: remove}, 'Remove'))),
    facts([
      ['Last seen', ago(d.seen)], ['Activated', d.activated ? ago(d.activated) : 'never'],
      ['CIK', d.cik ? el('span', {class: 'mono'}, d.cik) : 'none'], ['Extra', d.extra ? name(d.extra) : null]]),
  ];
}

// facts are names with values; those with null are left out.
function facts(pairs) {
  const shown = pairs.filter(([, v]) => v !== null && v !== undefined);
  return shown.length === 0 ? null : el('dl', {class: 'facts'}, shown.slice(0, maxRows).map(([k, v]) => el('div', null, el('dt', null, name(k)), el('dd', null, v))));
}

function happened(entries) {
  if (entries.length === 0) return el('p', {class: 'empty'}, 'Nothing yet.');
  return table('What happened', [{title: 'When'}, {title: 'What'}, {title: 'From', class: 'wide'}],
    entries.toReversed().map(e => [ago(e.time), name(e.text), el('span', {class: 'mono muted'}, e.from)]));
}

// card is a resource: what it says, how it was, and, if it can be set, how.
function card(resource, sn) {
  const {alias} = resource;
  const time = el('span', {class: 'muted'}), body = el('div'), past = el('div');
  const write = value => attempt(`Write ${alias}`, async () => {
    await send('PUT', '/page/value', {sn, alias}, value, 'text/plain; charset=utf-8');
    notify(`Wrote ${alias}`);
    points.again();
  });
  const form = !resource.settable ? null : alias === 'engine_fetch' ? fetchForm(write) : alias === 'update_interval' ? intervalForm(write) : valueForm(resource, write);
  const points = loader(async signal => {
    const history = (await get('/page/history', {sn, alias}, signal).catch(error => {
      if (error.status === 404) return {points: []}; // the device has gone; its heading says so
      throw error;
    })).points;
    const newest = history.at(-1);
    update(time, newest ? ago(newest.time) : null);
    let content;
    try {
      content = commands.includes(alias) && resource.settable ? command(history) : shown(alias, newest);
    } catch {
      content = raw(newest.value); // a report that nobody has thought of
    }
    update(body, content);
    update(past, pastOf(alias, history));
  });
  const id = `card-${alias}`;
  return {
    resource, again: points.again, content: form?.content,
    close: () => { points.close(); form?.close?.(); },
    box: el('section', {class: 'card', id, 'aria-labelledby': `${id}-title`},
      el('div', {class: 'card-head'}, el('h2', {id: `${id}-title`}, titles[alias] ?? name(alias)),
        titles[alias] ? el('span', {class: 'mono muted'}, alias) : null, time),
      body, form?.box, past),
  };
}

function shown(alias, newest) {
  if (!newest) return el('p', {class: 'empty'}, 'Not reported yet.');
  if (newest.value === '') return el('p', {class: 'empty'}, 'Empty.');
  const report = object(newest.value);
  const whole = () => details('raw', 'As reported', raw(newest.value));
  if (report && alias === 'engine_report') return [engine(report), whole()];
  if (report && alias === 'device_info') return [system(report), whole()];
  if (report && alias === 'usage_report') return [data(report), whole()];
  if (['engine_report', 'device_info', 'usage_report'].includes(alias)) return [el('p', {class: 'attention'}, 'This is no JSON object. As reported:'), raw(newest.value)];
  return newest.value.length < 100 && !newest.value.includes('\n') && alias !== 'fetch_status' ? el('p', {class: 'value mono'}, newest.value) : raw(newest.value);
}

// command is whether what was written has been taken.
function command(history) {
  const newest = history.at(-1);
  const value = v => el('pre', {tabindex: '0', class: 'short'}, v.slice(0, 2000));
  if (!newest) return el('p', {class: 'empty'}, 'Never written.');
  if (newest.value !== '') return [el('p', null, badge('waiting', 'warn'), ' to be taken at the next check-in. Written ', ago(newest.time), ':'), value(newest.value)];
  const last = history.findLast(p => p.value !== '');
  if (!last) return el('p', {class: 'empty'}, 'Empty.');
  return [el('p', null, badge('taken', 'good'), ' ', ago(newest.time), '. Written ', ago(last.time), ':'), value(last.value)];
}

function engine(report) {
  const all = apps(report), {apps: _, ...rest} = report;
  const known = ['name', 'status', 'exitstatus', 'version', 'uptime'];
  const more = a => Object.entries(a.app).filter(([k, v]) => !known.includes(k) && v !== a.name).map(([k, v]) => `${k}: ${plain(v)}`).join(', ');
  const withMore = all.some(more);
  const columns = [{title: 'App'}, {title: 'State'}, {title: 'Exit', class: 'num'}, {title: 'Version'}, {title: 'Uptime'}];
  if (withMore) columns.push({title: 'More'});
  const row = a => {
    const cells = [name(a.name), badge(plain(a.app.status), stateKind(a.app)), name(plain(a.app.exitstatus)), name(plain(a.app.version)), name(plain(a.app.uptime))];
    return withMore ? [...cells, name(more(a))] : cells;
  };
  return [
    all.length === 0 ? el('p', {class: 'empty'}, 'No apps.') : [
      el('p', null, `${all.filter(a => isRunning(a.app)).length} of ${all.length} running`),
      table('Apps', columns, all.slice(0, maxRows).map(row)),
      all.length > maxRows ? el('p', {class: 'muted'}, `and ${count(all.length - maxRows)} more`) : null],
    values(rest),
  ];
}

// values are any names and values, with one level of objects below.
function values(object) {
  return facts(Object.entries(object).map(([k, v]) => [k,
    isObject(v) && Object.keys(v).length > 0 ? facts(Object.entries(v).map(([k, v]) => [k, short(v)])) :
    Array.isArray(v) && v.length > 0 ? el('ul', null, v.slice(0, maxRows).map(i => el('li', null, short(i)))) : short(v)]));
}

function short(v) {
  const text = plain(v);
  return text.length > 300 ? raw(text) : name(text);
}

function bar(label, used, total, text) {
  const part = Math.max(0, Math.min(1, used / total));
  const fill = el('span', {class: part > 0.9 ? 'fill high' : 'fill'});
  fill.style.width = `${(part * 100).toFixed(1)}%`;
  return el('div', {class: 'meter'}, el('span', {class: 'mono'}, name(label)),
    el('span', {class: 'track', role: 'img', 'aria-label': `${Math.round(part * 100)} % used`}, fill),
    el('span', {class: 'num'}, text));
}

function system(info) {
  const {uname, df, free, ipaddrs, ...rest} = info;
  const disks = mounts(df), mem = memory(free);
  const rawText = (key, title, v) => v === undefined ? null : details(key, title, raw(Array.isArray(v) ? v.map(plain).join('\n') : plain(v)));
  return [
    facts([['uname', uname === undefined ? null : short(uname)]]),
    mem ? [el('h3', null, 'Memory'),
      bar('memory', mem.used, mem.total, `${bytes(mem.available)} free of ${bytes(mem.total)}`),
      mem.swap ? bar('swap', mem.swap.used, mem.swap.total, `${bytes(mem.swap.total - mem.swap.used)} free of ${bytes(mem.swap.total)}`) : null] : null,
    rawText('free', mem ? 'As free prints it' : 'free', free),
    disks.length ? [el('h3', null, 'Disks'), disks.slice(0, maxRows).map(d => bar(d.mount, d.total - d.free, d.total, `${bytes(d.free)} free of ${bytes(d.total)}`))] : null,
    rawText('df', disks.length ? 'As df prints it' : 'df', df),
    ipaddrs === undefined ? null : [el('h3', null, 'Addresses'), typeof ipaddrs === 'string' ? raw(ipaddrs) : isObject(ipaddrs) ? values(ipaddrs) : raw(Array.isArray(ipaddrs) ? ipaddrs.map(plain).join('\n') : plain(ipaddrs))],
    values(rest),
  ];
}

function data(report) {
  const {interfaces, rest} = usage(report);
  const columns = [{title: 'Consumer'}, {title: 'Method'}, {title: 'Count', class: 'num'}, {title: 'Received', class: 'num'}, {title: 'largest', class: 'num wide'},
    {title: 'Sent', class: 'num'}, {title: 'largest', class: 'num wide'}];
  return [
    interfaces.slice(0, 20).map(i => [
      el('h3', null, name(i.name), i.top ? el('small', {class: 'muted'}, ' most by ', name(i.top)) : null),
      i.rows.length === 0 ? el('p', {class: 'empty'}, 'Nothing counted.') : table(`Data usage of ${i.name}`, columns, i.rows.slice(0, maxRows).map(r => [
        name(r.consumer), name(r.method), count(r.numbers.num), bytes(r.numbers.tot_rx), bytes(r.numbers.max_rx), bytes(r.numbers.tot_tx), bytes(r.numbers.max_tx)]))]),
    facts(rest.map(([k, v]) => [k, short(v)])),
  ];
}

// pastOf is a plot of what can be plotted, and the last values as they were.
function pastOf(alias, history) {
  if (history.length === 0) return null;
  const {label, unit, of} = series(alias);
  const numbers = history.map(p => ({time: Date.parse(p.time), value: of(p.value)})).filter(p => Number.isFinite(p.value) && Number.isFinite(p.time));
  return [
    commands.includes(alias) ? null : plot(label, unit, numbers),
    details('past', `Last values (${count(history.length)} kept)`,
      table(`Last values of ${alias}`, [{title: 'Time'}, {title: 'Value'}], history.slice(-lastPoints).reverse().map(p => [
        el('span', {class: 'num', title: relative(Date.parse(p.time))}, moment(Date.parse(p.time))),
        el('span', {class: 'mono cut'}, p.value === '' ? '(empty)' : p.value.length > 200 ? `${p.value.slice(0, 200)}…` : p.value)]))),
  ];
}

function fetchForm(write) {
  const chosen = new Set();
  const text = el('textarea', {rows: 3, id: 'fetch-text', spellcheck: 'false', class: 'mono'});
  const list = el('fieldset', {class: 'picker'}, el('legend', null, 'Content to install'));
  const choices = el('div', {class: 'choices'});
  list.append(choices);
  const compose = () => { text.value = chosen.size ? JSON.stringify({install: [...chosen].map(name => ({name}))}) : ''; };
  const contents = loader(async signal => {
    const all = (await get('/page/contents', null, signal).catch(error => {
      if (error.status === 404) return {contents: []};
      throw error;
    })).contents.filter(c => c.uploaded);
    for (const id of chosen) if (!all.some(c => c.id === id)) chosen.delete(id);
    update(choices, all.length === 0 ? el('p', {class: 'empty'}, 'There is none: ', el('a', {href: '#/content'}, 'upload an app'), '.') : all.map(c =>
      el('label', null, el('input', {type: 'checkbox', 'data-key': c.id, checked: chosen.has(c.id),
        onchange: e => { if (e.target.checked) chosen.add(c.id); else chosen.delete(c.id); compose(); }}), el('span', {class: 'mono'}, name(c.id)), el('small', {class: 'muted'}, bytes(c.size)))));
  });
  const box = el('form', {onsubmit: async e => {
    e.preventDefault();
    if (await write(text.value)) {
      chosen.clear();
      compose();
      contents.again();
    }
  }}, list, field('Command', text, 'made from what is chosen; can be edited'), el('div', {class: 'buttons'}, el('button', {class: 'main', id: 'write-fetch'}, 'Write engine_fetch')));
  text.required = true;
  return {box, content: contents.again, close: contents.close};
}

function intervalForm(write) {
  const seconds = el('input', {type: 'number', min: 1, step: 1, required: true, id: 'interval', inputmode: 'numeric', placeholder: '14400'});
  return {box: el('form', {class: 'bar-row', onsubmit: async e => {
    e.preventDefault();
    if (await write(String(seconds.valueAsNumber))) seconds.value = '';
  }}, field('Seconds between check-ins', seconds), el('button', {class: 'main', id: 'write-interval'}, 'Write'))};
}

function valueForm(resource, write) {
  const input = resource.format === 'boolean' ? el('select', null, ['true', 'false'].map(v => el('option', null, v))) :
    resource.format === 'string' ? el('textarea', {rows: 2, class: 'mono', spellcheck: 'false'}) :
    el('input', {type: 'number', step: resource.format === 'integer' ? 1 : 'any', required: true});
  return {box: el('form', {class: 'bar-row', onsubmit: async e => {
    e.preventDefault();
    if (await write(input.value) && resource.format !== 'boolean') input.value = '';
  }}, field(`Value (${resource.format})`, input), el('button', {class: 'main'}, 'Write'))};
}
