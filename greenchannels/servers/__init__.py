"""One file a protocol: joins wire, net and an application."""
