"""Client of Exosite's HTTP Device API, with the names of Gateway Engine's own.

    from exo.device import Device
    from GatewayEngine.utils import gwe_conf

    gateway = Device('coffee-v1', gwe_conf())
    answer = gateway.http_write('coffee_level', 80)
    if not answer.success:
        print(answer)

exo.api.ExositeAPI is given its credential, exo.device.Device has it in a file.
"""

__version__ = '2.0'
