"""What the server has answered."""

from urllib.parse import parse_qsl, unquote_plus


class Response(object):
    """The outcome of a call. No call raises an exception because of the network,
    the server or what it says.

    code:       the HTTP status; 0: there was no answer
    body:       what was asked for ('a=1&b=2' of a read, not escaped), or what is wrong
    success:    whether the call did what it is for
    online:     whether the server was reached
    authorized: False if it does not take the credential
    values:     of a read: the values by alias, also those with & or = in them
    activated:  of an activation: whether body is the credential
    conflict:   of a record: whether other values of that time are there already
    headers:    of the answer, names in lower case
    """

    def __init__(self, call, code, text='', headers=None):
        self.call, self.code, self.body = call, code, text
        self.headers = headers or {}
        self.online = code != 0
        self.success = code in (200, 204, 206)
        self.authorized = code != 401
        self.conflict = call == 'record' and code == 409
        self.values = {}
        if self.success and call in ('read', 'readwrite', 'poll'):
            self.values = dict(parse_qsl(text, keep_blank_values=True))
            self.body = unquote_plus(text)
        elif self.success and call in ('write', 'record'):
            self.body = ''
        elif code == 304:
            self.body = 'Not modified'
        elif call == 'activate' and self.success:
            self.body = text.strip()
            self.success = len(self.body) == 40 and self.body.isalnum()
            if not self.success:
                self.body = 'the answer is not a CIK'  # it may be one in another form
        self.activated = call == 'activate' and self.success

    # As the requests library has it.
    @property
    def status_code(self):
        return self.code

    @property
    def text(self):
        return self.body

    @property
    def response(self):
        return self

    def get_conflict_timestamps(self):
        """Returns the times, in seconds, at which there are other values already."""
        times = []
        for _, value in parse_qsl(self.body) if self.conflict else ():
            times += [float(t) for t in value.split(',')]
        return times

    def __repr__(self):
        body = self.body
        if self.activated:  # logs are no place for credentials
            body = body[:8] + '*'
        return 'Response code: {}, Response body: {!r}, success: {}'.format(self.code, body, self.success)
