"""How much coffee there is, as a coffee maker's driver writes it into a file."""

LEVEL = '/data/coffee/level'


def get_coffee_level(path=LEVEL):
    """Returns the level, in percent; None while nobody has measured it."""
    try:
        with open(path) as f:
            return max(0, min(100, int(f.read(16))))
    except (OSError, ValueError):
        return None
