"""ExositeAPI: the calls of the HTTP Device API with a given credential."""

import email.utils
import http.client
import json
import logging
import os
import random
import ssl
import threading
import time
from urllib.parse import quote, urlencode, urlsplit

from exo import settings
from exo.handlers import Response

LOG = logging.getLogger('exo')

FORM = 'application/x-www-form-urlencoded; charset=utf-8'
MAX_ANSWER = 16 << 20  # bytes
MAX_WAIT = 300000      # ms that a server holds a long poll
AGAIN = (408, 429, 500, 502, 503, 504)


class ExositeAPI(object):
    """The calls of one device.

        api = ExositeAPI(cik=subprocess.check_output(['gwe', '-C'], text=True).strip())
        print(api.http_read(['setpoint']).values)

    Without url and vendor, or with own_server, the server is the one that the
    gateway itself talks to, with its certificates.
    url is a host, host:port or URL, by https unless it says http. cacert is a file
    of certificates to trust in place of the system's, certfile and pkeyfile are the
    device's own. A try has to get its answer in timeout seconds; what may go well
    another time is tried again, tries times in all, after random waits that grow.

    Threads may share one, and each has a connection of its own then."""

    def __init__(self, cik=None, vendor=None, model=None, uuid=None, url=None, user_agent='ExositeAPI',
                 timeout=15.0, tries=3, cacert=None, certfile=None, pkeyfile=None, own_server=False):
        self._cik = (cik or '').strip().strip("'")  # "gwe -C" prints '' for none
        self._vendor, self._model, self._uuid = vendor or '', model or vendor or '', uuid or ''
        self._user_agent, self._timeout, self._tries = user_agent, float(timeout), max(1, int(tries))
        self._activated = bool(self._cik)
        if not url and (not vendor or own_server):
            own = settings.exosite()
            product = vendor or settings.device().get('vendor')
            url = own.get('host') or (product + '.m2.exosite.io' if product else 'm2.exosite.com')
            cacert = cacert or own.get('ca')
            if not certfile:
                certfile, pkeyfile = own.get('certificate'), own.get('key')
        url = url or vendor + '.m2.exosite.io'
        u = urlsplit(url if '://' in url else 'https://' + url)
        if u.scheme not in ('https', 'http') or not u.hostname or u.path not in ('', '/') or u.query or u.username:
            raise ValueError('url {!r}: want a host, host:port, or one of these behind https:// or http://'.format(url))
        self._scheme, self._host, self._port = u.scheme, u.hostname, u.port
        self._trust = (cacert, certfile, pkeyfile)
        self._local = threading.local()
        self._context = None

    # What the device is.

    def cik(self):
        return self._cik

    def vendor(self):
        return self._vendor

    def model(self):
        return self._model

    def uuid(self):
        return self._uuid

    def activated(self):
        """Whether there is a credential, and the server has not refused it."""
        return self._activated

    # The calls. Values are text; numbers are made text, and lists and dictionaries JSON.

    def http_write(self, dataport, value):
        """Gives a resource a new value."""
        return self.http_write_multiple({dataport: value})

    def http_write_multiple(self, write_dict):
        """Gives resources new values, by alias."""
        return self._call('write', 'POST', '/onep:v1/stack/alias', body=form(write_dict))

    def http_read(self, read_list):
        """Reads the newest values of an alias, or of a list of them."""
        return self._call('read', 'GET', '/onep:v1/stack/alias?' + names(read_list))

    def http_read_write(self, read_list, write_dict):
        """Writes, and then reads, in one request."""
        return self._call('readwrite', 'POST', '/onep:v1/stack/alias?' + names(read_list), body=form(write_dict))

    def http_record(self, record_dict):
        """Stores values of the past: {alias: {seconds since 1970: value}}."""
        if not record_dict:
            raise ValueError('there is no value to send')
        if not self._vendor:
            parts = ['alias=' + quote(a, safe='') + '&' + form(points) for a, points in record_dict.items()]
            return self._call('record', 'POST', '/onep:v1/stack/record', body='&'.join(parts))
        answer = clash = None
        for alias, points in record_dict.items():  # the older generation takes one alias at a time
            answer = self._call('record', 'POST', '/onep:v1/stack/alias/' + quote(alias, safe=''), body=form(points))
            if answer.conflict and clash:
                clash.body += '&' + answer.body
            elif answer.conflict:
                clash = answer
            elif not answer.success:
                return answer
        return clash or answer

    def http_long_poll(self, dataport, timeout_ms=MAX_WAIT, modify_ts=None):
        """Waits until the resource has a new value: newer than modify_ts (seconds
        since 1970), or than now. The code is 304 if there is none in timeout_ms.
        last_modified(answer) is the next call's modify_ts."""
        timeout_ms = max(1, min(int(timeout_ms), MAX_WAIT))
        headers = {'Request-Timeout': str(timeout_ms)}
        if modify_ts is not None:
            headers['If-Modified-Since'] = str(int(modify_ts))
        return self._call('poll', 'GET', '/onep:v1/stack/alias?' + names(dataport), headers=headers, wait=timeout_ms / 1000.0)

    def http_activate(self):
        """Gets the credential of the device with this uuid. It is given out once."""
        if self._vendor:
            body = form({'vendor': self._vendor, 'model': self._model, 'sn': self._uuid})
        else:
            body = form({'id': self._uuid})
        answer = self._call('activate', 'POST', '/provision/activate', body=body, anonymous=True)
        if answer.activated:
            self._cik, self._activated = answer.body, True
        return answer

    def http_content_list(self):
        """Lists the product's content: body has an ID a line."""
        return self._call('content', 'GET', '/provision/download' + self._content())

    def http_content_info(self, content_id):
        """The body is 'TYPE,BYTES,UPDATED,META'."""
        return self._call('content', 'GET', '/provision/download' + self._content(content_id, info=True))

    def http_content_download(self, content_id, path):
        """Downloads a content into the file at path, which appears when it is whole."""
        part = path + '.part'
        with open(part, 'wb') as f:
            def take(answer):
                if answer.status == 200:  # also to a request for the rest
                    f.seek(0)
                    f.truncate()
                while True:
                    data = answer.read(64 << 10)
                    if not data:
                        break
                    f.write(data)
                if answer.length:  # http.client is content with less
                    raise http.client.IncompleteRead(b'', answer.length)

            answer = self._call('content', 'GET', '/provision/download' + self._content(content_id), take=take,
                                headers=lambda: {'Range': 'bytes={}-'.format(f.tell())} if f.tell() else {})
            f.flush()
            os.fsync(f.fileno())
        if answer.success:
            os.rename(part, path)
        else:
            os.remove(part)
        return answer

    def http_timestamp(self):
        """The body is the server's time, in seconds since 1970."""
        return self._call('timestamp', 'GET', '/timestamp', anonymous=True)

    # The names of older versions.
    _http_long_poll = http_long_poll
    _http_listContent = http_content_list
    _http_getContentInfo = http_content_info
    exosite_timestamp = http_timestamp

    def _content(self, content_id=None, info=False):
        query = []
        if self._vendor:
            query += [('vendor', self._vendor), ('model', self._model)]
        if content_id:
            query.append(('id', content_id))
        if info:
            query.append(('info', 'true'))
        return '?' + urlencode(query) if query else ''

    # How they are made.

    def _call(self, call, method, target, body=None, headers=None, anonymous=False, wait=0.0, take=None):
        """Tries until there is an answer that will not be another one soon."""
        if not anonymous and not self._cik and not self._trust[1]:
            return Response(call, 401, 'there is no CIK yet')
        end = time.monotonic() + wait
        for n in range(1, self._tries + 1):
            more = dict(headers() if callable(headers) else headers or {})
            if wait and n > 1:  # the caller has no more time than that
                more['Request-Timeout'] = str(max(1, int((end - time.monotonic()) * 1000)))
            pause = 0.0
            try:
                answer = self._send(call, method, target, body, more, anonymous, wait, take)
                again = answer.code in AGAIN
                pause = retry_after(answer.headers.get('retry-after'))
            except ssl.SSLCertVerificationError as e:
                return Response(call, 0, 'the certificate of {}: {}'.format(self._host, e.verify_message))
            except (OSError, http.client.HTTPException) as e:
                self._drop()
                answer, again = Response(call, 0, '{}: {}'.format(self._host, e or type(e).__name__)), True
            if not again or n == self._tries:
                break
            pause += random.uniform(0, min(0.5 * 2 ** (n - 1), 60))
            if wait and time.monotonic() + pause > end:
                break
            LOG.debug('%s: %r, again in %.1f s', call, answer, pause)
            time.sleep(pause)
        if not answer.authorized:
            self._activated = False
        if not answer.success and answer.code != 304:
            LOG.debug('%s: %r', call, answer)
        return answer

    def _send(self, call, method, target, body, headers, anonymous, wait, take):
        headers['User-Agent'] = self._user_agent
        if body is not None:
            headers['Content-Type'] = FORM
        if call in ('read', 'readwrite', 'poll'):
            headers['Accept'] = FORM
        if self._cik and not anonymous:
            headers['X-Exosite-CIK'] = self._cik
        while True:
            conn, fresh = self._connection(self._timeout + wait)
            try:
                conn.request(method, target, None if body is None else body.encode(), headers)
                answer = conn.getresponse()
                break
            except (http.client.RemoteDisconnected, ConnectionError):
                self._drop()
                # One that was kept may have been closed since. An activation that
                # was done twice would be refused, and nobody had the credential.
                if fresh or call == 'activate':
                    raise
        got = {k.lower(): v for k, v in answer.getheaders()}
        if take and answer.status in (200, 206):
            take(answer)
            text = ''
        else:
            data = answer.read(MAX_ANSWER + 1)
            if len(data) > MAX_ANSWER:
                raise http.client.HTTPException('the answer is too long')
            if answer.length:  # as above
                raise http.client.IncompleteRead(data, answer.length)
            text = data.decode('utf-8', 'replace')
        if answer.will_close:
            self._drop()
        return Response(call, answer.status, text, got)

    def _connection(self, timeout):
        """Returns this thread's connection, and whether it is a new one."""
        conn = getattr(self._local, 'conn', None)
        if conn is not None and time.monotonic() - self._local.used < 50:  # most servers keep them for a minute
            self._local.used = time.monotonic()
            conn.sock.settimeout(timeout)
            return conn, False
        self._drop()
        if self._scheme == 'https':
            if self._context is None:
                ca, cert, key = self._trust
                self._context = ssl.create_default_context(cafile=ca)
                self._context.minimum_version = ssl.TLSVersion.TLSv1_2
                if cert:
                    self._context.load_cert_chain(cert, key)
            conn = http.client.HTTPSConnection(self._host, self._port, timeout=timeout, context=self._context)
        else:
            conn = http.client.HTTPConnection(self._host, self._port, timeout=timeout)
        conn.connect()
        self._local.conn, self._local.used = conn, time.monotonic()
        return conn, True

    def _drop(self):
        conn = getattr(self._local, 'conn', None)
        self._local.conn = None
        if conn is not None:
            conn.close()


def last_modified(answer):
    """When the value of a long poll was written, in seconds since 1970; None if it
    is not known."""
    text = answer.headers.get('last-modified', '')
    try:
        return int(text) if text.isdigit() else int(email.utils.parsedate_to_datetime(text).timestamp())
    except (TypeError, ValueError):
        return None


def retry_after(text):
    """Returns how many seconds a server asks to wait, at most 10 minutes."""
    try:
        return min(max(0.0, float(text or 0)), 600.0)
    except ValueError:  # a date; the random wait has to do
        return 0.0


def form(values):
    """Returns a form with the values by name."""
    if not values:
        raise ValueError('there is no value to send')
    return '&'.join(quote(str(k), safe='') + '=' + quote(value(v), safe='') for k, v in values.items())


def value(v):
    if isinstance(v, bytes):
        return v
    if isinstance(v, (dict, list, tuple)):
        return json.dumps(v)
    return '' if v is None else str(v)


def names(aliases):
    if isinstance(aliases, str):
        aliases = [aliases]
    if not aliases:
        raise ValueError('there is no alias to read')
    return '&'.join(quote(a, safe='') for a in aliases)
