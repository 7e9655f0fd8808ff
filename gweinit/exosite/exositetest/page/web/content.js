// The product's content: what devices can download.

import {address, get, send, upload} from './api.js';
import {attempt, confirm, el, field, name, notify, table, update} from './dom.js';
import {loader} from './loader.js';
import {ago, bytes, setNow} from './units.js';

export function showContent(main) {
  let contents = [];
  const box = el('div', {id: 'contents'}), queue = el('div', {class: 'queue'});
  const waiting = new Set(); // of {file, id, row, start}

  const list = loader(async signal => {
    const answer = await get('/page/contents', null, signal);
    setNow(answer.now);
    contents = answer.contents;
    for (const u of waiting) u.tell();
    const columns = [{title: 'Name'}, {title: 'Size', class: 'num'}, {title: 'Updated', class: 'wide'}, {title: 'Type', class: 'wide'}, {title: 'Meta', class: 'wide'}, {title: 'Actions', class: 'tight'}];
    update(box, contents.length === 0 ? el('p', {class: 'empty'}, 'There is no content yet. Apps are uploaded as NAME.vVERSION.tar.gz; then a device can be told to install them.') :
      table('Content', columns, contents.map(c => [
        el('span', {class: 'mono'}, name(c.id)),
        c.uploaded ? bytes(c.size) : el('span', {class: 'attention'}, 'no bytes yet'),
        ago(c.updated), name(c.type || '–'), [c.meta ? name(c.meta) : '–', c.protected ? ' (protected)' : null],
        el('div', {class: 'buttons'},
          c.uploaded ? el('a', {class: 'button', href: address('/page/content', {id: c.id}), download: c.id, 'data-key': `get ${c.id}`, 'aria-label': `Download ${c.id}`}, 'Download') : null,
          el('button', {type: 'button', class: 'danger', 'data-key': `delete ${c.id}`, 'aria-label': `Delete ${c.id}`, onclick: () => remove(c)}, 'Delete')),
      ])));
  });

  const remove = async c => {
    if (!await confirm(`Delete ${c.id}?`, 'Devices that were told to install it, and have not yet, will fail to.', 'Delete')) return;
    if (await attempt('Delete', () => send('DELETE', '/page/content', {id: c.id}))) {
      notify(`Deleted ${c.id}`);
      list.again();
    }
  };

  const buttons = el('div', {class: 'buttons', hidden: true},
    el('button', {type: 'button', onclick: () => { for (const u of [...waiting]) u.drop(); }}, 'Cancel'),
    el('button', {type: 'button', class: 'main', id: 'upload', onclick: async () => { for (const u of [...waiting]) await u.start(); }}, 'Upload'));
  const changed = () => { buttons.hidden = waiting.size === 0; };

  const add = file => {
    const id = el('input', {value: file.name, class: 'mono', maxlength: 256, spellcheck: 'false', autocomplete: 'off', oninput: () => u.tell()});
    const meta = el('input', {maxlength: 256, autocomplete: 'off'});
    const hint = el('small', {class: 'muted'}), progress = el('progress', {max: 1, value: 0, 'aria-label': `Upload of ${file.name}`, hidden: true});
    const row = el('div', {class: 'upload'}, field('Name', id), field('Meta', meta), progress, hint);
    const u = {
      tell() {
        const old = contents.find(c => c.id === id.value);
        meta.disabled = old !== undefined; // it is given when the entry is made
        update(hint, `${bytes(file.size)}. `, old ? (old.uploaded ? ['Replaces ', bytes(old.size), ' of ', ago(old.updated), '.'] : 'Fills an entry that has no bytes yet.') : 'New.');
      },
      drop() { waiting.delete(u); row.remove(); changed(); },
      async start() {
        if (progress.hidden === false) return; // is under way
        progress.hidden = false;
        id.disabled = true;
        const params = {id: id.value};
        if (!meta.disabled) params.meta = meta.value;
        if (await attempt(`Upload ${id.value}`, () => upload(file, params, part => { progress.value = part; }))) {
          notify(`Uploaded ${id.value}`);
          u.drop();
          list.again();
        } else {
          progress.hidden = true;
          id.disabled = false;
        }
      },
    };
    u.tell();
    waiting.add(u);
    queue.append(row);
    changed();
  };

  const picker = el('input', {type: 'file', multiple: true, id: 'file', onchange: () => { for (const f of picker.files) add(f); picker.value = ''; }});
  const drop = el('section', {class: 'card drop', 'aria-label': 'Upload',
    ondragover: e => { e.preventDefault(); drop.classList.add('over'); },
    ondragleave: () => drop.classList.remove('over'),
    ondrop: e => { e.preventDefault(); drop.classList.remove('over'); for (const f of e.dataTransfer.files) add(f); }},
    el('label', {class: 'field'}, el('span', null, 'Files to upload'), picker, el('small', {class: 'muted'}, 'or drop them here')), queue, buttons);

  update(main, el('div', {class: 'heading'}, el('h1', null, 'Content')), drop, box);
  return {
    change: m => { if (m.again || m.content) list.again(); },
    close: () => list.close(),
  };
}
