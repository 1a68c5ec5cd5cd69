"""What every test shares."""

import signal

from hypothesis import settings

# How long an example takes says nothing on a machine that does other work too.
settings.register_profile("greenchannels", settings.default, deadline=None)
settings.load_profile("greenchannels")

# What nohup ignores, or a shell that runs this in the background, would be ignored by
# the programs that the tests start, too.
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
