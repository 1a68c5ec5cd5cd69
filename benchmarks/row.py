"""A row of the table: a load, who it is put on, a figure and its limits."""

from dataclasses import dataclass, field

from .contestants import WITH_SOCKETS, Variant

#: Figures whose limits are amounts of their own, not ratios to a yardstick.
AMOUNTS = ("rss_bytes", "max_us", "growth_bytes", "seconds", "wall_us")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: a load, a figure, and how high the figure may be."""

    #: The command that runs it; ``__main__`` has the list.
    command: str
    #: As it stands in the table.
    name: str
    #: The path that is asked for.
    path: str
    #: Options of the load generator, without the dashes; ``True`` is a flag. The
    #: mode of ``loadgen`` is the command, unless one stands here.
    load: dict[str, str | int | float | bool]
    #: The most that greenchannels may cost, by the label of the yardstick, whose
    #: figures are 1.00: a ratio to it, or an amount. ``None`` is no limit, an empty
    #: label no yardstick.
    limits: dict[str, float | None]
    #: Whether a limit is how far the figure may be above the yardstick's; else how
    #: often it may contain it.
    differs: bool = False
    #: The field of the load generator's report that is compared.
    figure: str = "cpu_us"
    #: What the figures are, in the table's words.
    unit: str = "us a message"
    #: A field of the report that stands beside the figure, for orientation.
    beside: str = ""
    #: Who runs the load: loadgen, wrk, upload, storm, sends or outage.
    generator: str = "loadgen"
    #: The labels of the servers that run, beside greenchannels.
    servers: tuple[str, ...] = WITH_SOCKETS
    #: Which app the servers have; empty for the sockets'. Without a module before
    #: it, one over HTTP.
    app: str = ""
    #: Whether the servers serve over TLS.
    tls: bool = False
    #: Further options of ``greenchannels run``.
    options: tuple[str, ...] = ()
    #: Loads that greenchannels is compared under; the first is the yardstick, if the
    #: limits name it. Other servers have the row's.
    variants: tuple[Variant, ...] = ()
    #: Options of the load that ``--quick`` changes in a way of their own.
    quick: dict[str, int | float] = field(default_factory=dict)

    @property
    def absolute(self):
        """Say whether the limits are amounts of their own, not ratios."""
        return self.figure in AMOUNTS or "" in self.limits

    def compare(self, value, base):
        """Return how a figure is to the yardstick's in the same round."""
        return value - base if self.differs else value / base

    def judge(self, limit, value):
        """Say how a figure or ratio is to a limit; a rate has to reach it."""
        if self.figure == "rate":
            return "ok" if value >= limit else "under"
        return "ok" if value <= limit else "over"

    def entrants(self, contestants):
        """Return who runs in this row, and with what on the command line."""
        found = []
        for each in (self.ready(one) for one in contestants if self.admits(one)):
            variants = self.variants if each.ours else ()
            found += [each.under(one) for one in variants] or [each]
        return found

    def admits(self, contestant):
        """Say whether a server runs in this row."""
        return contestant.ours or contestant.label in self.servers

    def ready(self, contestant):
        """Return a server with what this row needs on its command line."""
        if self.app:
            contestant = contestant.serving(self.app)
        if self.tls:
            contestant = contestant.over_tls()
        return contestant.with_options(self.options) if contestant.ours else contestant
