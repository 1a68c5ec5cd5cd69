"""Choices out of a fuzzer's bytes."""


class Source:
    """
    Takes choices off the front of some bytes; when they are used up all is zero.

    What a fuzzer changes in one place should change one choice: so nothing here
    depends on how much is left.
    """

    def __init__(self, data):
        self._data = data
        self._at = 0

    @property
    def more(self):
        """Whether anything is left."""
        return self._at < len(self._data)

    def byte(self):
        """Return the next byte."""
        return self.bytes(1)[0] if self.more else 0

    def number(self, most):
        """Return a number from 0 to ``most``, of two bytes if need be."""
        value = self.byte()
        if most > 255:
            value += self.byte() << 8
        return value % (most + 1)

    def flag(self):
        """Return true or false."""
        return bool(self.byte() & 1)

    def choice(self, options):
        """Return one of ``options``."""
        return options[self.byte() % len(options)]

    def bytes(self, size):
        """Return the next ``size`` bytes, fewer at the end."""
        found = self._data[self._at : self._at + size]
        self._at += len(found)
        return found

    def some(self):
        """Return some bytes: first comes how many."""
        return self.bytes(self.byte())

    def rest(self):
        """Return all that is left."""
        return self.bytes(len(self._data))

    def pieces(self, data):
        """Return ``data`` in pieces, of one byte or of more."""
        sizes = [self.byte() % 40 + 1 for _ in range(3)]
        found, at = [], 0
        while at < len(data):
            size = sizes[len(found) % 3]
            found.append(data[at : at + size])
            at += size
        return found


def text_of(data):
    """Return bytes as text without lone surrogates."""
    return data.decode("utf-8", "replace")
