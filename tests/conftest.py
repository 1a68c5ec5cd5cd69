"""What every test shares."""

from hypothesis import settings

# How long an example takes says nothing on a machine that does other work too.
settings.register_profile("greenchannels", settings.default, deadline=None)
settings.load_profile("greenchannels")
