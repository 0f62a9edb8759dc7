"""How every command here fails: one sentence on stderr, no traceback, an exit status that scripts can read."""

import sys
from pathlib import Path


class UserError(Exception):
    """A person's mistake or a missing thing; the message is one sentence that names what fixes it.

    `status` is the exit status: 2 for a wrong command line, 1 otherwise, 128 + n after signal n.
    """

    def __init__(self, sentence, status=1):
        super().__init__(sentence)
        self.status = status


def exit_status(main):
    """Runs `main()` and returns the exit status of the process: 0, or that of what went wrong."""
    try:
        main()
    except UserError as error:
        return _say(error, error.status)
    except KeyboardInterrupt:
        return _say("interrupted before there was anything to save", 130)
    except OSError as error:  # a full disk, a missing permission
        name = f"{error.filename}: " if error.filename else ""
        return _say(f"{name}{error.strerror or error}", 1)
    return 0


def _say(message, status):
    sentence = " ".join(str(message).split())
    print(f"{Path(sys.argv[0]).name}: {sentence}", file=sys.stderr)
    return status
