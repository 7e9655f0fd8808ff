// Elements without markup: what devices say gets into the page as text only.

const svgTags = new Set(['svg', 'path', 'circle', 'line', 'text', 'title', 'g', 'polyline']);

// el makes an element. on... properties are listeners, the others attributes;
// children are elements, texts, lists of them, or null.
export function el(tag, props, ...children) {
  const e = svgTags.has(tag) ? document.createElementNS('http://www.w3.org/2000/svg', tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (name.startsWith('on')) e.addEventListener(name.slice(2), value);
    else if (value === true) e.setAttribute(name, '');
    else if (value !== false && value != null) e.setAttribute(name, value);
  }
  e.append(...flat(children));
  return e;
}

function flat(children) {
  return children.flat(Infinity).filter(c => c != null && c !== false);
}

// update gives a box other children. What the reader has opened, and the
// keyboard's focus, stay where they have the same data-key.
export function update(box, ...children) {
  const open = new Map();
  for (const d of box.querySelectorAll('details[data-key]')) open.set(d.dataset.key, d.open);
  const focus = box.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  box.replaceChildren(...flat(children));
  for (const d of box.querySelectorAll('details[data-key]')) {
    if (open.has(d.dataset.key)) d.open = open.get(d.dataset.key);
  }
  if (focus !== undefined) box.querySelector(`[data-key="${CSS.escape(focus)}"]`)?.focus({preventScroll: true});
}

// table has a heading row. Columns are {title, class}; rows are lists of cells.
export function table(caption, columns, rows, props) {
  const cell = (tag, i, ...content) => el(tag, {class: columns[i].class, scope: tag === 'th' ? 'col' : null}, ...content);
  return el('div', {class: 'scroll', tabindex: '0', role: 'region', 'aria-label': caption},
    el('table', props,
      el('caption', {class: 'hidden'}, caption),
      el('thead', null, el('tr', null, columns.map((c, i) => cell('th', i, c.title)))),
      el('tbody', null, rows.map(r => el('tr', null, r.map((c, i) => cell('td', i, c)))))));
}

// name isolates a text that may be written from right to left.
export const name = text => el('bdi', null, text);

const longest = 20000; // characters

// raw shows a text as it is. Of a very long one it is the beginning, until
// asked for more.
export function raw(text) {
  const pre = el('pre', {tabindex: '0'}, text.slice(0, longest));
  if (text.length <= longest) return pre;
  const more = el('button', {type: 'button', class: 'quiet', onclick: () => { pre.textContent = text; more.remove(); }},
    `Show all ${text.length.toLocaleString('en')} characters`);
  return el('div', null, pre, more);
}

export function badge(text, kind) { return el('span', {class: `badge ${kind ?? ''}`}, text); }

export function details(key, summary, ...content) {
  return el('details', {'data-key': key}, el('summary', null, summary), ...content);
}

// field is a label with its input.
export function field(label, input, hint) {
  return el('label', {class: 'field'}, el('span', null, label), input, hint ? el('small', {class: 'muted'}, hint) : null);
}

// notify tells what has happened, also to those who listen.
export function notify(text, kind) {
  const box = document.getElementById('notices');
  const n = el('div', {class: `notice ${kind ?? ''}`}, el('span', null, text),
    el('button', {type: 'button', class: 'quiet', 'aria-label': 'Dismiss', onclick: () => n.remove()}, '×'));
  box.append(n);
  while (box.children.length > 4) box.firstChild.remove();
  if (kind !== 'bad') setTimeout(() => n.remove(), 6000);
}

// attempt does something that may fail, and says so then.
export async function attempt(what, action) {
  try {
    const result = await action();
    return result ?? true;
  } catch (error) {
    notify(`${what}: ${error.message}`, 'bad');
    return false;
  }
}

// confirm asks before something that cannot be undone.
export function confirm(question, explanation, verb) {
  return new Promise(resolve => {
    const dialog = el('dialog', {'aria-labelledby': 'question'},
      el('form', {method: 'dialog'},
        el('h2', {id: 'question'}, question),
        el('p', null, explanation),
        el('div', {class: 'buttons'},
          el('button', {value: 'no', autofocus: true}, 'Cancel'),
          el('button', {value: 'yes', class: 'danger'}, verb))));
    dialog.addEventListener('close', () => { dialog.remove(); resolve(dialog.returnValue === 'yes'); });
    document.body.append(dialog);
    dialog.showModal();
  });
}
