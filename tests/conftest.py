"""What every test shares."""

import signal

from hypothesis import settings

# How long an example takes says nothing on a machine that does other work too.
settings.register_profile("greenchannels", settings.default, deadline=None)
settings.load_profile("greenchannels")

# Under nohup the programs that the tests start would inherit that it is ignored.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
