// Sizes and times for people.

import {el} from './dom.js';

export function bytes(n) {
  if (!Number.isFinite(n)) return '–';
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let u = 0;
  while (Math.abs(n) >= 1024 && u < units.length - 1) { n /= 1024; u++; }
  return `${u > 0 && Math.abs(n) < 100 ? n.toFixed(1) : Math.round(n)} ${units[u]}`;
}

export function count(n) { return Number.isFinite(n) ? n.toLocaleString('en') : '–'; }

export function number(n) { return Number(n.toPrecision(6)).toLocaleString('en', {maximumFractionDigits: 6}); }

// The emulator's clock may be another one than the browser's.
let ahead = 0; // ms

export function setNow(time) {
  const t = Date.parse(time);
  if (Number.isFinite(t)) ahead = t - Date.now();
}

const pad = n => String(n).padStart(2, '0');

// moment is a time in the reader's own zone.
export function moment(t) {
  const d = new Date(t);
  return `${d.getFullYear()}-${pad(d.getMonth() + 1)}-${pad(d.getDate())} ${pad(d.getHours())}:${pad(d.getMinutes())}:${pad(d.getSeconds())}`;
}

export function relative(t) {
  const s = Math.round((Date.now() + ahead - t) / 1000);
  const a = Math.abs(s);
  let text;
  if (a < 2) return 'now';
  if (a < 90) text = `${a} s`;
  else if (a < 90 * 60) text = `${Math.round(a / 60)} min`;
  else if (a < 36 * 3600) text = `${Math.round(a / 3600)} h`;
  else text = `${count(Math.round(a / 86400))} days`;
  return s < 0 ? `in ${text}` : `${text} ago`;
}

// ago is a time that ticks.
export function ago(time) {
  const t = Date.parse(time);
  if (!Number.isFinite(t)) return el('span', {class: 'muted'}, 'never');
  return el('time', {datetime: new Date(t).toISOString(), title: moment(t), 'data-time': t}, relative(t));
}

setInterval(() => {
  if (document.hidden) return;
  for (const e of document.querySelectorAll('time[data-time]')) {
    const text = relative(Number(e.dataset.time));
    if (e.textContent !== text) e.textContent = text;
  }
}, 1000);
