"""
The command: ``greenchannels``, or ``python -m greenchannels``.

The standard library is patched in the first lines, before anything else is
imported: what is imported earlier keeps its blocking sockets and native locks.
"""

from gevent import monkey

monkey.patch_all()

from .cli.main import main  # noqa: E402

if __name__ == "__main__":
    main()
