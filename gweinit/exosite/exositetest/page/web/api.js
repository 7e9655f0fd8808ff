// Calls of the emulator. Errors have the emulator's words.

export function address(path, params) {
  const q = new URLSearchParams(params ?? {}).toString();
  return q ? `${path}?${q}` : path;
}

async function check(response) {
  if (response.ok) return response;
  const text = await response.text();
  let message = text.trim();
  try { message = JSON.parse(text).error ?? message; } catch { /* the text it is */ }
  const error = new Error(message || `${response.status} ${response.statusText}`);
  error.status = response.status;
  throw error;
}

async function call(path, params, options) {
  let response;
  try {
    response = await fetch(address(path, params), options);
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Error('the emulator cannot be reached: is it running?');
  }
  return check(response);
}

export async function get(path, params, signal) {
  return (await call(path, params, {signal})).json();
}

export async function send(method, path, params, body, type) {
  const headers = {};
  if (body !== undefined) {
    headers['Content-Type'] = type ?? 'application/json';
    if (!type) body = JSON.stringify(body);
  }
  await call(path, params, {method, body, headers});
}

// upload sends a file; progress is called with the part that has gone.
export function upload(file, params, progress) {
  return new Promise((resolve, reject) => {
    const r = new XMLHttpRequest();
    r.open('PUT', address('/page/content', params));
    r.setRequestHeader('Content-Type', file.type || 'application/octet-stream');
    r.upload.addEventListener('progress', e => { if (e.lengthComputable) progress(e.loaded / e.total); });
    r.addEventListener('error', () => reject(new Error('the connection was lost')));
    r.addEventListener('load', () => {
      if (r.status < 300) return resolve();
      let message = r.responseText;
      try { message = JSON.parse(message).error ?? message; } catch { /* the text it is */ }
      reject(new Error(message || `status ${r.status}`));
    });
    r.send(file);
  });
}

// live calls change with each message, again with {again: true} if messages
// may have been lost, and state with whether there is a connection.
export function live(change, state) {
  const patience = 45000; // ms; the emulator says something three times as often
  let source, watch;
  const connect = () => {
    source?.close();
    source = new EventSource('/page/events');
    const heard = () => { clearTimeout(watch); watch = setTimeout(lost, patience); };
    const lost = () => {
      state(false);
      clearTimeout(watch);
      source.close();
      watch = setTimeout(connect, 1000);
    };
    source.addEventListener('open', () => { heard(); state(true); change({again: true}); });
    source.addEventListener('error', lost);
    source.addEventListener('beat', heard);
    source.addEventListener('change', e => { heard(); change(JSON.parse(e.data)); });
  };
  connect();
}
