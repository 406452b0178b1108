"""Says in one line what is wrong with a Python, before pip meets it in a compiler's error. Runs on any Python 3."""

import sys


def main(locked_version, lock):
    version = "%d.%d" % sys.version_info[:2]  # noqa: UP031 - this file must also be read by old ones
    remedy = "Name another: make PYTHON=/path/to/python" + locked_version + " ..."
    if sys.version_info < (3, 11):  # noqa: UP036 - that it may be older is the point
        return "tinyengram needs Python 3.11 or later; %s is %s. %s" % (sys.executable, version, remedy)  # noqa: UP031
    if lock and version != locked_version:
        return (
            "%s was made for Python %s; %s is %s. %s, or go without the locked versions: make LOCK= ..."  # noqa: UP031
            % (lock, locked_version, sys.executable, version, remedy)
        )
    return None


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
