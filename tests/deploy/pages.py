"""
The fenced blocks of docs/deploy/, and which tests execute them.

A block of commands is marked ``sh``; it belongs to the heading above it. A block whose
first line is a comment with a path is that file. ``text`` is what one sees. A test says
``@executes(PAGE, "Heading", ...)`` and fails unless it has used all that is there.
"""

import functools
import re
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "docs" / "deploy"

#: What the tests of this folder have promised to use: pairs of page and heading.
PROMISED = set()

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_FILE = re.compile(r"# (/?[\w./-]+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: a file, commands, or what one sees."""

    page: str
    heading: str
    number: int
    language: str
    text: str

    @property
    def path(self):
        """The file that it is, ``None`` if it is none."""
        found = _FILE.match(self.text) if self.language != "sh" else None
        return found and found[1]

    @property
    def is_output(self):
        """Whether it is what one sees, which nobody executes."""
        return self.language == "text"

    def __str__(self):
        return f"{self.page}, {self.heading!r}, block {self.number}"


class Page:
    """A page by its file's name."""

    def __init__(self, name):
        self.name = name
        self.text = (FOLDER / name).read_text()
        self.blocks = list(_blocks(name, self.text))

    def under(self, *headings):
        """Return the blocks under some headings that are to be used."""
        found = [b for b in self.blocks if b.heading in headings and not b.is_output]
        for heading in headings:
            assert any(b.heading == heading for b in found), (self.name, heading)
        return found

    def files(self, *headings):
        """Return the files under some headings."""
        return [b for b in self.under(*headings) if b.path]

    def commands(self, *headings):
        """Return the commands under some headings."""
        return [b for b in self.under(*headings) if not b.path]

    def says(self, text):
        """Return a message as the page quotes it, for a test to meet."""
        quoted = re.findall(r"`([^`\n]+)`", self.text)
        assert text in quoted, f"{self.name} does not quote {text!r}: {quoted}"
        return text


def _blocks(name, text):
    """Give all blocks of a page."""
    fences = list(_FENCE.finditer(text))
    headings = [
        h
        for h in _HEADING.finditer(text)
        if not any(f.start() < h.start() < f.end() for f in fences)
    ]
    numbers = {}
    for fence in fences:
        above = [h[1] for h in headings if h.start() < fence.start()]
        heading = above[-1]
        numbers[heading] = numbers.get(heading, 0) + 1
        yield Block(name, heading, numbers[heading], fence[1], fence[2])


def executes(page, *headings):
    """Say that a test uses all blocks under these headings, through its ``site``."""
    promised = page.under(*headings)
    PROMISED.update((page.name, heading) for heading in headings)

    def decorate(test):
        @functools.wraps(test)
        def checked(site, **kwargs):
            test(site=site, **kwargs)
            left = [str(block) for block in promised if block not in site.used]
            assert not left, f"not used: {left}"

        return checked

    return decorate


README = Page("README.md")
RUN = Page("run.md")
GUNICORN = Page("gunicorn.md")
NGINX = Page("nginx.md")
SYSTEMD = Page("systemd.md")
CONTAINER = Page("container.md")
ZERO_DOWNTIME = Page("zero-downtime.md")
PAGES = [README, RUN, GUNICORN, NGINX, SYSTEMD, CONTAINER, ZERO_DOWNTIME]
