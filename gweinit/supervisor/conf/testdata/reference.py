"""Reads a JSON list of cases and writes what Supervisor makes of each."""
import fnmatch, io, json, os, shlex, sys
from supervisor import datatypes, options
from supervisor.datatypes import Automatic, Syslog

LEVELS = {v: k for k, v in vars(options.loggers.LevelsByDescription).items()
          if not k.startswith('_')}
RESTART = {False: 0, datatypes.RestartWhenExitUnexpected: 1,
           datatypes.RestartUnconditionally: 2}


def log(p, k):
    g = lambda name: getattr(p, k + name)
    return {'File': '' if g('_logfile') in (None, Automatic) else g('_logfile'),
            'Auto': g('_logfile') is Automatic, 'Syslog': g('_syslog'),
            'MaxBytes': g('_logfile_maxbytes'), 'Backups': g('_logfile_backups'),
            'CaptureMaxBytes': g('_capture_maxbytes'), 'Events': g('_events_enabled')}


def program(p, group):
    return {'Name': p.name, 'Group': group, 'Command': p.command,
            'Directory': p.directory or '', 'Umask': -1 if p.umask is None else p.umask,
            'Priority': p.priority, 'Autostart': p.autostart,
            'Autorestart': RESTART[p.autorestart], 'StartSecs': p.startsecs,
            'StartRetries': p.startretries, 'StopWaitSecs': p.stopwaitsecs,
            'ExitCodes': p.exitcodes, 'StopSignal': int(p.stopsignal),
            'StopAsGroup': p.stopasgroup, 'KillAsGroup': p.killasgroup,
            'Credential': None if p.uid is None else {'UID': p.uid},
            'RedirectStderr': p.redirect_stderr, 'Stdout': log(p, 'stdout'),
            'Stderr': log(p, 'stderr'), 'Environment': p.environment,
            'ServerURL': p.serverurl or ''}


def path(value, default):
    return '' if value == default else options.normalize_path(value)


def config(case):
    o = options.ServerOptions()
    o.configfile = case['text']
    o.process_config(do_usage=False)
    s = o.configroot.supervisord
    groups = [{'Name': g.name, 'Priority': g.priority,
               'Programs': [program(p, g.name) for p in sorted(g.process_configs)]}
              for g in o.process_group_configs]
    sockets = [c for c in s.server_configs if c['section'] == 'unix_http_server']
    socket = None
    if sockets:
        c = sockets[0]
        socket = {'File': c['file'], 'Chmod': c['chmod'], 'UID': c['chown'][0], 'GID': c['chown'][1],
                  'Username': c['username'] or '', 'Password': c['password'] or ''}
    return {'Groups': groups, 'Socket': socket, 'Supervisord': {
        'Logfile': s.logfile if s.logfile == 'syslog' else path(s.logfile, 'supervisord.log'),
        'Pidfile': path(s.pidfile, 'supervisord.pid'),
        'ChildLogDir': '' if s.childlogdir == '/tmp' else s.childlogdir,
        'LogMaxBytes': s.logfile_maxbytes, 'LogBackups': s.logfile_backups,
        'LogLevel': LEVELS[s.loglevel], 'Umask': s.umask, 'Nodaemon': s.nodaemon,
        'Silent': s.silent, 'NoCleanup': s.nocleanup, 'StripANSI': s.strip_ansi,
        'MinFDs': s.minfds, 'MinProcs': s.minprocs, 'Identifier': s.identifier,
        'Directory': s.directory or '', 'Environment': s.environment,
        'Credential': None if s.user is None else {'UID': datatypes.name_to_uid(s.user)}}}


def client(case):
    s = options.ClientOptions().read_config(case['text'])
    return {'ServerURL': s.serverurl, 'Username': s.username or '', 'Password': s.password or '',
            'Prompt': s.prompt, 'HistoryFile': s.history_file or ''}


def ini(case):
    parser = options.UnhosedConfigParser()
    raw = io.BytesIO(case['text'].encode('utf-8', 'surrogatepass'))
    parser.read_file(io.TextIOWrapper(raw, encoding='utf-8'), 'x')
    return {'sections': [[s, dict(parser._sections[s])] for s in parser.sections()],
            'defaults': dict(parser.defaults())}


def plain(x):
    return {Automatic: 'AUTO', Syslog: 'SYSLOG', None: ''}.get(x, x)


KINDS = {
    'config': config, 'client': client, 'ini': ini,
    'split': lambda c: shlex.split(c['text']),
    'environment': lambda c: datatypes.dict_of_key_value_pairs(c['text']),
    'format': lambda c: options.expand(c['text'], c['names'], 'x'),
    'fnmatch': lambda c: fnmatch.fnmatchcase(c['name'], c['text']),
    'integer': lambda c: datatypes.integer(c['text']),
    'octal': lambda c: datatypes.octal_type(c['text']),
    'size': lambda c: datatypes.byte_size(c['text']),
    'boolean': lambda c: datatypes.boolean(c['text']),
    'restart': lambda c: RESTART[datatypes.auto_restart(c['text'])],
    'exitcodes': lambda c: datatypes.list_of_exitcodes(c['text']),
    'signal': lambda c: int(datatypes.signal_number(c['text'])),
    'name': lambda c: datatypes.process_or_group_name(c['text']),
    'owner': lambda c: list(datatypes.colon_separated_user_group(c['text'])),
    'home': lambda c: os.path.expanduser(c['text']),
    'hostname': lambda c: options.platform.node(),
}

results = []
for case in json.load(sys.stdin):
    try:
        results.append({'ok': True, 'value': KINDS[case['kind']](case)})
    except Exception as e:
        results.append({'ok': False, 'error': '%s: %s' % (type(e).__name__, e)})
json.dump(results, sys.stdout)
