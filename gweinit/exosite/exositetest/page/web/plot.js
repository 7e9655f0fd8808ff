// Small plots of a resource's history.

import {el} from './dom.js';
import {bytes, moment, number} from './units.js';

const width = 400, height = 56, edge = 4;

// plot draws points, {time, value} with numbers, oldest first. Fewer than two
// are none.
export function plot(label, unit, points) {
  if (points.length < 2) return null;
  const say = unit === 'bytes' ? bytes : number;
  const times = points.map(p => p.time), values = points.map(p => p.value);
  const first = Math.min(...times), last = Math.max(...times), low = Math.min(...values), high = Math.max(...values);
  const x = t => edge + (t - first) / (last - first || 1) * (width - 2 * edge);
  const y = v => high === low ? height / 2 : height - edge - (v - low) / (high - low) * (height - 2 * edge);
  const at = points.map(p => ({...p, x: x(p.time), y: y(p.value)}));
  const text = p => `${say(p.value)} at ${moment(p.time)}`;

  const mark = el('circle', {r: 2.5, class: 'mark', cx: -10, cy: -10});
  const caption = el('span', {class: 'num'});
  const rest = () => {
    caption.textContent = `${say(values.at(-1))} now, ${say(low)} to ${say(high)}`;
    mark.setAttribute('cx', at.at(-1).x);
    mark.setAttribute('cy', at.at(-1).y);
  };
  const pick = e => {
    const box = picture.getBoundingClientRect();
    const here = (e.clientX - box.left) / box.width * width;
    const p = at.reduce((a, b) => (Math.abs(b.x - here) < Math.abs(a.x - here) ? b : a));
    caption.textContent = text(p);
    mark.setAttribute('cx', p.x);
    mark.setAttribute('cy', p.y);
  };
  const picture = el('svg', {viewBox: `0 0 ${width} ${height}`, class: 'plot', role: 'img',
    'aria-label': `${label}: ${points.length} values from ${moment(first)} to ${moment(last)}, ${say(low)} to ${say(high)}`,
    onpointermove: pick, onpointerleave: rest},
    el('polyline', {class: 'line', points: at.map(p => `${p.x.toFixed(1)},${p.y.toFixed(1)}`).join(' ')}),
    at.length > 60 ? null : at.map(p => el('circle', {r: 1.5, cx: p.x.toFixed(1), cy: p.y.toFixed(1), class: 'dot'}, el('title', null, text(p)))),
    mark);
  rest();
  return el('figure', null, el('figcaption', null, el('span', {class: 'muted'}, label), caption), picture);
}
