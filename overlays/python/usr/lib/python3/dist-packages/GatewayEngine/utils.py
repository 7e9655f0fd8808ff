"""Where the gateway's own settings are."""

from exo import settings


def gwe_conf():
    """The path of Gateway.cfg, which exo.device.Device takes."""
    return settings.path(settings.GATEWAY_FILE)


def gwe_cik():
    """The gateway's credential, '' before it is activated."""
    return settings.device().get('cik', '')
