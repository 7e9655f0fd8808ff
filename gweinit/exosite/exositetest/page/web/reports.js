// What gateways report, read leniently: these are texts of other people's
// programs. Nothing here throws; what makes no sense is null or empty.

export function isObject(v) { return v !== null && typeof v === 'object' && !Array.isArray(v); }

// object is the JSON object of a text.
export function object(text) {
  try {
    const v = JSON.parse(text);
    return isObject(v) ? v : null;
  } catch {
    return null;
  }
}

// plain is any value as a text.
export function plain(v) {
  if (v === null || v === undefined) return '–';
  if (typeof v === 'string') return v;
  try {
    return JSON.stringify(v);
  } catch {
    return 'nested too deeply';
  }
}

// apps are {name, app} of an engine_report, app an object.
export function apps(report) {
  const entries = v => Object.entries(v).map(([name, app]) => ({name, app: isObject(app) ? app : {status: plain(app)}}));
  const list = report?.apps;
  if (isObject(list)) return entries(list);
  if (!Array.isArray(list)) return [];
  return list.filter(isObject).flatMap(v =>
    typeof v.name === 'string' && !isObject(v[v.name]) ? [{name: v.name, app: v}] : entries(v));
}

export const isRunning = app => plain(app.status).toUpperCase() === 'RUNNING';

// stateKind is the colour of a program's state.
export function stateKind(app) {
  switch (plain(app.status).toUpperCase()) {
    case 'RUNNING': return 'good';
    case 'STARTING': case 'STOPPING': case 'BACKOFF': return 'warn';
    case 'EXITED': return Number(app.exitstatus ?? 0) === 0 ? '' : 'bad';
    case 'STOPPED': return '';
    default: return 'bad';
  }
}

// firmware is {version, slot} as texts, as far as a report tells.
export function firmware(report) {
  const first = (...values) => values.find(v => (typeof v === 'string' && v !== '') || typeof v === 'number');
  const f = isObject(report?.firmware) ? report.firmware : {};
  const slots = isObject(report?.slots) ? report.slots : {};
  const version = first(report?.firmware_version, report?.firmware, f.version, report?.version);
  const slot = first(report?.slot, f.slot, report?.boot_slot, slots.booted, slots.running, slots.active);
  return {version: version === undefined ? '' : String(version), slot: slot === undefined ? '' : String(slot)};
}

function lines(text) {
  if (Array.isArray(text)) text = text.map(plain).join('\n');
  return typeof text === 'string' ? text.slice(0, 100000).split(/\r?\n/) : [];
}

const power = {'': 0, K: 1, M: 2, G: 3, T: 4, P: 5};

// size is a number of df or free in bytes; one without a unit has the given one.
function size(text, unit) {
  const m = /^(\d+(?:\.\d+)?)(?:([KMGTP])?i?B?)$/i.exec(text ?? '');
  if (!m) return NaN;
  return Number(m[1]) * (m[2] ? 1024 ** power[m[2].toUpperCase()] : /[A-Za-z]$/.test(text) ? 1 : unit);
}

// mounts are {mount, device, total, used, free} in bytes of what df prints.
export function mounts(text) {
  let unit = 1024;
  const found = [];
  let before = ''; // a long device name has a line of its own
  for (const line of lines(text)) {
    const blocks = /(\d+)([KMG]?)B?-blocks/.exec(line);
    if (blocks) unit = Number(blocks[1]) * 1024 ** power[blocks[2]];
    const words = `${before} ${line}`.trim().split(/\s+/);
    before = words.length === 1 ? words[0] : '';
    const p = words.findIndex(w => /^\d+%$/.test(w));
    if (p < 4 || p + 1 >= words.length) continue;
    const [total, used, free] = words.slice(p - 3, p).map(w => size(w, unit));
    if (![total, used, free].every(Number.isFinite) || total <= 0) continue;
    found.push({device: words[0], mount: words.slice(p + 1).join(' '), total, used, free});
  }
  return found;
}

// memory is {total, used, available, swap} in bytes of what free prints, swap
// {total, used} or null; null if there is no memory.
export function memory(text) {
  let columns = [];
  let mem = null, swap = null;
  for (const line of lines(text)) {
    const words = line.trim().split(/\s+/);
    const values = words.slice(1).map(w => size(w, 1024));
    if (/^total$/i.test(words[0])) columns = words.map(w => w.toLowerCase());
    else if (/^mem:$/i.test(words[0]) && values[0] > 0) {
      const of = column => values[columns.indexOf(column)];
      // Without the column, what caches have can be had.
      const available = of('available') ?? [values[2], of('buffers'), of('cached'), of('buff/cache')].reduce((sum, v) => sum + (v || 0), 0);
      mem = {total: values[0], available, used: values[0] - available};
    } else if (/^-\/\+/.test(words[0]) && mem) {
      const [used, free] = line.split(':')[1]?.trim().split(/\s+/).map(w => size(w, 1024)) ?? [];
      if (Number.isFinite(used) && Number.isFinite(free)) Object.assign(mem, {used, available: free});
    } else if (/^swap:$/i.test(words[0]) && values[0] > 0) swap = {total: values[0], used: values[1]};
  }
  return mem && Number.isFinite(mem.available) ? {...mem, swap} : null;
}

// usage is {interfaces, rest}: interfaces are {name, top, rows}, rows {consumer,
// method, numbers}; rest are [name, value] of what is something else.
export function usage(report) {
  const isCounts = v => isObject(v) && ['tot_rx', 'tot_tx', 'num'].some(k => typeof v[k] === 'number');
  const interfaces = [], rest = [];
  for (const [name, consumers] of Object.entries(report ?? {})) {
    if (!isObject(consumers)) {
      rest.push([name, consumers]);
      continue;
    }
    const i = {name, top: '', rows: []};
    for (const [consumer, methods] of Object.entries(consumers)) {
      if (consumer === 'top_consumer') i.top = plain(methods);
      else if (isCounts(methods)) i.rows.push({consumer, method: '', numbers: methods});
      else if (isObject(methods)) {
        for (const [method, numbers] of Object.entries(methods)) {
          if (isCounts(numbers)) i.rows.push({consumer, method, numbers});
        }
      }
    }
    interfaces.push(i);
  }
  return {interfaces, rest};
}

// series says what of a resource's values a plot shows: {label, unit, of}, of
// giving a number or NaN.
export function series(alias) {
  switch (alias) {
    case 'engine_report':
      return {label: 'Apps running', unit: '', of: v => { const r = object(v); return r?.apps ? apps(r).filter(a => isRunning(a.app)).length : NaN; }};
    case 'device_info':
      return {label: 'Memory used', unit: 'bytes', of: v => memory(object(v)?.free)?.used ?? NaN};
    case 'usage_report':
      return {label: 'Bytes sent', unit: 'bytes', of: v => {
        const r = object(v);
        return r ? usage(r).interfaces.flatMap(i => i.rows).reduce((sum, row) => sum + (Number(row.numbers.tot_tx) || 0), 0) : NaN;
      }};
    default:
      return {label: 'Value', unit: '', of: v => (v.length < 40 && v.trim() !== '' ? Number(v) : NaN)};
  }
}
