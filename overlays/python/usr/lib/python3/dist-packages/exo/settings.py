"""The gateway's own settings: whose server, which certificates, which credential."""

import configparser
import os

DIR = '/data/gwe'
GATEWAY_FILE = 'Gateway.cfg'
ENGINE_FILE = 'Engine.config'


def root():
    """The folder that all of a gateway's files are below, '' on the gateway."""
    return os.environ.get('GWE_ROOT', '').rstrip('/')


def path(name):
    """Where a file of the gateway's settings is."""
    return root() + DIR + '/' + name


def read(file):
    """Returns the sections of an INI file as dictionaries, {} if there is no such
    file. Its writer may have left out [device], and written '' for nothing."""
    try:
        with open(file, encoding='utf-8', errors='replace') as f:
            text = f.read()
    except FileNotFoundError:
        return {}
    for head in ('', '[device]\n'):
        parser = configparser.RawConfigParser(allow_no_value=True, strict=False)
        try:
            parser.read_string(head + text)
        except configparser.MissingSectionHeaderError:
            continue
        except configparser.ParsingError:
            pass  # what could be read is there
        return {s: {k: (v or '').strip('\'"') for k, v in parser.items(s)} for s in parser.sections()}
    return {}


def exosite():
    """Returns how the gateway reaches Exosite: host, ca, certificate and key, as
    far as they are set. The paths are where the files are."""
    found = {k: v for k, v in read(path(ENGINE_FILE)).get('exosite', {}).items() if v}
    for key in ('ca', 'certificate', 'key'):
        if key in found:
            found[key] = root() + found[key]
    return found


def device():
    """Returns [device] of Gateway.cfg: cik, vendor, model, uuid, iface."""
    return read(path(GATEWAY_FILE)).get('device', {})
