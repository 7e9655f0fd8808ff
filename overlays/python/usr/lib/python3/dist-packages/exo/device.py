"""Device: an ExositeAPI whose credential is in a device file."""

import os
import time

from exo import settings
from exo.api import LOG, ExositeAPI


class Device(ExositeAPI):
    """A device that has its identity in an INI file: cik, vendor, model, uuid and
    activation_retry_interval (seconds) below [device].

    With the gateway's own file, GatewayEngine.utils.gwe_conf(), it is the gateway,
    which activates itself: one waits for it then. The options are those of
    ExositeAPI."""

    def __init__(self, user_agent, cfg_file, **options):
        self._cfg_file = cfg_file
        self._last_try = None
        self._is_gateway = os.path.realpath(cfg_file) == os.path.realpath(settings.path(settings.GATEWAY_FILE))
        d = self._read()
        ExositeAPI.__init__(self, d.get('cik'), d.get('vendor'), d.get('model'), d.get('uuid'),
                            user_agent=user_agent, own_server=self._is_gateway, **options)

    def cfg_file(self):
        return self._cfg_file

    def activation_retry_interval(self):
        """Seconds between two tries to activate."""
        try:
            return float(self._read().get('activation_retry_interval') or 300)
        except ValueError:
            return 300.0

    def update_device_from_cfg(self):
        """Takes the credential that is in the file now. Returns whether it is
        another one."""
        cik = self._read().get('cik', '')
        if cik == self._cik:
            return False
        self._cik, self._activated = cik, bool(cik)
        return True

    def activate(self):
        """Gets the credential, and keeps it in the file. Between two tries there are
        activation_retry_interval seconds: it waits for them. Returns whether there is
        a credential."""
        if self._is_gateway:
            if not self.update_device_from_cfg() and not self._activated:
                time.sleep(5)
                self.update_device_from_cfg()
            return self._activated
        if self._activated:
            return True
        if self._last_try is not None:
            time.sleep(max(0.0, self._last_try + self.activation_retry_interval() - time.monotonic()))
        self._last_try = time.monotonic()
        answer = self.http_activate()
        if answer.activated:
            self._keep(answer.body)
        else:
            LOG.warning('activation of %s: %r', self._uuid, answer)
        return self._activated

    _activate = activate  # its older name

    def _call(self, call, *args, **named):
        if not self._activated and call not in ('activate', 'timestamp'):
            self.update_device_from_cfg()
        answer = ExositeAPI._call(self, call, *args, **named)
        # The gateway may have got a new one since.
        if not answer.authorized and call != 'activate' and self.update_device_from_cfg() and self._activated:
            answer = ExositeAPI._call(self, call, *args, **named)
        return answer

    def _read(self):
        return settings.read(self._cfg_file).get('device', {})

    def _keep(self, cik):
        """Writes the credential into the file. All else stays as it is, and after a
        power cut the file is the old or the new one."""
        path = os.path.realpath(self._cfg_file)
        with open(path, encoding='utf-8', errors='surrogateescape') as f:
            lines = f.read().splitlines()
        section, at, old = 'device', 0, None
        for i, line in enumerate(lines):
            text = line.strip()
            if text.startswith('['):
                section = text.strip('[]')
                at = i + 1 if section == 'device' else at
            elif section == 'device' and text.replace(':', '=').split('=')[0].strip().lower() == 'cik':
                old = i
        if old is not None:
            lines[old] = 'cik = ' + cik
        else:
            lines.insert(at, 'cik = ' + cik)
        beside = path + '.new'
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(fd, 'w', encoding='utf-8', errors='surrogateescape') as f:
            f.write('\n'.join(lines) + '\n')
            f.flush()
            os.fsync(f.fileno())
        os.rename(beside, path)
        folder = os.open(os.path.dirname(path), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
