"""An app in Python: it writes how much coffee there is to the resource
"coffee_level", as the gateway that it runs on, when it changes, and every five
minutes in any case. See coffee_level.py for where it comes from."""

import sys
import time

from coffee_level import LEVEL, get_coffee_level
from exo.device import Device
from GatewayEngine.utils import gwe_conf

LONGEST = 300  # seconds between two reports


def main(path=LEVEL, pause=2.0):
    gateway = Device('coffee-reporter', gwe_conf())
    while not gateway.activate():
        print('the gateway is not activated yet')
    reported, at = None, 0.0
    while True:
        level = get_coffee_level(path)
        if level is not None and (level != reported or time.monotonic() - at > LONGEST):
            answer = gateway.http_write('coffee_level', level)
            print('coffee_level={}: {}'.format(level, answer))
            if answer.success:
                reported, at = level, time.monotonic()
        time.sleep(float(pause))


if __name__ == '__main__':
    main(*sys.argv[1:])
